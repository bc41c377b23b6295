"""Divergences between samples and a known density on the plane; they need no density of the model.

Samples are counted in the cells of a grid, and the true density is integrated over the cells by quadrature. For the
divergences that may be infinite, both distributions are then mixed with 0.1 % of the uniform distribution over cells.
All are estimates:

- kl_data_model, kl_model_data, jensen_shannon, alpha_divergence and total_variation are f-divergences. Neither step
  increases them: with infinitely many samples the value is at most that of the densities, and 0 for the truth. Little
  is lost where the model has mass wherever the truth has, and much where it has none: a dropped mode adds about 8 nats
  times its weight to kl_data_model, whose true value may be infinite. For eight Gaussians, one of which has 1e-7 of the
  samples, the estimate is .95 nats in place of 1.64.
- w1 is not a bound: moving a point to the middle of its cell, by at most half a diagonal, .18, changes w1 by up to .36
  in either direction. Few samples increase it; w1_floor says by how much.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from genbench.dataset import Dataset
from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.metrics.estimates import extrapolate_n_to_inf, half_sample_jackknife, jackknife_stderr

__all__ = ["divergences"]

WIDTH = 0.25  # of a cell; whole numbers, where densities may jump, are on the edges of cells
NODES = 4  # of Gauss-Legendre quadrature, along each side of a cell
UNIFORM = 0.001  # weight of the uniform distribution over cells that is mixed in
IMPL = f"divergences 2, cells of {WIDTH}"
EXTRAPOLATED_IMPL = f"{IMPL}, {UNIFORM} in any: too low where a mode is missing"
MIN_SAMPLES = 1000
DRAWS = 5  # of halves, and of sample sets from the truth, where each may take a second


# ------------------------------------------------------------------------- of distributions p and q over cells, (K,)


def kl(p: Tensor, q: Tensor) -> float:
    """Return KL(p, q) in nats."""
    return (p * (p / q).log()).sum().item()


def reverse_kl(p: Tensor, q: Tensor) -> float:
    """Return KL(q, p) in nats."""
    return kl(q, p)


def jensen_shannon(p: Tensor, q: Tensor) -> float:
    """Return half KL(p, m) and half KL(q, m), m = (p + q) / 2: at most log 2 nats."""
    m = (p + q) / 2
    return (kl(p, m) + kl(q, m)) / 2


def alpha(p: Tensor, q: Tensor, a: float = 0.5) -> float:
    """Return (1 - sum p^a q^(1 - a)) / (a (1 - a)), which is KL(p, q) as a -> 1 and KL(q, p) as a -> 0.

    Divergence Measures and Message Passing (2005).
    """
    return ((1 - (p**a * q ** (1 - a)).sum()) / (a * (1 - a))).item()


EXTRAPOLATED: dict[str, Callable[[Tensor, Tensor], float]] = {  # their bias from finite samples is linear in 1/n
    "kl_data_model": kl,
    "kl_model_data": reverse_kl,
    "jensen_shannon": jensen_shannon,
    "alpha_divergence": alpha,
}


# -------------------------------------------------------------------------------------------------------- the grid


@dataclass(frozen=True)
class Grid:
    """The true distribution over the cells of a grid on [-edge, edge)^2.

    Attributes:
        side: number of cells along a side.
        p: probability of each cell and, last, of everything outside, (side^2 + 1,) float64.
    """

    edge: int
    side: int
    p: Tensor

    def frequencies(self, x: Tensor) -> Tensor:
        """Return the fraction of x (n, 2) in each cell, in the order of p."""
        column, row = ((x + self.edge) / WIDTH).floor().unbind(1)
        inside = (column >= 0) & (column < self.side) & (row >= 0) & (row < self.side)
        cell = torch.where(inside, column * self.side + row, self.side**2).long()
        return torch.bincount(cell, minlength=len(self.p)).double() / len(x)

    def centers(self) -> Tensor:
        """Return the center of each cell, (side^2, 2)."""
        axis = (torch.arange(self.side, dtype=torch.float64) + 0.5) * WIDTH - self.edge
        return torch.cartesian_prod(axis, axis)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n points (n, 2) drawn from the truth, each at the center of its cell."""
        return self.centers()[torch.multinomial(self.p[:-1], n, replacement=True, generator=generator)]

    def distance(self, divergence: Callable[[Tensor, Tensor], float], x: Tensor) -> float:
        """Return a divergence between the truth and x (n, 2), both mixed with the uniform distribution over cells."""
        p, q = ((1 - UNIFORM) * weights + UNIFORM / len(weights) for weights in (self.p, self.frequencies(x)))
        return divergence(p, q)

    def total_variation(self, x: Tensor) -> float:
        """Return sum |p - q| / 2, q of x (n, 2)."""
        return (self.p - self.frequencies(x)).abs().sum().item() / 2

    def w1(self, x: Tensor) -> float:
        """Return the exact W1 between the truth and x (n, 2), both moved to the centers of cells."""
        import ot

        occupied = self.p[:-1] > 1e-7
        cells, counts = (x / WIDTH).floor().unique(dim=0, return_counts=True)
        cost = torch.cdist((cells + 0.5) * WIDTH, self.centers()[occupied])
        a, b = counts / len(x), self.p[:-1][occupied]
        return float(ot.emd2(a.double().numpy(), (b / b.sum()).numpy(), cost.numpy(), numItermax=10**7))


