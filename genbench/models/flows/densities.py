"""Base densities of flows, of one real variable."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus


class Base(NamedTuple):
    """A density of one real variable, that of each dimension independently.

    Attributes:
        log_prob: log p(z) in nats, as z.
        sample: shape -> samples of that shape.
    """

    log_prob: Callable[[Tensor], Tensor]
    sample: Callable[[tuple[int, ...]], Tensor]


def _beta55(shape: tuple[int, ...]) -> Tensor:
    """Return samples of Beta(5, 5): the median of nine uniform variables."""
    return torch.rand(*shape, 9).median(-1).values


BaseName = Literal["normal", "logistic", "uniform", "beta"]

BASES: dict[BaseName, Base] = {
    "normal": Base(lambda z: -0.5 * (z * z + math.log(2 * math.pi)), torch.randn),
    "logistic": Base(lambda z: -softplus(z) - softplus(-z), lambda shape: torch.rand(shape).logit(1e-7)),
    "uniform": Base(lambda z: torch.zeros_like(z), torch.rand),
    "beta": Base(lambda z: math.log(630) + 4 * (z.log() + torch.log1p(-z)), _beta55),
}
