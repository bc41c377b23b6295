"""Divergences from a known truth in the plane, of samples alone: what a model without a density can be asked, too.

Samples are counted in the cells of a grid, and the truth is integrated over them by quadrature. For those divergences
that may be infinite one point in a thousand, of both laws, is then put into any cell. All are estimates:

- kl_data_model, kl_model_data, jensen_shannon, alpha_divergence and total_variation are f-divergences. Neither step
  brings two laws further apart: with endless samples the value is at most that of the densities, and 0 for the truth.
  This costs little where the model has mass wherever the truth has, and much where it has not: a mode that it drops
  adds about 8 nats times its share to kl_data_model, whose true value may be infinite. Of eight Gaussians, one of
  which has 1e-7 of the samples, it is .95 for 1.64 nats.
- w1 is no bound: a point moves by up to half a diagonal of its cell, .18, to the middle, and so w1 by up to .36, either
  way. Few samples raise it; w1_floor says by how much.
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

WIDTH = 0.25  # of a cell; whole numbers, where densities may have an edge, fall between cells
NODES = 4  # of Gauss-Legendre quadrature, along a side of a cell
MIXED = 0.001  # share of points that are put into any cell
IMPL = f"divergences 2, cells of {WIDTH}"
SMOOTH_IMPL = f"{IMPL}, {MIXED} in any: too low where a mode is missing"
LEAST = 1000  # samples
DRAWS = 5  # of halves, and of samples of the truth, where each may take a second


# ------------------------------------------------------------------------------------ of shares p and q, (K,) each


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


SMOOTH: dict[str, Callable[[Tensor, Tensor], float]] = {  # what counting adds to these is linear in 1/n
    "kl_data_model": kl,
    "kl_model_data": reverse_kl,
    "jensen_shannon": jensen_shannon,
    "alpha_divergence": alpha,
}


# -------------------------------------------------------------------------------------------------------- the grid


@dataclass(frozen=True)
class Grid:
    """The truth on the cells of [-edge, edge)^2 and, last, all else.

    Attributes:
        side: cells along a side.
        p: share of the truth of each cell, (side^2 + 1,) float64.
    """

    edge: int
    side: int
    p: Tensor

    def shares(self, x: Tensor) -> Tensor:
        """Return the share of x (n, 2) in each cell, as p."""
        column, row = ((x + self.edge) / WIDTH).floor().unbind(1)
        inside = (column >= 0) & (column < self.side) & (row >= 0) & (row < self.side)
        cell = torch.where(inside, column * self.side + row, self.side**2).long()
        return torch.bincount(cell, minlength=len(self.p)).double() / len(x)

    def middles(self) -> Tensor:
        """Return the middle of each cell of the square, (side^2, 2)."""
        axis = (torch.arange(self.side, dtype=torch.float64) + 0.5) * WIDTH - self.edge
        return torch.cartesian_prod(axis, axis)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n middles of cells (n, 2) drawn from the truth."""
        return self.middles()[torch.multinomial(self.p[:-1], n, replacement=True, generator=generator)]

    def distance(self, divergence: Callable[[Tensor, Tensor], float], x: Tensor) -> float:
        """Return a divergence of the truth from x (n, 2), one point in a thousand of both put into any cell."""
        p, q = ((1 - MIXED) * shares + MIXED / len(shares) for shares in (self.p, self.shares(x)))
        return divergence(p, q)

    def total_variation(self, x: Tensor) -> float:
        """Return sum |p - q| / 2, q of x (n, 2)."""
        return (self.p - self.shares(x)).abs().sum().item() / 2

    def w1(self, x: Tensor) -> float:
        """Return W1 between the truth and x (n, 2), both in the middles of cells, exactly."""
        import ot

        held = self.p[:-1] > 1e-7
        cells, counts = (x / WIDTH).floor().unique(dim=0, return_counts=True)
        cost = torch.cdist((cells + 0.5) * WIDTH, self.middles()[held])
        a, b = counts / len(x), self.p[:-1][held]
        return float(ot.emd2(a.double().numpy(), (b / b.sum()).numpy(), cost.numpy(), numItermax=10**7))


@functools.lru_cache(maxsize=4)
def grid(data: Dataset) -> Grid:
    """Return the truth on a grid that holds all training points, its edge a whole number."""
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
    """Return divergences of samples from the truth, where that is a density on R^2.

    There are as many samples as test points, and at least 1,000.

    - kl_data_model: KL(truth, model), which a mode that is missing raises; kl_model_data: KL(model, truth), which
      samples raise where there are no data; jensen_shannon; alpha_divergence, of alpha = 1/2, four times the squared
      Hellinger distance 1 - sum sqrt(p q). In nats, extrapolated linearly to endless samples: for the truth itself
      they are within a hundredth of 0, on either side.
    - total_variation: from 0 to 1. w1: in the data's unit, by optimal transport between the middles of cells. They are
      of the samples as they are: total_variation_floor and w1_floor are what as many samples of the truth get.
    """
    data = evaluation.dataset
    if data.space.shape != (2,) or data.log_prob is None or not evaluation.model.generative:
        return {}
    x = evaluation.sampled(max(LEAST, len(data.test))).double()
    make_measurement = partial(Measurement, kind="estimate", n=len(x))
    return smooth(grid(data), x, make_measurement) | rough(grid(data), x, make_measurement)


def smooth(law: Grid, x: Tensor, make_measurement: Callable[..., Measurement]) -> dict[str, Measurement]:
    """Return what counting adds to in proportion to 1/n, extrapolated, of x (n, 2)."""
    measurements = {}
    for name, divergence in SMOOTH.items():
        distance = partial(law.distance, divergence)
        halves = half_sample_jackknife(distance, x)
        value, stderr = extrapolate_n_to_inf(distance(x), halves), jackknife_stderr(halves)
        measurements[name] = make_measurement(value=value, unit="nats", better="lower", stderr=stderr, impl=SMOOTH_IMPL)
    return measurements


def rough(law: Grid, x: Tensor, make_measurement: Callable[..., Measurement]) -> dict[str, Measurement]:
    """Return the others, of x (n, 2) as it is, and what as many samples of the truth get."""
    measurements, generator = {}, torch.Generator().manual_seed(0)
    nulls = [law.sample(len(x), generator) for _ in range(DRAWS)]
    distances: dict[str, Callable[[Tensor], float]] = {"total_variation": law.total_variation, "w1": law.w1}
    for name, distance in distances.items():
        stderr = jackknife_stderr(half_sample_jackknife(distance, x, draws=DRAWS))
        floors = torch.tensor([distance(null) for null in nulls])
        measurements[name] = make_measurement(value=distance(x), unit="", better="lower", stderr=stderr, impl=IMPL)
        measurements[f"{name}_floor"] = make_measurement(
            value=floors.mean().item(), unit="", stderr=floors.std().item(), impl=IMPL
        )
    return measurements


divergences = Metric(measure)
