"""Layers that bring each channel (of an image) or dimension (of a vector) to zero mean and unit variance."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from genbench_kernels.affine_coupling import channel_sums
from genbench_kernels.op import eager
from torch import Tensor, nn

from genbench.dataset import Space
from genbench.models.flows.bijection import Bijection, Shape
from genbench.models.flows.closed import Step
from genbench.standardization import Standardization


def over(v: Tensor, x: Tensor) -> Tensor:
    """Return v (C,) as it broadcasts over the channels of x (B, C, ...)."""
    return v if x.ndim == 2 else v.view(-1, *[1] * (x.ndim - 2))


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel, x (B, C, ...) -> (C,), (C,)."""
    var, mean = torch.var_mean(x, dim=[i for i in range(x.ndim) if i != 1], correction=0)
    return mean, var


class Affine(torch.autograd.Function):
    """x, (positions,), s, t -> e^s x + t for each channel and its log-determinant, their gradient in closed form."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, options: tuple[int], s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        (ctx.positions,), e = options, s.exp()
        ctx.save_for_backward(x, s, e)
        return torch.addcmul(over(t, x), x, over(e, x)), times(ctx.positions, s.sum())

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (g, glogdet), (x, s, e) = cotangents, ctx.saved_tensors
        e = s.exp() if torch.is_grad_enabled() else e
        gs = torch.addcmul(times(ctx.positions, glogdet), channel_sums(g * x), e)
        return g * over(e, x), None, gs, channel_sums(g)


def times(positions: int, v: Tensor) -> Tensor:
    """Return `positions` v; v itself, on vectors."""
    return v if positions == 1 else positions * v


class Standardize(Bijection):
    """`Standardization` as a bijection: y = (x - shift) / scale, log-determinant -sum log scale."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.standardization = Standardization(space)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.standardization(x), -self.standardization.log_scale

    def inverse(self, y: Tensor) -> Tensor:
        return self.standardization.inverse(y)


class ActNorm(Bijection):
    """y = e^s x + t for each channel, zero mean and unit variance on the first batch (Glow, 2018, section 3.1).

    With `learned` False it stays there: data are standardised.
    """

    ready: Tensor
    s: Tensor
    t: Tensor

    def __init__(self, shape: Shape, *, learned: bool = True) -> None:
        super().__init__()
        self.positions = math.prod(shape[1:])
        self.register_buffer("ready", torch.tensor(False))
        self.waits = True  # `ready` is looked at once: reading it from a GPU would wait for it
        for name in ("s", "t"):
            zeros = torch.zeros(shape[0])
            self.register_parameter(name, nn.Parameter(zeros)) if learned else self.register_buffer(name, zeros)

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Take s and t from x (B, C, ...), unless they have been taken."""
        self.waits = False
        if not self.ready:
            mean, var = moments(x)
            self.s.copy_(-0.5 * (var + 1e-6).log())
            self.t.copy_(-mean * self.s.exp())
            self.ready.fill_(True)

    def step(self, x: Tensor) -> Step | None:
        starts = self.waits and self.training  # from the very x
        return Step(Affine, (self.positions,), (self.s, self.t)) if eager() and not starts else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.waits and self.training:
            self.start(x)
        if step := self.step(x):
            return step(x)
        return torch.addcmul(over(self.t, x), x, over(self.s.exp(), x)), self.positions * self.s.sum()

    def inverse(self, y: Tensor) -> Tensor:
        return (y - over(self.t, y)) * over((-self.s).exp(), y)


class BatchNorm(Bijection):
    """y = (x - m) / sqrt(v + eps) with running m, v; log-determinant -1/2 sum log(v + eps).

    Density estimation using Real NVP (2017), appendix E: in training m = rho m_running + (1 - rho) m_batch, and so
    v, and the gradient passes through the batch's share alone.
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
        """Return m and v (C,) for the training batch x (B, C, ...), and keep them; the first batch counts whole."""
        rho = self.rho * self.ready
        mean, var = (rho * old + (1 - rho) * new for old, new in zip((self.mean, self.var), moments(x), strict=True))
        with torch.no_grad():
            self.mean.copy_(mean), self.var.copy_(var), self.ready.fill_(1)
        return mean, var

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = self.statistics(x) if self.training else (self.mean, self.var)
        log_v = (var + self.eps).log()
        return (x - over(mean, x)) * over((-0.5 * log_v).exp(), x), -0.5 * self.positions * log_v.sum()

    def inverse(self, y: Tensor) -> Tensor:
        return y * over((self.var + self.eps).sqrt(), y) + over(self.mean, y)


Norm = Literal["act", "batch", "none"]
NORMS: dict[Norm, Callable[[Shape], list[Bijection]]] = {
    "act": lambda shape: [ActNorm(shape)],
    "batch": lambda shape: [BatchNorm(shape)],
    "none": lambda shape: [],
}
