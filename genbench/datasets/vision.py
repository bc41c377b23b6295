"""The image sets of torchvision, under the folder that GENBENCH_DATA names (default: data).

What is not there is downloaded, where there is a network. The test split is the official one; the validation split
is a fixed random part of the official training split, but for CelebA, which has one of its own. x (N, C, H, W) uint8
in 256 levels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genbench.dataset import Dataset, Space
from genbench.downloads import data_root, downloading
from genbench.run import UsageError

__all__ = ["CIFAR10", "KMNIST", "MNIST", "SVHN", "BinaryMNIST", "CelebA", "FashionMNIST"]

Images = tuple[Tensor, Tensor | None]  # x (N, C, H, W) uint8; labels (N,) int64


@dataclass(frozen=True)
class Source:
    """Where an image set is and how it is split; called, it gives the data set.

    Attributes:
        name: of the class in torchvision.datasets.
        files: what torchvision looks for, under the root.
        read: gives images and labels of an instance of that class.
        argument, parts: what names the official splits: train and test, or train, validation and test.
        one_in: one in so many of the official training split is for validation, where there are two parts.
    """

    name: str
    files: str
    read: Callable[[Any], Images]
    argument: str
    parts: tuple[bool | str, ...]
    one_in: int = 10

    def __call__(self) -> Dataset:
        """Return the data set.

        Raises:
            UsageError: it is not under GENBENCH_DATA and cannot be downloaded.
        """
        return loaded(self, data_root())

    def fetch(self) -> None:
        """Download what is missing.

        Raises:
            UsageError: it is not there and cannot be downloaded.
        """
        for part in self.parts:
            opened(self, data_root(), part)


@functools.lru_cache(maxsize=1)
def loaded(source: Source, root: Path) -> Dataset:
    """Return the data set of `source` under `root`; the latest one is kept in memory."""
    parts = [source.read(opened(source, root, part)) for part in source.parts]
    if len(parts) == 2:
        parts[:1] = held_out(*parts[0], one_in=source.one_in)
    (train, a), (validation, b), (test, c) = parts
    labels = None if a is None or b is None or c is None else (a, b, c)
    return Dataset(Space(tuple(train.shape[1:]), levels=256), train, validation, test, labels)


def held_out(x: Tensor, y: Tensor | None, one_in: int) -> list[Images]:
    """Return images and labels to train and, one in `one_in`, the last of a fixed permutation, to validate."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    cut = len(x) - len(x) // one_in
    return [(x[part], None if y is None else y[part]) for part in (order[:cut], order[cut:])]


# -------------------------------------------------------------------------------------------- files and network


def opened(source: Source, root: Path, part: bool | str) -> Any:
    """Return torchvision's data set of one official split, downloaded if it is missing.

    Raises:
        UsageError: it is neither there nor can it be downloaded.
    """
    from torchvision import datasets

    make = functools.partial(getattr(datasets, source.name), root, **{source.argument: part})
    try:
        return make(download=False)
    except (RuntimeError, ValueError):  # not there, or not whole
        pass
    try:
        with downloading(root):
            return make(download=True)
    except (OSError, RuntimeError, ValueError, ImportError, HTTPException) as error:
        why = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{source.name} is not whole in {root} and could not be downloaded ({why}); "
            f"put {source.files} there, or name another folder in GENBENCH_DATA"
        ) from None


# ---------------------------------------------------------------------------------------------------- the sets


def _grey(data: Any) -> Images:
    return data.data[:, None], data.targets.long()


def _cifar(data: Any) -> Images:
    return torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(data.targets)


def _svhn(data: Any) -> Images:
    return torch.from_numpy(data.data).contiguous(), torch.from_numpy(data.labels).long()


def _faces(data: Any) -> Images:
    """Return the middle 148x148 of the 178x218 of each face, at 64x64, the field's custom; no labels."""
    from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

    x = torch.empty(len(data), 3, 64, 64, dtype=torch.uint8)
    for i in range(len(data)):
        x[i] = pil_to_tensor(resize(center_crop(data[i][0], 148), 64))
    return x, None


IDX = "{train,t10k}-{images-idx3,labels-idx1}-ubyte"
MNIST = Source("MNIST", f"MNIST/raw/{IDX}", _grey, "train", (True, False), one_in=6)
FashionMNIST = Source("FashionMNIST", f"FashionMNIST/raw/{IDX}", _grey, "train", (True, False), one_in=6)
KMNIST = Source("KMNIST", f"KMNIST/raw/{IDX}", _grey, "train", (True, False), one_in=6)
CIFAR10 = Source("CIFAR10", "cifar-10-batches-py/", _cifar, "train", (True, False))
SVHN = Source("SVHN", "{train,test}_32x32.mat", _svhn, "split", ("train", "test"))
CelebA = Source("CelebA", "celeba/img_align_celeba/ and celeba/*.txt", _faces, "split", ("train", "valid", "test"))


def BinaryMNIST() -> Dataset:  # noqa: N802, beside MNIST
    """The digits of MNIST in black and white: each pixel a coin of its intensity, tossed anew in every batch.

    Importance Weighted Autoencoders (2016), section 5. Validation and test are one fixed draw. Raises UsageError as
    MNIST does.
    """
    grey, generator = MNIST(), torch.Generator().manual_seed(0)
    means = [split.float() / 255 for split in (grey.train, grey.validation, grey.test)]
    train, validation, test = (torch.bernoulli(m, generator=generator).to(torch.uint8) for m in means)
    return Dataset(Space(grey.space.shape, levels=2), train, validation, test, labels=grey.labels, means=means[0])
