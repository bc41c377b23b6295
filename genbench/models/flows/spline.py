"""Monotone rational-quadratic splines (Neural Spline Flows, 2019, section 3.1 and appendix A.1).

On [-bound, bound] there are K bins; in each, with theta the position in it from 0 to 1, s its mean slope and d_0, d_1
the slopes at its ends, eq. 4 and 5 are

    y = y_0 + h (s theta^2 + d_0 t) / D,     D = s + (d_0 + d_1 - 2 s) t,     t = theta (1 - theta),
    dy/dx = s^2 N / D^2,                     N = d_1 theta^2 + 2 s t + d_0 (1 - theta)^2.

Outside, y = x. For each entry a network gives 3 K - 1 numbers: the logarithms of K widths and of K heights, each up to
a constant, and K - 1 inner slopes before a softplus.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

from genbench.models.flows.elementwise import Elementwise, parameters_first
from genbench.nets.precision import at_least_float32

MINIMUM = 1e-3  # of a bin's width and height, relative to 2 bound, and of a slope
UNIT_SLOPE = math.log(math.expm1(1 - MINIMUM))  # softplus(0 + UNIT_SLOPE) + MINIMUM = 1


@dataclass(frozen=True)
class Spline(Elementwise):
    """The spline of K bins on [-bound, bound], params (B, C * (3K - 1), ...).

    Raises:
        ValueError: K < 2.
    """

    K: int = 8
    bound: float = 4.0

    def __post_init__(self) -> None:
        if self.K < 2:
            raise ValueError(f"a spline needs two bins or more, got {self.K}")

    @property
    def parameters(self) -> int:
        return 3 * self.K - 1

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|det dy/dx|: eq. 4 and 5."""
        x, params, bound = at_least_float32(x), at_least_float32(params), self.bound
        u = ((x.reshape(-1) + bound) / (2 * bound)).clamp(0, 1)
        b = find_bin(u, parameters_first(params, self.parameters), self.K, axis=0)
        rise, log_slope = rational((u - b.x) / b.w, b.h / b.w, b.d0, b.d1)
        inside, y = x.abs() <= bound, bound * (2 * (b.y + b.h * rise) - 1)
        log_slope = torch.where(inside, log_slope.view_as(x), 0.0)
        return torch.where(inside, y.view_as(x), x), log_slope.flatten(1).sum(1)

    def inverse(self, y: Tensor, params: Tensor) -> Tensor:
        """Return x: eq. 6-8, in the form of the root without cancellation."""
        y, params, bound = at_least_float32(y), at_least_float32(params), self.bound
        v = ((y.reshape(-1) + bound) / (2 * bound)).clamp(0, 1)
        b = find_bin(v, parameters_first(params, self.parameters), self.K, axis=1)
        rise, s = v - b.y, b.h / b.w
        bend = rise * (b.d0 + b.d1 - 2 * s)
        alpha, beta, gamma = b.h * (s - b.d0) + bend, b.h * b.d0 - bend, -s * rise
        theta = 2 * gamma / (-beta - (beta.square() - 4 * alpha * gamma).clamp(min=0).sqrt())
        x = bound * (2 * (b.x + theta * b.w) - 1)
        return torch.where(y.abs() <= bound, x.view_as(y), y)


class Bin(NamedTuple):
    """One bin for each entry, in coordinates in which the spline maps [0, 1] to itself."""

    x: Tensor
    w: Tensor
    y: Tensor
    h: Tensor
    d0: Tensor
    d1: Tensor


def find_bin(v: Tensor, params: Tensor, K: int, axis: int) -> Bin:
    """Return the bin whose width (axis 0) or height (axis 1) contains v (N,); params (3K - 1, N)."""
    size = MINIMUM + (1 - K * MINIMUM) * params[: 2 * K].unflatten(0, (2, K)).softmax(1)
    left = size.cumsum(1) - size
    slopes = pad((softplus(params[2 * K :] + UNIT_SLOPE) + MINIMUM).T, (1, 1), value=1.0).T
    k = (v >= left[axis, 1:]).sum(0, keepdim=True)
    (x, y), (w, h) = (a.gather(1, k.expand(2, 1, -1)).squeeze(1) for a in (left, size))
    d0, d1 = (slopes.gather(0, k + i).squeeze(0) for i in (0, 1))
    return Bin(x, w, y, h, d0, d1)


def rational(theta: Tensor, s: Tensor, d0: Tensor, d1: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far the spline has risen in its bin, from 0 to 1, and log dy/dx: eq. 4 and 5."""
    t = theta * (1 - theta)
    D = s + (d0 + d1 - 2 * s) * t
    N = d1 * theta.square() + 2 * s * t + d0 * (1 - theta).square()
    return (s * theta.square() + d0 * t) / D, 2 * (s / D).log() + N.log()
