"""Diversity: how seldom two samples coincide, beside two points of the data; where they often do, a run collapsed."""

from __future__ import annotations

import torch
from torch import Tensor

from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.metrics.estimates import half_sample_jackknife, jackknife_stderr

__all__ = ["diversity"]

N = 1000  # samples and, at most, points
NEAR = 0.001  # share of pairs of data that coincide
LEAST = 0.05  # of the data's diversity, below which a run has collapsed


def measure(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return how diverse samples are beside the data, which `coincidence` says; below a twentieth, "collapsed".

    Two points coincide if they are as near as the nearest thousandth of the pairs of 1,000 training points. Twice as
    many pairs of samples that do are a diversity of a half: of a model that has an even part of the data and no more it
    is that part, of a constant a thousandth, of new data 1, and above 1 of what spreads wider. Pixels are compared as
    numbers.
    """
    if not evaluation.model.generative or len(evaluation.dataset.train) < 2:
        return {}
    x, data = (points.flatten(1).double() for points in (evaluation.sampled(N), evaluation.dataset.train[:N]))
    radius = torch.pdist(data).quantile(NEAR, interpolation="higher").item()
    due = coincidence(data, radius)

    def beside(x: Tensor) -> float:
        return due / max(coincidence(x, radius), NEAR * due)

    value, error = beside(x), jackknife_stderr(half_sample_jackknife(beside, x))
    verdict = "collapsed" if value < LEAST else None
    said = f"diversity 1, pairs of {len(x)} samples and {len(data)} points, {NEAR} near"
    return {"diversity": Measurement(value=value, unit="", n=len(x), stderr=error, impl=said, verdict=verdict)}


def coincidence(x: Tensor, radius: float) -> float:
    """Return the share of pairs of x (n, d) that are within `radius`.

    Their inverse is a number of distinct points, as a birthday says the number of days (Do GANs learn the
    distribution? Some Theory and Empirics, 2018, section 2).
    """
    return (torch.pdist(x) <= radius).double().mean().item()


diversity = Metric(measure)
