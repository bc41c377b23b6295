"""NFE: how often a model that solves an equation evaluates its network for a density and for a sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from genbench.capabilities import HasNFE
from genbench.evaluation import Evaluation, Measurement, Metric

__all__ = ["nfe"]


def measure(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return the evaluations that a batch of test points, and as many samples, take; nothing for other models."""
    model = evaluation.model
    if not isinstance(model, HasNFE):
        return {}
    x = next(evaluation.batches(evaluation.dataset.test, 512))
    found = {"nfe_sample": counted(model, lambda: model.sample(len(x)), len(x))}
    if model.likelihood is not None:
        found["nfe_density"] = counted(model, lambda: model.log_prob(x), len(x))
    return found


def counted(model: HasNFE, call: Callable[[], Any], n: int) -> Measurement:
    """Return the evaluations of a call on n points."""
    with torch.no_grad():
        call()
    return Measurement(value=model.evaluations, unit="evaluations", better="lower", n=n, impl="evaluations 1")


nfe = Metric(measure)
