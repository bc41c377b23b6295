"""Two-dimensional densities with known log-density: points on curves or circles, plus noise.

The data sets in `toys` are samples of them.
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

NODES = 320  # of the quadrature along a curve, spaced by less than a standard deviation of the noise
CHUNK = 512  # points evaluated at once: limits memory to a few tens of MB


@dataclass(frozen=True)
class ToyDensity:
    """A distribution of points in two dimensions.

    Attributes:
        sample: (n, generator) -> points (n, 2) float64.
        log_density: x (B, 2) float64 -> (B,) nats.
        entropy: in nats; where there is no closed form, by quadrature of `log_density`, to the given digits.
        modes: if it is a mixture of well separated spherical Gaussians of equal weight.
    """

    sample: Callable[[int, Generator], Tensor]
    log_density: Callable[[Tensor], Tensor]
    entropy: float
    modes: Modes | None = None

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the true log-density in nats, x (B, 2) -> (B,) float64."""
        return torch.cat([self.log_density(chunk.double()) for chunk in torch.split(x, CHUNK)])


def uniform(generator: Generator, *shape: int) -> Tensor:
    """Return samples of U[0, 1), float64."""
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def normal(generator: Generator, *shape: int) -> Tensor:
    """Return samples of N(0, 1), float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def polar(radius: Tensor | float, angle: Tensor) -> Tensor:
    """Return points (..., 2) with polar coordinates `radius` and `angle`."""
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1)


class SmoothingNoise(NamedTuple):
    """Noise added to each coordinate: N(0, sigma^2), plus U[-box, box] if box is not 0."""

    sigma: float
    box: float = 0.0

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Return n samples (n, 2)."""
        x = self.sigma * normal(generator, n, 2)
        return x + self.box * (2 * uniform(generator, n, 2) - 1) if self.box else x

    def log_density(self, x: Tensor) -> Tensor:
        """Return the log-density of the noise, x (..., 2) -> (...).

        With a box it is (Phi(b) - Phi(a)) / 2 box per axis, a difference of upper tails. The tails are scaled by
        exp(a^2) to avoid cancellation and underflow.
        """
        if not self.box:
            return -x.square().sum(-1) / (2 * self.sigma**2) - math.log(2 * math.pi * self.sigma**2)
        a, b = ((x.abs() + end) / (self.sigma * math.sqrt(2)) for end in (-self.box, self.box))
        tails: Tensor = torch.special.erfcx(a) - (a.square() - b.square()).exp() * torch.special.erfcx(b)
        return (tails.log() - a.square() - math.log(4 * self.box)).sum(-1)


Curve = Callable[[Tensor], Tensor]  # u (N,) in [0, 1] -> points (N, 2)


def along_curves(*curves: Curve, noise: SmoothingNoise, entropy: float) -> ToyDensity:
    """Return the density of points at uniform u on a random one of `curves`, plus noise.

    The density of the noise is integrated over u by Gauss-Legendre quadrature in sqrt(u), in which curves that start
    like sqrt(u) are smooth.
    """
    roots, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(NODES))
    v = (roots + 1) / 2
    nodes = torch.cat([curve(v.square()) for curve in curves])
    log_weight = (weights * v / len(curves)).log().repeat(len(curves))

    def sample(n: int, generator: Generator) -> Tensor:
        points = torch.stack([curve(uniform(generator, n)) for curve in curves])
        which = torch.randint(len(curves), (n,), generator=generator)
        return points[which, torch.arange(n)] + noise.sample(n, generator)

    def log_density(x: Tensor) -> Tensor:
        return (log_weight.to(x.device) + noise.log_density(x[:, None] - nodes.to(x.device))).logsumexp(-1)

    return ToyDensity(sample, log_density, entropy)


def concentric_circles(*radii: float, sigma: float, entropy: float) -> ToyDensity:
    """Return the density of points on a random circle of `radii`, plus N(0, sigma^2): a Bessel function."""
    radius = torch.tensor(radii, dtype=torch.float64)

    def sample(n: int, generator: Generator) -> Tensor:
        which = torch.randint(len(radii), (n,), generator=generator)
        angle = 2 * math.pi * uniform(generator, n)
        return polar(radius[which], angle) + sigma * normal(generator, n, 2)

    def log_density(x: Tensor) -> Tensor:
        r, ring = torch.hypot(x[:, :1], x[:, 1:]), radius.to(x.device)
        bessel: Tensor = torch.special.i0e(r * ring / sigma**2)
        log_kernel = bessel.log() - (r - ring).square() / (2 * sigma**2)
        return log_kernel.logsumexp(-1) - math.log(2 * math.pi * sigma**2 * len(radii))

    return ToyDensity(sample, log_density, entropy)
