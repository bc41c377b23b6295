"""Classification accuracy score: whether samples with labels teach a classifier what the data teach it."""

from __future__ import annotations

from torch import Tensor

from genbench.dataset import LabelDecoder
from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.metrics import classifier
from genbench.metrics.classifier import Classifier
from genbench.metrics.estimates import proportion
from genbench.metrics.features import pixels
from genbench.metrics.samples import beside, grid, png

__all__ = ["cas"]


def measure(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return how many real pictures a classifier gets right that has seen samples only; for data that can be read.

    Classification Accuracy Score for Conditional Generative Models (2019), section 3. A model of pictures with their
    names samples both: a sample's letters are its label. There are as many samples as training points. A sample whose
    letters are no name counts for the nearest: a model that only misspells is told so by `cas_misspelled`, and one that
    does not know which name goes with which picture by `cas`.

    - cas: accuracy on the test split of the classifier of `fidelity`, trained on samples.
    - cas_real: the same, trained on the training split: what samples that are as good as data would get.
    - cas_misspelled: the share of samples whose letters are no name.

    Picture: labelled.png, samples left, training points right, those of a label in a row.
    """
    data, label_decoder = evaluation.dataset, evaluation.dataset.label_decoder
    if label_decoder is None or not evaluation.model.generative:
        return {}
    samples, real = evaluation.sampled(len(data.train)), data.train
    (pictures, labels), classes = read(samples, label_decoder), int(label_decoder.label(real)[0].max()) + 1
    net, net_real = classifier.fitted(pictures, labels, classes), classifier.classifier(*read(real, label_decoder))
    tables = (grid(rows(x, label_decoder, classes), label_decoder.space, classes) for x in (samples, real))
    evaluation.files["labelled.png"] = png(beside(*tables))
    impl = f"cas 1, {len(samples)} samples and as many training points"
    return {
        "cas": proportion(right(net, data.test, label_decoder), impl),
        "cas_real": proportion(right(net_real, data.test, label_decoder), impl, better=None),
        "cas_misspelled": proportion(~label_decoder.label(samples)[1], impl, better="lower"),
    }


def read(x: Tensor, label_decoder: LabelDecoder) -> tuple[Tensor, Tensor]:
    """Return the pictures (N, C, H, W) uint8 and the labels (N,) of points x (N, *shape)."""
    return pixels(label_decoder.picture(x), label_decoder.space), label_decoder.label(x)[0]


def right(net: Classifier, x: Tensor, label_decoder: LabelDecoder) -> Tensor:
    """Return whether `net` puts the picture of each point x (N, *shape) where its label says, (N,)."""
    pictures, labels = read(x, label_decoder)
    said: Tensor = net(pictures)[1].argmax(1)
    return said == labels


def rows(x: Tensor, label_decoder: LabelDecoder, side: int) -> Tensor:
    """Return the first `side` pictures of each label below `side`, (side^2, C, H, W); blank where there are fewer."""
    pictures, labels = label_decoder.picture(x), label_decoder.label(x)[0]
    tiles = pictures.new_zeros(side, side, *label_decoder.space.shape)
    for label in range(side):
        first = pictures[labels == label][:side]
        tiles[label, : len(first)] = first
    return tiles.flatten(0, 1)


cas = Metric(measure)
