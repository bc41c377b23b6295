"""Mode coverage: how many modes of the data a model covers, and how many of its samples lie in a mode."""

from __future__ import annotations

import torch
from torch import Tensor

from genbench.dataset import Modes
from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.metrics.estimates import binomial_stderr

__all__ = ["modes"]

SIGMAS = 3.0  # a sample so close to the center of a mode is of high quality
COVERED = 0.1  # a mode with so much of its fraction of the data is covered


def measure(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return how samples, as many as test points, cover the modes of the data; nothing for data without known modes.

    - high_quality: the proportion of samples within three standard deviations of the nearest mode (VEEGAN: Reducing
      Mode Collapse in GANs using Implicit Variational Learning, 2017, section 4); 0.989 for data in two dimensions.
    - modes_covered: the number of modes with at least a tenth as many high-quality samples as data points. VEEGAN
      requires a single sample, which any wide distribution provides.
    """
    mixture, model = evaluation.dataset.modes, evaluation.model
    if mixture is None or not model.generative:
        return {}
    x, data = evaluation.sampled(len(evaluation.dataset.test)), evaluation.dataset.test
    fractions, expected = (counts(points, mixture) / len(points) for points in (x, data))
    p, n = fractions.sum().item(), len(x)
    covered, stderr = int((fractions >= COVERED * expected).sum()), binomial_stderr(p, n)
    impl = f"modes 1, {SIGMAS:g} sigma, {COVERED:g} of data"
    return {
        "modes_covered": Measurement(value=covered, unit="modes", better="higher", n=len(expected), impl=impl),
        "high_quality": Measurement(value=p, unit="of samples", better="higher", n=n, stderr=stderr, impl=impl),
    }


def counts(x: Tensor, modes: Modes) -> Tensor:
    """Return how many of x (n, *shape) are of high quality and nearest to each mode, (K,) float64."""
    centers = modes.centers.flatten(1).double()
    distance, mode = torch.cdist(x.flatten(1).double(), centers).min(1)
    return torch.bincount(mode[distance <= SIGMAS * modes.sigma], minlength=len(centers)).double()


modes = Metric(measure)
