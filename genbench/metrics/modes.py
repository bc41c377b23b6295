"""Modes: which of those that the data have a model covers, and how many of its samples lie in one."""

from __future__ import annotations

import torch
from torch import Tensor

from genbench.dataset import Modes
from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.metrics.estimates import binomial_stderr

__all__ = ["modes"]

SIGMAS = 3.0  # from the centre of a mode: there, it is of high quality
SHARE = 0.1  # of what a mode has of the data, of which it is covered


def measure(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return what modes hold of as many samples as there are test points; nothing where data have no known modes.

    - high_quality: the share of samples within three standard deviations of the nearest mode (VEEGAN: Reducing Mode
      Collapse in GANs using Implicit Variational Learning, 2017, section 4). In the plane data have 0.989.
    - modes_covered: in how many modes samples of high quality are at least a tenth of what data have there. VEEGAN asks
      for one sample, which any spread gives.
    """
    known, model = evaluation.dataset.modes, evaluation.model
    if known is None or not model.generative:
        return {}
    x, data = evaluation.sampled(len(evaluation.dataset.test)), evaluation.dataset.test
    held, due = (counts(points, known) / len(points) for points in (x, data))
    p, n = held.sum().item(), len(x)
    covered, stderr = int((held >= SHARE * due).sum()), binomial_stderr(p, n)
    impl = f"modes 1, {SIGMAS:g} sigma, {SHARE:g} of data"
    return {
        "modes_covered": Measurement(value=covered, unit="modes", better="higher", n=len(due), impl=impl),
        "high_quality": Measurement(value=p, unit="of samples", better="higher", n=n, stderr=stderr, impl=impl),
    }


def counts(x: Tensor, modes: Modes) -> Tensor:
    """Return how many of x (n, *shape) are of high quality and nearest to each mode, (K,) float64."""
    centers = modes.centers.flatten(1).double()
    distance, mode = torch.cdist(x.flatten(1).double(), centers).min(1)
    return torch.bincount(mode[distance <= SIGMAS * modes.sigma], minlength=len(centers)).double()


modes = Metric(measure)
