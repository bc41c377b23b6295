"""Memorization: whether samples are nearer to training points than new data are."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.metrics.samples import grid, png

__all__ = ["memorisation"]

MAX_POINTS = 2000  # samples, and test points
CELLS = 10  # of k-means
MIN_PER_CELL = 5  # samples and test points; other cells are left out
IMPL = f"memorisation 1, {CELLS} cells"


def measure(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return how distances of samples to the nearest training point compare with those of test points.

    Distances are Euclidean in the data's own units, for at most 2,000 samples and test points.

    - nearer_than_new: the probability that a sample is nearer to the training data than a test point is, plus half that
      of a tie: 1/2 for new data, 1 for copies, 0 for samples far away.
    - data_copying: C_T, the same comparison as a z-score within each k-means cell of the training split, averaged over
      cells with their fractions of the test split as weights: far below 0 for copies, far above for samples far away
      (A Non-Parametric Test to Detect Data-Copying in Generative Models, 2020).

    Picture: neighbours.png, pairs of columns, samples left and their nearest training points right.
    """
    data, space = evaluation.dataset, evaluation.dataset.space
    if not evaluation.model.generative:
        return {}
    fake, test = evaluation.sampled(min(MAX_POINTS, max(1000, len(data.test)))), data.test[:MAX_POINTS]
    a, b, train = (x.flatten(1).float() for x in (fake, test, data.train))
    (near, which), (new, _) = (nearest(x, train, evaluation.device) for x in (a, b))
    if space.is_image:
        pairs = torch.stack((fake[:32], data.train[which[:32]]), 1).flatten(0, 1)
        evaluation.files["neighbours.png"] = png(grid(pairs, space))
    p, stderr = prob_nearer(near, new)
    measurements = {"nearer_than_new": Measurement(value=p, unit="", n=len(near), stderr=stderr, impl=IMPL)}
    if (z := data_copying(near, new, *kmeans_cells(train, a, b))) is not None:
        measurements["data_copying"] = Measurement(value=z, unit="sigma", n=len(near), impl=IMPL)
    return measurements


def nearest(x: Tensor, train: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the distance of each x (n, D) to its nearest neighbor in train (N, D), and the index of that, (n,)."""
    x, train = x.to(device), train.to(device)
    parts = [torch.cdist(part, train).min(1) for part in x.split(256)]
    return torch.cat([part.values for part in parts]).cpu(), torch.cat([part.indices for part in parts]).cpu()


def prob_nearer(near: Tensor, new: Tensor) -> tuple[float, float | None]:
    """Return P(near < new) + P(near = new) / 2, near (n,), new (m,), and its standard error; None for one point."""
    less = (near[:, None] < new).double() + (near[:, None] == new).double() / 2
    a, b = less.mean(1), less.mean(0)
    stderr = (a.var() / len(a) + b.var() / len(b)).sqrt().item() if min(len(a), len(b)) > 1 else None
    return less.mean().item(), stderr


def kmeans_cells(train: Tensor, *sets: Tensor) -> list[Tensor]:
    """Return the cell (n,) of every point of each set (n, D), by k-means on train (N, D)."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    points = train[:10_000].numpy()
    with warnings.catch_warnings(category=ConvergenceWarning, action="ignore"):  # fewer distinct points than cells
        kmeans = KMeans(min(CELLS, len(points)), n_init=1, random_state=0).fit(points)
    return [torch.from_numpy(kmeans.predict(x.numpy())) for x in sets]


def data_copying(near: Tensor, new: Tensor, cells: Tensor, new_cells: Tensor) -> float | None:
    """Return C_T of distances near (n,) and new (m,) in cells (n,) and (m,); None if no cell has enough of both."""
    total = weight = 0.0
    for cell in new_cells.unique():
        a, b = near[cells == cell], new[new_cells == cell]
        if min(len(a), len(b)) >= MIN_PER_CELL:
            total, weight = total + len(b) * z_score(a, b), weight + len(b)
    return total / weight if weight else None


def z_score(near: Tensor, new: Tensor) -> float:
    """Return the z-score of the Mann-Whitney statistic of near (n,) > new (m,): below 0 if near tends to be smaller."""
    n, m = len(near), len(new)
    greater = (near[:, None] > new).double() + (near[:, None] == new).double() / 2
    return (greater.sum().item() - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)


memorisation = Metric(measure)
