"""The image data sets of torchvision, in the folder named by GENBENCH_DATA (default: data).

Missing files are downloaded if there is a network, and verified by the SHA-256 below. The test split is the official
one. The validation split is a fixed random part of the official training split; CelebA has an official one.
x (N, C, H, W) uint8 in 256 levels.
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
Urls = Callable[[Any], dict[str, list[str]]]  # class in torchvision.datasets -> URLs of each file under the root


@dataclass(frozen=True)
class ImageSource:
    """Where an image data set is stored and how it is split; calling it returns the data set.

    Attributes:
        name: of the class in torchvision.datasets.
        files: description of the files under the root, for messages.
        patterns: the same files as globs.
        urls: returns the URLs of the archives that torchvision unpacks; `SHA256` has their digests.
        read: returns images and labels of an instance of the class.
        split_argument: name of the class's argument that selects an official split.
        official_splits: its values, for train and test or for train, validation and test.
        holdout_divisor: without an official validation split, 1/holdout_divisor of the training split is used.
    """

    name: str
    files: str
    patterns: tuple[str, ...]
    urls: Urls
    read: Callable[[Any], Images]
    split_argument: str
    official_splits: tuple[bool | str, ...]
    holdout_divisor: int = 10

    def __call__(self) -> Dataset:
        """Return the data set.

        Raises:
            UsageError: files are missing under GENBENCH_DATA and cannot be downloaded.
        """
        return load(self, data_root())

    def fetch(self) -> None:
        """Download missing files.

        Raises:
            UsageError: files are missing and cannot be downloaded.
        """
        for split in self.official_splits:
            open_split(self, data_root(), split)

    def paths(self) -> list[Path]:
        """Return the paths of the files that exist."""
        return [path for pattern in self.patterns for path in data_root().glob(pattern) if path.is_file()]


@functools.lru_cache(maxsize=1)
def load(source: ImageSource, root: Path) -> Dataset:
    """Return the data set of `source` under `root`; the last one stays in memory."""
    splits = [source.read(open_split(source, root, split)) for split in source.official_splits]
    if len(splits) == 2:
        splits[:1] = hold_out(*splits[0], divisor=source.holdout_divisor)
    (train, a), (validation, b), (test, c) = splits
    labels = None if a is None or b is None or c is None else (a, b, c)
    return Dataset(Space(tuple(train.shape[1:]), levels=256), train, validation, test, labels)


def hold_out(x: Tensor, y: Tensor | None, divisor: int) -> list[Images]:
    """Return training and validation images and labels: 1/divisor of a fixed permutation is for validation."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    cut = len(x) - len(x) // divisor
    return [(x[indices], None if y is None else y[indices]) for indices in (order[:cut], order[cut:])]


# -------------------------------------------------------------------------------------------- files and network


def open_split(source: ImageSource, root: Path, split: bool | str) -> Any:
    """Return torchvision's data set of one official split, downloading missing files.

    Raises:
        UsageError: files are missing or damaged and cannot be downloaded.
    """
    from torchvision import datasets

    make = functools.partial(getattr(datasets, source.name), root, **{source.split_argument: split})
    try:
        return make(download=False)
    except Exception as error:  # missing or damaged: readers raise almost anything on damaged files
        problem = _one_line(error)
    try:
        with downloading(root):
            for file, urls in source.urls(getattr(datasets, source.name)).items():
                download(root / file, urls, SHA256[file])
                if (unpacked := root / file.removesuffix(".gz")) != root / file and unpacked.exists():
                    set_aside(unpacked, f"a file of {source.name} cannot be read ({problem})")
            return make(download=True)  # unpacks the archives
    except Exception as error:
        raise UsageError(
            f"{source.name} is missing or damaged in {root} and could not be downloaded ({_one_line(error)}); "
            f"put {source.files} there, or set GENBENCH_DATA to another folder"
        ) from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


# ------------------------------------------------------------------------------------------------ the data sets


