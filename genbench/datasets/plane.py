"""Distributions in the plane whose log-density is known: points on curves or circles, plus noise.

Several data sets are made of them; they are no data sets themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from genbench.dataset import Modes

NODES = 320  # along a curve: they lie within a standard deviation of the noise of each other
CHUNK = 512  # points whose density is taken at once: bounds memory to a few tens of MB


@dataclass(frozen=True)
class Toy:
    """A distribution in the plane.

    Attributes:
        sample: (n, generator) -> points (n, 2) float64.
        density: its log, x (B, 2) float64 -> (B,) nats.
        entropy: in nats; where there is no closed form, by quadrature of `density`, to the digits given.
        modes: where it is an even mixture of round Gaussians that lie apart.
    """

    sample: Callable[[int, Generator], Tensor]
    density: Callable[[Tensor], Tensor]
    entropy: float
    modes: Modes | None = None

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the true log-density in nats, x (B, 2) -> (B,) float64."""
        return torch.cat([self.density(part.double()) for part in torch.split(x, CHUNK)])


def uniform(generator: Generator, *shape: int) -> Tensor:
    """Return numbers evenly distributed in [0, 1), float64."""
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def normal(generator: Generator, *shape: int) -> Tensor:
    """Return numbers of the standard normal distribution, float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def polar(radius: Tensor | float, angle: Tensor) -> Tensor:
    """Return points (..., 2) at `radius` and `angle`."""
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1)


class Noise(NamedTuple):
    """What is added to each coordinate: N(0, sigma^2), and a number evenly distributed in [-box, box]."""

    sigma: float
    box: float = 0.0

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Return n points (n, 2)."""
        x = self.sigma * normal(generator, n, 2)
        return x + self.box * (2 * uniform(generator, n, 2) - 1) if self.box else x

    def density(self, x: Tensor) -> Tensor:
        """Return the log-density of the noise, x (..., 2) -> (...).

        With a box it is (Phi(b) - Phi(a)) / 2 box per axis, a difference of upper tails; they are scaled by
        exp(a^2), so that nothing cancels or underflows.
        """
        if not self.box:
            return -x.square().sum(-1) / (2 * self.sigma**2) - math.log(2 * math.pi * self.sigma**2)
        a, b = ((x.abs() + end) / (self.sigma * math.sqrt(2)) for end in (-self.box, self.box))
        tails: Tensor = torch.special.erfcx(a) - (a.square() - b.square()).exp() * torch.special.erfcx(b)
        return (tails.log() - a.square() - math.log(4 * self.box)).sum(-1)


Curve = Callable[[Tensor], Tensor]  # u (N,) in [0, 1] -> points (N, 2)


def along(*curves: Curve, noise: Noise, entropy: float) -> Toy:
    """Return the even mixture of `curves` at evenly distributed u, plus noise.

    The density is the noise's, integrated over u by Gauss-Legendre quadrature in the root of u, which makes a
    curve that begins like a root of u smooth.
    """
    roots, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(NODES))
    v = (roots + 1) / 2
    nodes = torch.cat([curve(v.square()) for curve in curves])
    log_weight = (weights * v / len(curves)).log().repeat(len(curves))

    def sample(n: int, generator: Generator) -> Tensor:
        points = torch.stack([curve(uniform(generator, n)) for curve in curves])
        which = torch.randint(len(curves), (n,), generator=generator)
        return points[which, torch.arange(n)] + noise.sample(n, generator)

    def density(x: Tensor) -> Tensor:
        return (log_weight.to(x.device) + noise.density(x[:, None] - nodes.to(x.device))).logsumexp(-1)

    return Toy(sample, density, entropy)


def concentric(*radii: float, sigma: float, entropy: float) -> Toy:
    """Return the even mixture of circles of `radii`, plus N(0, sigma^2), whose density is a Bessel function."""
    radius = torch.tensor(radii, dtype=torch.float64)

    def sample(n: int, generator: Generator) -> Tensor:
        which = torch.randint(len(radii), (n,), generator=generator)
        angle = 2 * math.pi * uniform(generator, n)
        return polar(radius[which], angle) + sigma * normal(generator, n, 2)

    def density(x: Tensor) -> Tensor:
        r, ring = torch.hypot(x[:, :1], x[:, 1:]), radius.to(x.device)
        bessel: Tensor = torch.special.i0e(r * ring / sigma**2)
        log_kernel = bessel.log() - (r - ring).square() / (2 * sigma**2)
        return log_kernel.logsumexp(-1) - math.log(2 * math.pi * sigma**2 * len(radii))

    return Toy(sample, density, entropy)