@functools.lru_cache(maxsize=4)
def grid(data: Dataset) -> Grid:
    """Return the truth on a grid that contains all training points; its edge is a whole number."""
    assert data.log_prob is not None
    edge = math.ceil(data.train.abs().max().item())
    side = round(2 * edge / WIDTH)
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(NODES))
    axis = ((torch.arange(side).view(-1, 1) + (nodes + 1) / 2) * WIDTH - edge).flatten()
    density = data.log_prob(torch.cartesian_prod(axis, axis)).double().exp().view(side, NODES, side, NODES)
    p = (torch.einsum("iajb,a,b->ij", density, weights, weights) * (WIDTH / 2) ** 2).flatten()
    return Grid(edge, side, torch.cat((p, (1 - p.sum()).clamp_min(0).view(1))))


# ------------------------------------------------------------------------------------------------------ the metric


def measure(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return divergences between samples and the true density on R^2; nothing for data without one.

    There are as many samples as test points, and at least 1,000.

    - kl_data_model: KL(truth, model), large if modes are missing; kl_model_data: KL(model, truth), large if samples lie
      where no data are; jensen_shannon; alpha_divergence with alpha = 1/2, four times the squared Hellinger distance
      1 - sum sqrt(p q). In nats, extrapolated linearly to infinitely many samples: for samples from the truth they are
      within a hundredth of 0, on either side.
    - total_variation: from 0 to 1. w1: in the data's unit, by optimal transport between the centers of cells. These are
      not extrapolated; total_variation_floor and w1_floor are what as many samples from the truth get.
    """
    data = evaluation.dataset
    if data.space.shape != (2,) or data.log_prob is None or not evaluation.model.generative:
        return {}
    x = evaluation.sampled(max(MIN_SAMPLES, len(data.test))).double()
    make_measurement = partial(Measurement, kind="estimate", n=len(x))
    return measure_extrapolated(grid(data), x, make_measurement) | measure_plain(grid(data), x, make_measurement)


def measure_extrapolated(
    truth: Grid, x: Tensor, make_measurement: Callable[..., Measurement]
) -> dict[str, Measurement]:
    """Return the divergences whose bias is linear in 1/n, extrapolated to infinitely many samples, of x (n, 2)."""
    measurements = {}
    for name, divergence in EXTRAPOLATED.items():
        distance = partial(truth.distance, divergence)
        halves = half_sample_jackknife(distance, x)
        measurements[name] = make_measurement(
            value=extrapolate_n_to_inf(distance(x), halves),
            unit="nats",
            better="lower",
            stderr=jackknife_stderr(halves),
            impl=EXTRAPOLATED_IMPL,
        )
    return measurements


def measure_plain(truth: Grid, x: Tensor, make_measurement: Callable[..., Measurement]) -> dict[str, Measurement]:
    """Return the other divergences of x (n, 2), not extrapolated, and what as many samples from the truth get."""
    measurements, generator = {}, torch.Generator().manual_seed(0)
    true_samples = [truth.sample(len(x), generator) for _ in range(DRAWS)]
    distances: dict[str, Callable[[Tensor], float]] = {"total_variation": truth.total_variation, "w1": truth.w1}
    for name, distance in distances.items():
        stderr = jackknife_stderr(half_sample_jackknife(distance, x, draws=DRAWS))
        floors = torch.tensor([distance(samples) for samples in true_samples])
        measurements[name] = make_measurement(value=distance(x), unit="", better="lower", stderr=stderr, impl=IMPL)
        measurements[f"{name}_floor"] = make_measurement(
            value=floors.mean().item(), unit="", stderr=floors.std().item(), impl=IMPL
        )
    return measurements


divergences = Metric(measure)
