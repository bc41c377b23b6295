"""Feature networks for comparing images, and the conversion of images to their input."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from genbench.dataset import Dataset, Space
from genbench.datasets.downloads import FEATURE_NETS, data_root, download, downloading, has_digest
from genbench.errors import UsageError
from genbench.metrics import classifier

BATCH = 128  # images per forward pass
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"  # of torch-fidelity's weights


@dataclass(frozen=True)
class FeatureNet:
    """A network that computes features and logits of images.

    Attributes:
        name: appended to the names of measurements in brackets, since another network gives other numbers.
        about: a digest of its weights, and its accuracy, for `impl`.
        net: pixels (B, C, H, W) uint8 -> features (B, F), logits (B, classes).
        color: whether it takes three channels; a single channel is then repeated.
    """

    name: str
    about: str
    net: nn.Module
    color: bool = False

    def __call__(self, x: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return features (N, F) and logits (N, classes) of pixels x (N, C, H, W) uint8, float64 on the CPU."""
        self.net.to(device)
        x = x.expand(-1, 3, -1, -1) if self.color else x
        with torch.no_grad():
            parts = [self.net(part.to(device)) for part in x.split(BATCH)]
        features, logits = (torch.cat(values).double().cpu() for values in zip(*parts, strict=True))
        return features, logits


def pixels(x: Tensor, space: Space) -> Tensor:
    """Return integers x (N, C, H, W), 0..K-1, scaled to 0..255 and rounded, as uint8."""
    assert space.levels is not None
    return (x.double() * 255 / (space.levels - 1)).round().to(torch.uint8)


# --------------------------------------------------------------------------------- a classifier of the data set


def in_domain(data: str, dataset: Dataset) -> FeatureNet | None:
    """Return the classifier of the data set called `data`; None unless it has gray images with labels."""
    gray = dataset.space.is_image and dataset.space.shape[0] == 1 and dataset.space.levels
    return trained_classifier(data, dataset) if gray and dataset.labels is not None else None


@functools.lru_cache(maxsize=2)
def trained_classifier(data: str, dataset: Dataset) -> FeatureNet:
    """Return the classifier of `dataset`; `about` says how many test images it classifies correctly."""
    assert dataset.labels is not None
    train, test = (pixels(x, dataset.space) for x in (dataset.train, dataset.test))
    net = classifier.classifier(train, dataset.labels[0])
    name, correct = f"{data.replace(':', '-')}-cnn", classifier.count_correct(net, test, dataset.labels[2])
    return FeatureNet(name, f"{name} {classifier.digest(net)}, right on {correct} of {len(test)}", net)


# ---------------------------------------------------------------------------------------------------- Inception


def inception(data: str, dataset: Dataset) -> FeatureNet | None:
    """Return the Inception-v3 of FID by torch-fidelity; None for data other than images of integers.

    GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium (2017). Images are resized to
    299x299 bilinearly, as in TensorFlow 1; hence the name of the net.

    Raises:
        UsageError: its weights are missing and cannot be downloaded.
    """
    return inception_net(inception_weights()) if dataset.space.is_image and dataset.space.levels else None


@functools.lru_cache(maxsize=1)
def inception_net(path: Path) -> FeatureNet:
    """Return Inception-v3 with the weights in `path`.

    Raises:
        UsageError: they are not the weights that torch-fidelity published.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    if not has_digest(path, INCEPTION_SHA256):
        raise UsageError(f"{path} is damaged: it is not the file whose SHA-256 is {INCEPTION_SHA256}")

    net = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=path)
    return FeatureNet("inception-v3-bilinear", f"Inception-v3 {INCEPTION_SHA256[:8]}", net, color=True)


def inception_weights() -> Path:
    """Return the path of the weights of Inception-v3; they are downloaded if they are missing or damaged.

    Raises:
        UsageError: the download fails.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = data_root() / FEATURE_NETS / PurePosixPath(urlsplit(URL_INCEPTION_V3).path).name
    try:
        if not has_digest(path, INCEPTION_SHA256):
            with downloading(path.parent):
                download(path, [URL_INCEPTION_V3], INCEPTION_SHA256)
    except (OSError, RuntimeError, HTTPException) as error:
        why = " ".join(str(error).split())[:200]
        raise UsageError(
            f"the weights of Inception-v3 are not in {path.parent} and could not be downloaded ({why}); put {path.name}"
            f" of torch-fidelity in that folder, or set GENBENCH_DATA to another one"
        ) from None
    return path
