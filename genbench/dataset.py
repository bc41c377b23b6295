"""A data set: its space, its three splits, and its true density where that is known."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Space:
    """The space of the data: arrays of `shape`, of reals (`levels` None) or of the integers 0..`levels`-1.

    Images are (channels, height, width), vectors (D,).
    """

    shape: tuple[int, ...]
    levels: int | None = None

    @property
    def dims(self) -> int:
        """D, the number of true dimensions."""
        return math.prod(self.shape)

    @property
    def is_image(self) -> bool:
        """Whether a point is (channels, height, width)."""
        return len(self.shape) == 3

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of samples: float32 for reals, uint8 for integers (int64 above 256 levels)."""
        if self.levels is None:
            return torch.float32
        return torch.uint8 if self.levels <= 256 else torch.int64

    def to_levels(self, x: Tensor) -> Tensor:
        """Return float x (...) rounded to the nearest level, in `dtype`; reals are returned unchanged."""
        return x if self.levels is None else x.round().clamp(0, self.levels - 1).to(self.dtype)

    @property
    def eval_batch_size(self) -> int:
        """How many points are evaluated in one call: few enough for memory, many enough for speed."""
        return max(512, 4096 // self.dims)


class Modes(NamedTuple):
    """A mixture of well separated N(centers[k], sigma^2 I) of equal weight; centers (K, *shape)."""

    centers: Tensor
    sigma: float


class LabelDecoder(NamedTuple):
    """How to read a picture and its label from points that hold both.

    Attributes:
        space: of the pictures.
        picture: points (N, *shape) -> pictures (N, *space.shape).
        label: points (N, *shape) -> labels (N,) int64, the nearest ones, and whether they are exact, (N,) bool.
    """

    space: Space
    picture: Callable[[Tensor], Tensor]
    label: Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Dataset:
    """Three splits (N, *space.shape), float32 for reals and uint8 (int64 above 256 levels) for integers.

    Attributes:
        labels: (train, validation, test), each (N,) int64, or None.
        log_prob: the true log-density, x (B, *shape) -> (B,) nats, where it is known.
        entropy: of the truth, in nats, where it is known.
        bernoulli_probs: of the shape of train, in [0, 1]: pixel probabilities from which every batch is drawn again
            (dynamic binarization); train is one draw.
        modes: of a true density that is such a mixture.
        label_decoder: reads picture and label from points that hold both.
    """

    space: Space
    train: Tensor
    validation: Tensor
    test: Tensor
    labels: tuple[Tensor, Tensor, Tensor] | None = None
    log_prob: Callable[[Tensor], Tensor] | None = None
    entropy: float | None = None
    bernoulli_probs: Tensor | None = None
    modes: Modes | None = None
    label_decoder: LabelDecoder | None = None

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of all that is trained on and measured, labels included, as hexadecimal digits."""
        digest = hashlib.sha256()
        probs = () if self.bernoulli_probs is None else (self.bernoulli_probs,)
        for split in (self.train, self.validation, self.test, *probs, *(self.labels or ())):
            digest.update(f"{split.dtype}{tuple(split.shape)}".encode())
            digest.update(split.contiguous().numpy().tobytes())
        return digest.hexdigest()
