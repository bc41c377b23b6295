"""A classifier of small gray images with labels, whose features compare samples with data in `fidelity` and `cas`.

It is trained once per data set, on the training split, and saved in the folder ``feature-nets`` of GENBENCH_DATA. It
does not depend on the run: it has its own seed and is trained in float64 on the CPU, and its weights are rounded to
float16, so that machines that differ in the last digits arrive at the same bits.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from genbench.datasets.downloads import FEATURE_NETS, data_root, folder_lock
from genbench.notices import notify
from genbench.records.artifacts import Work

STEPS, BATCH, RATE, DROPOUT = 400, 128, 3e-3, 0.5
CHANNELS, FEATURES, SIDE = (16, 32), 64, 4  # of the first layer and the others; features; final side


class Classifier(nn.Module):
    """Convolutions with stride 2 until the side of the image is at most 4, then ReLU features, then logits."""

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        """Take images of `shape`, (C, H, W)."""
        super().__init__()
        halvings = math.ceil(math.log2(max(shape[1:]) / SIDE))
        channels = [shape[0], CHANNELS[0], *[CHANNELS[1]] * halvings]
        strides = [1, *[2] * halvings]
        layers: list[nn.Module] = []
        for (a, b), stride in zip(itertools.pairwise(channels), strides, strict=True):
            layers += [nn.Conv2d(a, b, 3, stride, padding=1), nn.ReLU()]
        size = nn.Sequential(*layers, nn.Flatten())(torch.zeros(1, *shape)).shape[1]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(DROPOUT), nn.Linear(size, FEATURES), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(FEATURES, classes))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, 64) and logits (B, classes), x (B, C, H, W) uint8."""
        h = self.body(x.to(next(self.parameters()).dtype) / 127.5 - 1)
        return h, self.head(h)


def fit(x: Tensor, y: Tensor, classes: int) -> Classifier:
    """Return a classifier trained on x (N, C, H, W) uint8 with labels y (N,), its weights rounded to float16."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(0)
        net = Classifier(x.shape[1:], classes).double()
        for layer in (module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)):
            layer.reset_parameters()  # in float64, too
        adam = torch.optim.Adam(net.parameters(), RATE)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, STEPS)
        for _ in range(STEPS):
            rows = torch.randint(len(x), (BATCH,))
            adam.zero_grad()
            cross_entropy(net(x[rows])[1], y[rows]).backward()
            adam.step()
            cosine.step()
    return net.half().float().requires_grad_(False).eval()


def count_correct(net: Classifier, x: Tensor, y: Tensor) -> int:
    """Return how many of the images x (N, C, H, W) uint8 `net` puts into their class y (N,)."""
    predicted = torch.cat([net(part)[1].argmax(1) for part in x.split(512)])
    return int((predicted == y).sum())


def digest(net: nn.Module) -> str:
    """Return eight hexadecimal digits of the SHA-256 of the weights."""
    weights = b"".join(w.half().numpy().tobytes() for w in net.state_dict().values())
    return hashlib.sha256(weights).hexdigest()[:8]


def classifier(x: Tensor, y: Tensor) -> Classifier:
    """Return the classifier of images x (N, C, H, W) uint8 with labels y (N,), on the CPU.

    It is loaded from the folder if it is there; otherwise it is trained and saved. If the folder cannot be read or
    written, every run trains it.
    """
    folder, classes = data_root() / FEATURE_NETS, int(y.max()) + 1
    content = (Path(__file__).read_bytes(), repr(x.shape).encode(), x.numpy().tobytes(), y.numpy().tobytes())
    name = f"{hashlib.sha256(b''.join(content)).hexdigest()[:16]}.pt"
    net = None
    try:
        net = load(work := Work(folder), name, x.shape[1:], classes)
        if net is None:
            with folder_lock(folder):  # one process trains it, and the others wait and load it
                net = load(work, name, x.shape[1:], classes) or fit(x, y, classes)
                work.save(name, to_bytes(net))
    except OSError as error:
        notify(f"the classifier of the data is trained in every run, because {folder} cannot be used: {error}")
    return net or fit(x, y, classes)


def load(work: Work, name: str, shape: Sequence[int], classes: int) -> Classifier | None:
    """Return the classifier of images of `shape`, (C, H, W), saved under `name`; None if it is missing or damaged.

    Raises:
        StorageError: the folder cannot be read.
    """
    if (content := work.load(name)) is None:
        return None
    net = Classifier(shape, classes)
    try:
        net.load_state_dict(torch.load(io.BytesIO(content), weights_only=True))
    except (RuntimeError, UnpicklingError, AttributeError, KeyError, TypeError, ValueError) as error:
        work.set_aside(name, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        return None
    return net.requires_grad_(False).eval()


def to_bytes(net: Classifier) -> bytes:
    """Return the weights as the content of a file."""
    file = io.BytesIO()
    torch.save({name: w.half() for name, w in net.state_dict().items()}, file)
    return file.getvalue()
