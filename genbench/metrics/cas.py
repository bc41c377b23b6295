"""Classification accuracy score: whether a classifier trained on labelled samples does as well as one on real data."""

from __future__ import annotations

from torch import Tensor

from genbench.dataset import LabelDecoder
from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.metrics import classifier
from genbench.metrics.classifier import Classifier
from genbench.metrics.estimates import proportion
from genbench.metrics.features import pixels
from genbench.metrics.samples import grid, png, side_by_side

__all__ = ["cas"]


def measure(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return the accuracy on real pictures of a classifier trained on samples; for data with a `label_decoder`.

    Classification Accuracy Score for Conditional Generative Models (2019), section 3. A model of pictures with names
    samples both, and the letters of a sample are its label. There are as many samples as training points. A sample
    whose letters spell no name takes the nearest name as its label, so that misspelling shows in `cas_misspelled`
    alone, and wrong pairs of picture and name show in `cas`.

    - cas: test accuracy of the classifier of `fidelity`, trained on samples.
    - cas_real: the same, trained on the training split: what samples as good as the data would get.
    - cas_misspelled: the proportion of samples whose letters spell no name.

    Picture: labelled.png, samples left and training points right, one label per row.
    """
    data, label_decoder = evaluation.dataset, evaluation.dataset.label_decoder
    if label_decoder is None or not evaluation.model.generative:
        return {}
    samples, real = evaluation.sampled(len(data.train)), data.train
    (pictures, labels), classes = decode(samples, label_decoder), int(label_decoder.label(real)[0].max()) + 1
    net, net_real = classifier.fit(pictures, labels, classes), classifier.classifier(*decode(real, label_decoder))
    tables = (grid(rows(x, label_decoder, classes), label_decoder.space, classes) for x in (samples, real))
    evaluation.files["labelled.png"] = png(side_by_side(*tables))
    impl = f"cas 1, {len(samples)} samples and as many training points"
    return {
        "cas": proportion(is_correct(net, data.test, label_decoder), impl),
        "cas_real": proportion(is_correct(net_real, data.test, label_decoder), impl, better=None),
        "cas_misspelled": proportion(~label_decoder.label(samples)[1], impl, better="lower"),
    }


def decode(x: Tensor, label_decoder: LabelDecoder) -> tuple[Tensor, Tensor]:
    """Return the pictures (N, C, H, W) uint8 and the labels (N,) of points x (N, *shape)."""
    return pixels(label_decoder.picture(x), label_decoder.space), label_decoder.label(x)[0]


def is_correct(net: Classifier, x: Tensor, label_decoder: LabelDecoder) -> Tensor:
    """Return whether `net` classifies the picture of each point x (N, *shape) correctly, (N,)."""
    pictures, labels = decode(x, label_decoder)
    predicted: Tensor = net(pictures)[1].argmax(1)
    return predicted == labels


def rows(x: Tensor, label_decoder: LabelDecoder, side: int) -> Tensor:
    """Return the first `side` pictures of each label below `side`, (side^2, C, H, W); blank if there are fewer."""
    pictures, labels = label_decoder.picture(x), label_decoder.label(x)[0]
    tiles = pictures.new_zeros(side, side, *label_decoder.space.shape)
    for label in range(side):
        first = pictures[labels == label][:side]
        tiles[label, : len(first)] = first
    return tiles.flatten(0, 1)


cas = Metric(measure)
