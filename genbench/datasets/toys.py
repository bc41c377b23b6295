"""Points of the plane whose true log-density and entropy are known.

The shapes and their parameters are those of FFJORD: Free-form Continuous Dynamics for Scalable Reversible
Generative Models (2019), section 4.1. Every toy is 50,000 points to train, 5,000 to validate and 20,000 to test,
drawn independently from one fixed seed. x (N, 2) float32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from genbench.dataset import Dataset, Modes, Space
from genbench.datasets.plane import Noise, Toy, along, concentric, normal, polar, uniform

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


def drawn(define: Callable[[], Toy]) -> Callable[[], Dataset]:
    """Return the data set drawn from a toy; it is drawn once in a process."""

    @functools.cache
    @functools.wraps(define)
    def dataset() -> Dataset:
        toy = define()
        x = toy.sample(sum(SIZES), torch.Generator().manual_seed(SEED)).float()
        train, validation, test = torch.split(x, SIZES)
        return Dataset(
            Space((2,)), train, validation, test, log_prob=toy.log_prob, entropy=toy.entropy, modes=toy.modes
        )

    return dataset


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


@drawn
def eight_gaussians() -> Toy:
    """Eight Gaussians evenly on a circle."""
    centers = polar(4, torch.arange(8, dtype=torch.float64) * math.pi / 4) / 1.414
    noise = Noise(0.5 / 1.414)

    def sample(n: int, generator: Generator) -> Tensor:
        return centers[torch.randint(8, (n,), generator=generator)] + noise.sample(n, generator)

    def density(x: Tensor) -> Tensor:
        return noise.density(x[:, None] - centers.to(x.device)).logsumexp(-1) - math.log(8)

    return Toy(sample, density, entropy=2.8319, modes=Modes(centers, noise.sigma))


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
