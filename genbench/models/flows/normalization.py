"""Layers that normalize each channel (of an image) or dimension (of a vector) to zero mean and unit variance."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from genbench.dataset import Space
from genbench.models.flows.bijection import Bijection, Shape
from genbench.nets.first_batch import FirstBatchInit
from genbench.standardization import Standardization


def per_channel(v: Tensor, x: Tensor) -> Tensor:
    """Return v (C,) in a shape that broadcasts over the channels of x (B, C, ...)."""
    return v if x.ndim == 2 else v.view(-1, *[1] * (x.ndim - 2))


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel, x (B, C, ...) -> (C,), (C,)."""
    var, mean = torch.var_mean(x, dim=[i for i in range(x.ndim) if i != 1], correction=0)
    return mean, var


class Standardize(Bijection):
    """`Standardization` as a bijection: y = (x - shift) / scale, log-determinant -sum log scale."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.standardization = Standardization(space)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.standardization(x), -self.standardization.log_scale

    def inverse(self, y: Tensor) -> Tensor:
        return self.standardization.inverse(y)


class ActNorm(FirstBatchInit, Bijection):
    """y = e^s x + t for each channel, zero mean and unit variance on the first batch (Glow, 2018, section 3.1).

    With `learned` False, s and t stay as the first batch sets them.
    """

    s: Tensor
    t: Tensor

    def __init__(self, shape: Shape, *, learned: bool = True) -> None:
        super().__init__()
        self.positions = math.prod(shape[1:])
        for name in ("s", "t"):
            zeros = torch.zeros(shape[0])
            self.register_parameter(name, nn.Parameter(zeros)) if learned else self.register_buffer(name, zeros)

    def initialize(self, x: Tensor) -> None:
        mean, var = channel_moments(x)
        self.s.copy_(-0.5 * (var + 1e-6).log())
        self.t.copy_(-mean * self.s.exp())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.initialize_once(x)
        y = torch.addcmul(per_channel(self.t, x), x, per_channel(self.s.exp(), x))
        return y, self.positions * self.s.sum()

    def inverse(self, y: Tensor) -> Tensor:
        return (y - per_channel(self.t, y)) * per_channel((-self.s).exp(), y)


class BatchNorm(Bijection):
    """y = (x - m) / sqrt(v + eps) with running m and v; log-determinant -1/2 sum log(v + eps).

    Density estimation using Real NVP (2017), appendix E: in training m = rho m_running + (1 - rho) m_batch, v
    likewise, and gradients pass only through the terms of the batch.
    """

    mean: Tensor
    var: Tensor
    ready: Tensor

    def __init__(self, shape: Shape, *, rho: float = 0.9, eps: float = 1e-4) -> None:
        super().__init__()
        self.positions, self.rho, self.eps = math.prod(shape[1:]), rho, eps
        self.register_buffer("mean", torch.zeros(shape[0]))
        self.register_buffer("var", torch.ones(shape[0]))
        self.register_buffer("ready", torch.tensor(0.0))

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return m and v (C,) for the training batch x (B, C, ...), and store them; the first batch has weight 1."""
        rho, batch = self.rho * self.ready, channel_moments(x)
        mean, var = (rho * old + (1 - rho) * new for old, new in zip((self.mean, self.var), batch, strict=True))
        with torch.no_grad():
            self.mean.copy_(mean), self.var.copy_(var), self.ready.fill_(1)
        return mean, var

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = self.statistics(x) if self.training else (self.mean, self.var)
        log_v = (var + self.eps).log()
        y = (x - per_channel(mean, x)) * per_channel((-0.5 * log_v).exp(), x)
        return y, -0.5 * self.positions * log_v.sum()

    def inverse(self, y: Tensor) -> Tensor:
        return y * per_channel((self.var + self.eps).sqrt(), y) + per_channel(self.mean, y)


Norm = Literal["act", "batch", "none"]
NORMS: dict[Norm, Callable[[Shape], list[Bijection]]] = {
    "act": lambda shape: [ActNorm(shape)],
    "batch": lambda shape: [BatchNorm(shape)],
    "none": lambda shape: [],
}
