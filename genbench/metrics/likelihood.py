"""Likelihood of the test split: nats, bits/dim for integers, and the excess over the truth where it is known."""

from __future__ import annotations

import math

from torch import Tensor

from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.run import Kind

__all__ = ["likelihood"]


def mean(values: Tensor, kind: Kind, unit: str) -> Measurement:
    """Return the mean of `values` (N,), to be made small, with its standard error.

    Raises:
        ArithmeticError: the mean is not finite.
    """
    stderr = (values.std(correction=1) / len(values) ** 0.5).item() if len(values) > 1 else None
    if not math.isfinite(value := values.mean().item()):
        raise ArithmeticError(f"the likelihood of the test split is {-value} {unit}")
    return Measurement(
        value=value, unit=unit, better="lower", kind=kind, n=len(values), stderr=stderr, impl="likelihood 1"
    )


def measure(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return the mean negative log-likelihood of a test point; nothing for a model without a likelihood.

    - nats: of a whole point.
    - bpd: bits/dim = -log2 p(x) / D, D the true dimensions, where data are integers.
    - excess_nats: E[log p*(x) - log p(x)], point by point, where the true density p* is known. It estimates
      KL(p*, p), which is never negative, with a standard error that vanishes as p nears p*.
    """
    kind, space, truth = evaluation.model.likelihood, evaluation.dataset.space, evaluation.dataset.log_prob
    if kind is None:
        return {}
    nats = -evaluation.log_prob
    found = {"nats": mean(nats, kind, "nats")}
    if space.levels is not None:
        found["bpd"] = mean(nats / math.log(2) / space.dims, kind, "bits/dim")
    if truth is not None:
        found["excess_nats"] = mean(nats + truth(evaluation.dataset.test).double(), kind, "nats")
    return found


likelihood = Metric(measure)
