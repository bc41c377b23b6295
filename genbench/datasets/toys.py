"""Points of the plane whose true log-density and entropy are known.

The shapes and their parameters are those of FFJORD: Free-form Continuous Dynamics for Scalable Reversible
Generative Models (2019), section 4.1. Every toy is 50,000 points to train, 5,000 to validate and 20,000 to test,
drawn independently from one fixed seed. x (N, 2) float32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from genbench.dataset import Dataset, Space

__all__ = [
    "checkerboard",
    "circles",
    "eight_gaussians",
    "moons",
    "pinwheel",
    "rings",
    "swissroll",
    "two_spirals",
]

SIZES = [50_000, 5_000, 20_000]  # train, validation, test
SEED = 0
NODES = 320  # along a curve: they lie within a standard deviation of the noise of each other
CHUNK = 512  # points whose density is taken at once: bounds memory to a few tens of MB


@dataclass(frozen=True)
class Toy:
    """A distribution in the plane.

    Attributes:
        sample: (n, generator) -> points (n, 2) float64.
        density: its log, x (B, 2) float64 -> (B,) nats.
        entropy: in nats; where there is no closed form, by quadrature of `density`, to the digits given.
    """

    sample: Callable[[int, Generator], Tensor]
    density: Callable[[Tensor], Tensor]
    entropy: float

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the true log-density in nats, x (B, 2) -> (B,) float64."""
        return torch.cat([self.density(part.double()) for part in torch.split(x, CHUNK)])


def drawn(define: Callable[[], Toy]) -> Callable[[], Dataset]:
    """Return the data set drawn from a toy; it is drawn once in a process."""

    @functools.cache
    @functools.wraps(define)
    def dataset() -> Dataset:
        toy = define()
        x = toy.sample(sum(SIZES), torch.Generator().manual_seed(SEED)).float()
        train, validation, test = torch.split(x, SIZES)
        return Dataset(Space((2,)), train, validation, test, log_prob=toy.log_prob, entropy=toy.entropy)

    return dataset


def uniform(generator: Generator, *shape: int) -> Tensor:
    """Return numbers evenly distributed in [0, 1), float64."""
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def normal(generator: Generator, *shape: int) -> Tensor:
    """Return numbers of the standard normal distribution, float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def polar(radius: Tensor | float, angle: Tensor) -> Tensor:
    """Return points (..., 2) at `radius` and `angle`."""
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1)


# ------------------------------------------------------------------------------- points on curves, plus noise


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


@drawn
def moons() -> Toy:
    """Two interleaved half circles."""
    middle = torch.tensor([-1.0, -0.2])

    def upper(u: Tensor) -> Tensor:
        return middle + polar(2, math.pi * u)

    def lower(u: Tensor) -> Tensor:
        return middle + torch.tensor([2.0, 1.0]) - polar(2, math.pi * u)

    return along(upper, lower, noise=Noise(0.2), entropy=2.3939)


@drawn
def swissroll() -> Toy:
    """A spiral of one and a half turns, seen along the roll."""

    def roll(u: Tensor) -> Tensor:
        t = 1.5 * math.pi * (1 + 2 * u)
        return polar(t / 5, t)

    return along(roll, noise=Noise(0.2), entropy=2.6696)


@drawn
def two_spirals() -> Toy:
    """Two spirals, each the other turned by half a turn."""

    def arm(u: Tensor) -> Tensor:
        t = 3 * math.pi * u.sqrt()
        return polar(t / 3, math.pi - t) + 1 / 12

    return along(arm, lambda u: -arm(u), noise=Noise(0.1, box=1 / 12), entropy=2.6455)


# ----------------------------------------------------------------------------------------------- closed forms


@drawn
def eight_gaussians() -> Toy:
    """Eight Gaussians evenly on a circle."""
    centers = polar(4, torch.arange(8, dtype=torch.float64) * math.pi / 4) / 1.414
    noise = Noise(0.5 / 1.414)

    def sample(n: int, generator: Generator) -> Tensor:
        return centers[torch.randint(8, (n,), generator=generator)] + noise.sample(n, generator)

    def density(x: Tensor) -> Tensor:
        return noise.density(x[:, None] - centers.to(x.device)).logsumexp(-1) - math.log(8)

    return Toy(sample, density, entropy=2.8319)


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


@drawn
def circles() -> Toy:
    """Two concentric circles."""
    return concentric(1.5, 3, sigma=0.24, entropy=3.2681)


@drawn
def rings() -> Toy:
    """Four concentric thin rings."""
    return concentric(0.75, 1.5, 2.25, 3, sigma=0.08, entropy=2.6232)


@drawn
def checkerboard() -> Toy:
    """The squares of one colour of a board of four by four, evenly."""

    def sample(n: int, generator: Generator) -> Tensor:
        column, half = (torch.randint(k, (n,), generator=generator) for k in (4, 2))
        corner = torch.stack([column, 2 * half + column % 2], -1) - 2
        return 2 * (corner + uniform(generator, n, 2))

    def density(x: Tensor) -> Tensor:
        square = (x / 2).floor()
        inside = (square.sum(-1) % 2 == 0) & (square >= -2).all(-1) & (square < 2).all(-1)
        return torch.full_like(x[:, 0], -math.log(32)).masked_fill(~inside, -math.inf)

    return Toy(sample, density, entropy=math.log(32))


@drawn
def pinwheel() -> Toy:
    """Five Gaussians on a circle, sheared into the blades of a wheel.

    u ~ N((1, 0), diag(0.3, 0.1)^2) is turned by -(2 pi k / 5 + exp(|u|) / 4) and doubled. FFJORD turns by exp(u_1);
    by the radius, which differs where the blade is wide, the turn keeps areas and is undone in closed form:
    p(x) = mean_k N(u_k) / 4.
    """
    mean, scale = torch.tensor([1.0, 0.0]), torch.tensor([0.3, 0.1])
    blades = 2 * math.pi / 5 * torch.arange(5, dtype=torch.float64)

    def sample(n: int, generator: Generator) -> Tensor:
        u = mean + scale * normal(generator, n, 2)
        blade = blades[torch.randint(5, (n,), generator=generator)]
        radius = u.norm(dim=-1)
        return polar(2 * radius, torch.atan2(u[:, 1], u[:, 0]) - blade - radius.exp() / 4)

    def density(x: Tensor) -> Tensor:
        radius, angle = torch.hypot(x[:, :1], x[:, 1:]) / 2, torch.atan2(x[:, 1:], x[:, :1])
        u = polar(radius, angle + blades.to(x.device) + radius.exp() / 4)
        z = (u - mean.to(x.device)) / scale.to(x.device)
        log_normal = -z.square().sum(-1) / 2 - math.log(2 * math.pi * 0.3 * 0.1)
        return log_normal.logsumexp(-1) - math.log(4 * 5)

    return Toy(sample, density, entropy=2.3206)
