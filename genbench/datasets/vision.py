"""The image sets of torchvision, under the folder that GENBENCH_DATA names (default: data).

What is missing is downloaded, where there is a network, and read only if it has the SHA-256 below. The test split is
the official one; the validation split is a fixed random part of the official training split, but for CelebA, which has
one of its own. x (N, C, H, W) uint8 in 256 levels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genbench.dataset import Dataset, Space
from genbench.datasets.downloads import data_root, download, downloading
from genbench.errors import UsageError
from genbench.records.artifacts import set_aside

__all__ = ["CIFAR10", "KMNIST", "MNIST", "SVHN", "BinaryMNIST", "CelebA", "FashionMNIST"]

Images = tuple[Tensor, Tensor | None]  # x (N, C, H, W) uint8; labels (N,) int64


Urls = Callable[[Any], dict[str, list[str]]]  # of a class of torchvision.datasets: file under the root -> its URLs


@dataclass(frozen=True)
class Source:
    """Where an image set is and how it is split; called, it gives the data set.

    Attributes:
        name: of the class in torchvision.datasets.
        files: what torchvision looks for, under the root.
        reads: the same, as globs.
        urls: gives the archives that torchvision unpacks; each has a digest in `SHA256`.
        read: gives images and labels of an instance of that class.
        argument, parts: what names the official splits: train and test, or train, validation and test.
        one_in: one in so many of the official training split is for validation, where there are two parts.
    """

    name: str
    files: str
    reads: tuple[str, ...]
    urls: Urls
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

    def paths(self) -> list[Path]:
        """Return the paths of the files that are read, as far as they are there."""
        return [path for pattern in self.reads for path in data_root().glob(pattern) if path.is_file()]


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
    except Exception as error:  # missing, or not whole: there is no end to what readers raise on damaged files
        problem = _line(error)
    try:
        with downloading(root):
            for file, urls in source.urls(getattr(datasets, source.name)).items():
                download(root / file, urls, SHA256[file])
                if (unpacked := root / file.removesuffix(".gz")) != root / file and unpacked.exists():
                    set_aside(unpacked, f"of {source.name} one file cannot be read ({problem})")
            return make(download=True)  # unpacks them
    except Exception as error:
        raise UsageError(
            f"{source.name} is not whole in {root} and could not be downloaded ({_line(error)}); "
            f"put {source.files} there, or name another folder in GENBENCH_DATA"
        ) from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


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


def _idx_urls(kind: Any) -> dict[str, list[str]]:
    return {f"{kind.__name__}/raw/{f}": [f"{mirror}{f}" for mirror in kind.mirrors] for f, _ in kind.resources}


def _cifar_urls(kind: Any) -> dict[str, list[str]]:
    return {kind.filename: [kind.url]}


def _svhn_urls(kind: Any) -> dict[str, list[str]]:
    return {file: [url] for url, file, _ in (kind.split_list[part] for part in ("train", "test"))}


def _faces_urls(kind: Any) -> dict[str, list[str]]:
    return {f"celeba/{file}": [DRIVE.format(id)] for id, _, file in kind.file_list}


IDX = "{train,t10k}-{images-idx3,labels-idx1}-ubyte"
DRIVE = "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"
TRAIN_TEST = ("train", (True, False))
MNIST = Source("MNIST", f"MNIST/raw/{IDX}", ("MNIST/raw/*-ubyte",), _idx_urls, _grey, *TRAIN_TEST, one_in=6)
FashionMNIST = Source(
    "FashionMNIST", f"FashionMNIST/raw/{IDX}", ("FashionMNIST/raw/*-ubyte",), _idx_urls, _grey, *TRAIN_TEST, one_in=6
)
KMNIST = Source("KMNIST", f"KMNIST/raw/{IDX}", ("KMNIST/raw/*-ubyte",), _idx_urls, _grey, *TRAIN_TEST, one_in=6)
CIFAR10 = Source("CIFAR10", "cifar-10-batches-py/", ("cifar-10-batches-py/*",), _cifar_urls, _cifar, *TRAIN_TEST)
SVHN = Source(
    "SVHN",
    "{train,test}_32x32.mat",
    ("train_32x32.mat", "test_32x32.mat"),
    _svhn_urls,
    _svhn,
    "split",
    ("train", "test"),
)
FACES = "celeba/img_align_celeba/ and celeba/*.txt"
CelebA = Source(
    "CelebA",
    FACES,
    ("celeba/*.txt", "celeba/img_align_celeba/*"),
    _faces_urls,
    _faces,
    "split",
    ("train", "valid", "test"),
)

SHA256 = {  # of every file that is downloaded, as torchvision.prototype.datasets has them (2022)
    "MNIST/raw/train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "MNIST/raw/train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "MNIST/raw/t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "MNIST/raw/t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    "FashionMNIST/raw/train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "FashionMNIST/raw/train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "FashionMNIST/raw/t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "FashionMNIST/raw/t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    "KMNIST/raw/train-images-idx3-ubyte.gz": "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
    "KMNIST/raw/train-labels-idx1-ubyte.gz": "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
    "KMNIST/raw/t10k-images-idx3-ubyte.gz": "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
    "KMNIST/raw/t10k-labels-idx1-ubyte.gz": "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
    "cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    "train_32x32.mat": "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
    "test_32x32.mat": "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
    "celeba/img_align_celeba.zip": "46fb89443c578308acf364d7d379fe1b9efb793042c0af734b6112e4fd3a8c74",
    "celeba/list_attr_celeba.txt": "f0e5da289d5ccf75ffe8811132694922b60f2af59256ed362afa03fefba324d0",
    "celeba/identity_CelebA.txt": "c6143857c3e2630ac2da9f782e9c1232e5e59be993a9d44e8a7916c78a6158c0",
    "celeba/list_bbox_celeba.txt": "7487a82e57c4bb956c5445ae2df4a91ffa717e903c5fa22874ede0820c8ec41b",
    "celeba/list_landmarks_align_celeba.txt": "6c02a87569907f6db2ba99019085697596730e8129f67a3d61659f198c48d43b",
    "celeba/list_eval_partition.txt": "fc955bcb3ef8fbdf7d5640d9a8693a8431b5f2ee291a5c1449a1549e7e073fe7",
}


def BinaryMNIST() -> Dataset:  # noqa: N802, beside MNIST
    """The digits of MNIST in black and white: each pixel a coin of its intensity, tossed anew in every batch.

    Importance Weighted Autoencoders (2016), section 5. Validation and test are one fixed draw. Raises UsageError as
    MNIST does.
    """
    grey, generator = MNIST(), torch.Generator().manual_seed(0)
    means = [split.float() / 255 for split in (grey.train, grey.validation, grey.test)]
    train, validation, test = (torch.bernoulli(m, generator=generator).to(torch.uint8) for m in means)
    return Dataset(
        Space(grey.space.shape, levels=2), train, validation, test, labels=grey.labels, bernoulli_probs=means[0]
    )


BinaryMNIST.fetch = MNIST.fetch  # type: ignore[attr-defined]
BinaryMNIST.paths = MNIST.paths  # type: ignore[attr-defined]
