"""Likelihood of the test split: nats, bits/dim for integers, and the excess over the truth where it is known.

`likelihood` takes the model's own log p(x). `likelihood:L100` and the like take the importance-weighted bound with that
many draws of the latents, or of the dequantization noise (Importance Weighted Autoencoders, 2016, eq. 8); it is never
looser in expectation. `likelihood:L1000_first200` is L_1000 on the first 200 test points, those that `ais` takes, for
comparison with AIS.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from genbench.dataset import Dataset
from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.metrics.estimates import mean_stderr
from genbench.model import Diverged
from genbench.suite import Kind
from genbench.validation.likelihoods import is_impossible

__all__ = ["L16", "L100", "L1000", "L5000", "L1000_first200", "likelihood"]

FIRST = 200  # test points for an expensive bound
AT_ONCE = 8192  # weights computed in one batch


def mean(values: Tensor, kind: Kind, unit: str, impl: str, verdict: str | None = None) -> Measurement:
    """Return the mean of `values` (N,), the lower the better, with its standard error.

    Raises:
        Diverged: the mean is not finite.
    """
    if not math.isfinite(value := values.mean().item()):
        raise Diverged(f"the likelihood of the test split is {-value} {unit}")
    make_measurement = partial(Measurement, unit=unit, better="lower", kind=kind, impl=impl, verdict=verdict)
    return make_measurement(value=value, n=len(values), stderr=mean_stderr(values))


def measure(evaluation: Evaluation, k: int | None = None, points: int | None = None) -> dict[str, Measurement]:
    """Return the mean negative log-likelihood of a test point; nothing for a model without a likelihood.

    - nats: per point.
    - bpd: bits/dim = -log2 p(x) / D, D the dimension of the data, where data are integers.
    - excess_nats: the mean of log p*(x) - log p(x), where the true density p* is known. It estimates KL(p*, p), which
      is never negative, and its standard error vanishes as p approaches p*. If log p(x) is a lower bound, the gap of
      the bound is included.

    If a likelihood is higher than possible, the verdict of all measurements is "invalid".

    Args:
        k: take L_k with k draws in place of log p(x), and state it in `impl`; no change for models without latents.
        points: take the first so many test points only.
    """
    kind, space, truth = evaluation.model.likelihood, evaluation.dataset.space, evaluation.true_log_prob
    if kind is None:
        return {}
    x = evaluation.dataset.test[:points]
    log_p, draws = (evaluation.log_prob[:points], None) if k is None else bound(evaluation, k, x)
    impl = "likelihood 1" + (f", L_{draws}" if draws else "") + (f", first {points} points" if points else "")
    truth = None if truth is None else truth[:points]
    make_measurement = partial(mean, kind=kind, impl=impl, verdict=verdict(log_p, kind, evaluation.dataset, truth))
    measurements = {"nats": make_measurement(-log_p, unit="nats")}
    if space.levels is not None:
        measurements["bpd"] = make_measurement(-log_p / math.log(2) / space.dims, unit="bits/dim")
    if truth is not None:
        measurements["excess_nats"] = make_measurement(truth - log_p, unit="nats")
    return measurements


def verdict(log_p: Tensor, kind: Kind, data: Dataset, truth: Tensor | None) -> str | None:
    """Return "invalid" if log p of test points (N,) is impossible; `truth`: the true log p* (N,), where it is known."""
    return "invalid" if is_impossible(log_p, kind, data, truth) else None


def bound(evaluation: Evaluation, k: int, x: Tensor) -> tuple[Tensor, int | None]:
    """Return L_k of x (N, *shape), (N,) float64 nats, and k; for a model without latents, log p(x) and None."""
    bounds, rows = [], 0
    with torch.no_grad():
        for batch in evaluation.batches(x, 256):
            parts, rows = list[Tensor](), 0
            while rows < k:
                log_w = evaluation.log_weights_of(batch, min(k - rows, max(2, AT_ONCE // len(batch))), rows)
                parts.append(log_w.logsumexp(0))
                if len(log_w) == 1 < k - rows:  # log p(x) itself
                    break
                rows += len(log_w)
            bounds.append(torch.stack(parts).logsumexp(0).cpu() - math.log(max(rows, 1)))
    return torch.cat(bounds), rows or None


NAMES = ("nats", "bpd", "excess_nats")
likelihood = Metric(measure, names=NAMES)
L16, L100, L1000, L5000 = (Metric(partial(measure, k=k), names=NAMES) for k in (16, 100, 1000, 5000))
L1000_first200 = Metric(partial(measure, k=1000, points=FIRST), names=NAMES)
