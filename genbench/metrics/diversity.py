"""Diversity: how rarely two samples coincide, compared with two data points; far more often means mode collapse."""

from __future__ import annotations

import torch
from torch import Tensor

from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.metrics.estimates import half_sample_jackknife, jackknife_stderr

__all__ = ["diversity"]

N = 1000  # samples, and at most as many training points
NEAR = 0.001  # proportion of pairs of training points that coincide
COLLAPSED = 0.05  # diversity below which the verdict is "collapsed"


def measure(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return the diversity of samples relative to the data; below a twentieth the verdict is "collapsed".

    Two points coincide if their distance is within the lowest thousandth of that of pairs of 1,000 training points.
    Diversity is the inverse ratio of coincidences: 1/2 if twice as many pairs of samples coincide as pairs of data. It
    is 1 for new data, f for a model that covers an even fraction f of the data, 1/1000 for a constant, and above 1 for
    samples that spread wider than the data. Pixels are compared as numbers.
    """
    if not evaluation.model.generative or len(evaluation.dataset.train) < 2:
        return {}
    x, data = (points.flatten(1).double() for points in (evaluation.sampled(N), evaluation.dataset.train[:N]))
    radius = torch.pdist(data).quantile(NEAR, interpolation="higher").item()
    expected = coincidence(data, radius)

    def relative_diversity(x: Tensor) -> float:
        return expected / max(coincidence(x, radius), NEAR * expected)

    value, stderr = relative_diversity(x), jackknife_stderr(half_sample_jackknife(relative_diversity, x))
    verdict = "collapsed" if value < COLLAPSED else None
    impl = f"diversity 1, pairs of {len(x)} samples and {len(data)} points, {NEAR} near"
    return {"diversity": Measurement(value=value, unit="", n=len(x), stderr=stderr, impl=impl, verdict=verdict)}


def coincidence(x: Tensor, radius: float) -> float:
    """Return the proportion of pairs of x (n, d) that are within `radius`.

    Its inverse estimates the number of distinct points, as in the birthday problem (Do GANs learn the distribution?
    Some Theory and Empirics, 2018, section 2).
    """
    return (torch.pdist(x) <= radius).double().mean().item()


diversity = Metric(measure)
