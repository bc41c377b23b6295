"""2-D toy densities with known log-density and entropy.

The shapes and their parameters are those of FFJORD: Free-form Continuous Dynamics for Scalable Reversible
Generative Models (2019), section 4.1. Every data set has 50,000 points to train, 5,000 to validate and 20,000 to
test, independent samples from a fixed seed. x (N, 2) float32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from genbench.dataset import Dataset, Modes, Space
from genbench.datasets.toy_densities import (
    SmoothingNoise,
    ToyDensity,
    along_curves,
    concentric_circles,
    normal,
    polar,
    uniform,
)

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

SPLIT_SIZES = [50_000, 5_000, 20_000]  # train, validation, test
SEED = 0


def sampled_dataset(define: Callable[[], ToyDensity]) -> Callable[[], Dataset]:
    """Return a function that samples a data set from the density; the result is cached."""

    @functools.cache
    @functools.wraps(define)
    def dataset() -> Dataset:
        density = define()
        x = density.sample(sum(SPLIT_SIZES), torch.Generator().manual_seed(SEED)).float()
        train, validation, test = torch.split(x, SPLIT_SIZES)
        log_prob, entropy, modes = density.log_prob, density.entropy, density.modes
        return Dataset(Space((2,)), train, validation, test, log_prob=log_prob, entropy=entropy, modes=modes)

    return dataset


@sampled_dataset
def moons() -> ToyDensity:
    """Two interleaved half circles."""
    middle = torch.tensor([-1.0, -0.2])

    def upper(u: Tensor) -> Tensor:
        return middle + polar(2, math.pi * u)

    def lower(u: Tensor) -> Tensor:
        return middle + torch.tensor([2.0, 1.0]) - polar(2, math.pi * u)

    return along_curves(upper, lower, noise=SmoothingNoise(0.2), entropy=2.3939)


@sampled_dataset
def swissroll() -> ToyDensity:
    """A spiral of one and a half turns."""

    def roll(u: Tensor) -> Tensor:
        t = 1.5 * math.pi * (1 + 2 * u)
        return polar(t / 5, t)

    return along_curves(roll, noise=SmoothingNoise(0.2), entropy=2.6696)


@sampled_dataset
def two_spirals() -> ToyDensity:
    """Two spirals, each the other rotated by half a turn."""

    def arm(u: Tensor) -> Tensor:
        t = 3 * math.pi * u.sqrt()
        return polar(t / 3, math.pi - t) + 1 / 12

    return along_curves(arm, lambda u: -arm(u), noise=SmoothingNoise(0.1, box=1 / 12), entropy=2.6455)


@sampled_dataset
def eight_gaussians() -> ToyDensity:
    """Eight Gaussians evenly spaced on a circle."""
    centers = polar(4, torch.arange(8, dtype=torch.float64) * math.pi / 4) / 1.414
    noise = SmoothingNoise(0.5 / 1.414)

    def sample(n: int, generator: Generator) -> Tensor:
        return centers[torch.randint(8, (n,), generator=generator)] + noise.sample(n, generator)

    def log_density(x: Tensor) -> Tensor:
        return noise.log_density(x[:, None] - centers.to(x.device)).logsumexp(-1) - math.log(8)

    return ToyDensity(sample, log_density, entropy=2.8319, modes=Modes(centers, noise.sigma))


@sampled_dataset
def circles() -> ToyDensity:
    """Two concentric circles."""
    return concentric_circles(1.5, 3, sigma=0.24, entropy=3.2681)


@sampled_dataset
def rings() -> ToyDensity:
    """Four concentric thin rings."""
    return concentric_circles(0.75, 1.5, 2.25, 3, sigma=0.08, entropy=2.6232)


@sampled_dataset
def checkerboard() -> ToyDensity:
    """Uniform on the squares of one color of a 4x4 checkerboard."""

    def sample(n: int, generator: Generator) -> Tensor:
        column, half = (torch.randint(k, (n,), generator=generator) for k in (4, 2))
        corner = torch.stack([column, 2 * half + column % 2], -1) - 2
        return 2 * (corner + uniform(generator, n, 2))

    def log_density(x: Tensor) -> Tensor:
        square = (x / 2).floor()
        inside = (square.sum(-1) % 2 == 0) & (square >= -2).all(-1) & (square < 2).all(-1)
        return torch.full_like(x[:, 0], -math.log(32)).masked_fill(~inside, -math.inf)

    return ToyDensity(sample, log_density, entropy=math.log(32))


@sampled_dataset
def pinwheel() -> ToyDensity:
    """Five Gaussians on a circle, sheared into the blades of a pinwheel.

    u ~ N((1, 0), diag(0.3, 0.1)^2) is rotated by -(2 pi k / 5 + exp(|u|) / 4) and doubled. FFJORD rotates by exp(u_1)
    instead. Rotation by a function of the radius preserves areas and has an inverse in closed form:
    p(x) = mean_k N(u_k) / 4.
    """
    mean, scale = torch.tensor([1.0, 0.0]), torch.tensor([0.3, 0.1])
    blades = 2 * math.pi / 5 * torch.arange(5, dtype=torch.float64)

    def sample(n: int, generator: Generator) -> Tensor:
        u = mean + scale * normal(generator, n, 2)
        blade = blades[torch.randint(5, (n,), generator=generator)]
        radius = u.norm(dim=-1)
        return polar(2 * radius, torch.atan2(u[:, 1], u[:, 0]) - blade - radius.exp() / 4)

    def log_density(x: Tensor) -> Tensor:
        radius, angle = torch.hypot(x[:, :1], x[:, 1:]) / 2, torch.atan2(x[:, 1:], x[:, :1])
        u = polar(radius, angle + blades.to(x.device) + radius.exp() / 4)
        z = (u - mean.to(x.device)) / scale.to(x.device)
        log_normal = -z.square().sum(-1) / 2 - math.log(2 * math.pi * 0.3 * 0.1)
        return log_normal.logsumexp(-1) - math.log(4 * 5)

    return ToyDensity(sample, log_density, entropy=2.3206)
