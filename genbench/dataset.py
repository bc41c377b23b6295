"""What data is: its space, its three splits, and the truth about it where that is known."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class Space:
    """Where data lives: arrays of `shape`, of reals (`levels` None) or of the integers 0..`levels`-1.

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
    def at_once(self) -> int:
        """How many points a model is asked about in one call: few enough to fit, and worth its while."""
        return max(512, 4096 // self.dims)


class Modes(NamedTuple):
    """An even mixture of N(centers[k], sigma^2 I) that lie apart; centers (K, *shape)."""

    centers: Tensor
    sigma: float


class Reading(NamedTuple):
    """How to read points that are a picture and the name of what it shows.

    Attributes:
        space: of the pictures.
        picture: points (N, *shape) -> pictures (N, *space.shape).
        label: points (N, *shape) -> labels (N,) int64 whose names are nearest to theirs, and whether they are these
            names, (N,) bool.
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
        means: as train, in [0, 1], where a point of `train` is one draw of independent coins of these means; batches
            are then drawn anew each time (stochastic binarisation).
        modes: where the truth is such a mixture.
        reading: where points are pictures and names.
    """

    space: Space
    train: Tensor
    validation: Tensor
    test: Tensor
    labels: tuple[Tensor, Tensor, Tensor] | None = None
    log_prob: Callable[[Tensor], Tensor] | None = None
    entropy: float | None = None
    means: Tensor | None = None
    modes: Modes | None = None
    reading: Reading | None = None

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of all that is trained on and measured, labels included, as hexadecimal digits."""
        digest = hashlib.sha256()
        means = () if self.means is None else (self.means,)
        for split in (self.train, self.validation, self.test, *means, *(self.labels or ())):
            digest.update(f"{split.dtype}{tuple(split.shape)}".encode())
            digest.update(split.contiguous().numpy().tobytes())
        return digest.hexdigest()