def _read_gray(data: Any) -> Images:
    return data.data[:, None], data.targets.long()


def _read_cifar(data: Any) -> Images:
    return torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(data.targets)


def _read_svhn(data: Any) -> Images:
    return torch.from_numpy(data.data).contiguous(), torch.from_numpy(data.labels).long()


def _read_faces(data: Any) -> Images:
    """Return the central 148x148 of the 178x218 pixels of each face, resized to 64x64 as is customary; no labels."""
    from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

    x = torch.empty(len(data), 3, 64, 64, dtype=torch.uint8)
    for i in range(len(data)):
        x[i] = pil_to_tensor(resize(center_crop(data[i][0], 148), 64))
    return x, None


def _idx_urls(dataset: Any) -> dict[str, list[str]]:
    files = [file for file, _ in dataset.resources]
    return {f"{dataset.__name__}/raw/{file}": [f"{mirror}{file}" for mirror in dataset.mirrors] for file in files}


def _cifar_urls(dataset: Any) -> dict[str, list[str]]:
    return {dataset.filename: [dataset.url]}


def _svhn_urls(dataset: Any) -> dict[str, list[str]]:
    return {file: [url] for url, file, _ in (dataset.split_list[split] for split in ("train", "test"))}


def _faces_urls(dataset: Any) -> dict[str, list[str]]:
    return {f"celeba/{file}": [GOOGLE_DRIVE.format(id)] for id, _, file in dataset.file_list}


IDX_FILES = "{train,t10k}-{images-idx3,labels-idx1}-ubyte"
GOOGLE_DRIVE = "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"


def _idx_source(name: str) -> ImageSource:
    """Return the source of a data set in the file format of MNIST."""
    files, patterns = f"{name}/raw/{IDX_FILES}", (f"{name}/raw/*-ubyte",)
    return ImageSource(name, files, patterns, _idx_urls, _read_gray, "train", (True, False), holdout_divisor=6)


MNIST = _idx_source("MNIST")
FashionMNIST = _idx_source("FashionMNIST")
KMNIST = _idx_source("KMNIST")
CIFAR10 = ImageSource(
    name="CIFAR10",
    files="cifar-10-batches-py/",
    patterns=("cifar-10-batches-py/*",),
    urls=_cifar_urls,
    read=_read_cifar,
    split_argument="train",
    official_splits=(True, False),
)
SVHN = ImageSource(
    name="SVHN",
    files="{train,test}_32x32.mat",
    patterns=("train_32x32.mat", "test_32x32.mat"),
    urls=_svhn_urls,
    read=_read_svhn,
    split_argument="split",
    official_splits=("train", "test"),
)
CelebA = ImageSource(
    name="CelebA",
    files="celeba/img_align_celeba/ and celeba/*.txt",
    patterns=("celeba/*.txt", "celeba/img_align_celeba/*"),
    urls=_faces_urls,
    read=_read_faces,
    split_argument="split",
    official_splits=("train", "valid", "test"),
)

SHA256 = {  # of every downloaded file, from torchvision.prototype.datasets (2022)
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


def BinaryMNIST() -> Dataset:  # noqa: N802, like MNIST
    """The digits of MNIST in black and white with dynamic binarization: batches sample pixels from their intensity.

    Importance Weighted Autoencoders (2016), section 5. Validation and test are one fixed sample. Raises UsageError as
    MNIST does.
    """
    gray, generator = MNIST(), torch.Generator().manual_seed(0)
    probs = [split.float() / 255 for split in (gray.train, gray.validation, gray.test)]
    train, validation, test = (torch.bernoulli(p, generator=generator).to(torch.uint8) for p in probs)
    space = Space(gray.space.shape, levels=2)
    return Dataset(space, train, validation, test, labels=gray.labels, bernoulli_probs=probs[0])


BinaryMNIST.fetch = MNIST.fetch  # type: ignore[attr-defined]
BinaryMNIST.paths = MNIST.paths  # type: ignore[attr-defined]
