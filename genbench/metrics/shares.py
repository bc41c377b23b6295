"""The share of points of which something is so."""

from __future__ import annotations

from torch import Tensor

from genbench.evaluation import Measurement
from genbench.records.record import Better


def share(so: Tensor, impl: str, better: Better = "higher") -> Measurement:
    """Return how many of n points `so` (n,) holds for, with the standard error of a binomial, sqrt(p (1 - p) / n)."""
    p, n = so.double().mean().item(), len(so)
    return Measurement(value=p, unit="of points", better=better, n=n, stderr=(p * (1 - p) / n) ** 0.5, impl=impl)
