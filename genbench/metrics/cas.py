"""Classification accuracy score: whether samples with labels teach a classifier what the data teach it."""

from __future__ import annotations

from torch import Tensor

from genbench.dataset import Reading
from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.metrics import classifier
from genbench.metrics.classifier import Classifier
from genbench.metrics.features import pixels
from genbench.metrics.samples import beside, grid, png
from genbench.metrics.shares import share

__all__ = ["cas"]


def measure(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return how many real pictures a classifier gets right that has seen samples only; for data that can be read.

    Classification Accuracy Score for Conditional Generative Models (2019), section 3. A model of pictures with their
    names samples both: a sample's letters are its label. There are as many samples as training points. Those whose
    letters are no name teach nothing: they are left out, and a model that spells badly teaches with fewer. Where none
    is left there is no `cas`.

    - cas: accuracy on the test split of the classifier of `fidelity`, trained on samples.
    - cas_real: the same, trained on the training split: what samples that are as good as data would get.
    - cas_unreadable: the share of samples that are left out.

    Picture: labelled.png, samples left, training points right, those of a label in a row.
    """
    data, reading = evaluation.dataset, evaluation.dataset.reading
    if reading is None or not evaluation.model.generative:
        return {}
    samples = evaluation.sampled(len(data.train))
    readable = reading.label(samples) >= 0
    impl = f"cas 1, {len(samples)} samples and as many training points"
    taught, (pictures, labels) = samples[readable], read(data.train, reading)
    classes = int(labels.max()) + 1
    real = classifier.classifier(pictures, labels)
    found = {
        "cas_real": share(right(real, data.test, reading), impl, better=None),
        "cas_unreadable": share(~readable, impl, better="lower"),
    }
    if len(taught):
        net = classifier.fitted(*read(taught, reading), classes)
        found["cas"] = share(right(net, data.test, reading), impl)
    tables = (grid(rows(x, reading, classes), reading.space, classes) for x in (taught, data.train))
    evaluation.files["labelled.png"] = png(beside(*tables))
    return found


def read(x: Tensor, reading: Reading) -> tuple[Tensor, Tensor]:
    """Return the pictures (N, C, H, W) uint8 and the labels (N,) of points x (N, *shape)."""
    return pixels(reading.picture(x), reading.space), reading.label(x)


def right(net: Classifier, x: Tensor, reading: Reading) -> Tensor:
    """Return whether `net` puts the picture of each point x (N, *shape) where its label says, (N,)."""
    pictures, labels = read(x, reading)
    said: Tensor = net(pictures)[1].argmax(1)
    return said == labels


def rows(x: Tensor, reading: Reading, side: int) -> Tensor:
    """Return the first `side` pictures of each label below `side`, (side^2, C, H, W); blank where there are fewer."""
    pictures, labels = reading.picture(x), reading.label(x)
    tiles = pictures.new_zeros(side, side, *reading.space.shape)
    for label in range(side):
        first = pictures[labels == label][:side]
        tiles[label, : len(first)] = first
    return tiles.flatten(0, 1)


cas = Metric(measure)
