"""NFE: how many network evaluations a model with a solver, such as an ODE, needs for a density and for a sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from genbench.capabilities import HasNFE
from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.train import reseed

__all__ = ["nfe"]


def measure(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return the evaluations for a batch of test points and for as many samples; nothing for models without a count."""
    model = evaluation.model
    if not isinstance(model, HasNFE):
        return {}
    reseed(evaluation.run.seed, "evaluations")  # the former name of this metric: published samples stay the same
    x = next(evaluation.batches(evaluation.dataset.test, 512))
    measurements = {"nfe_sample": count_evaluations(model, lambda: model.sample(len(x)), len(x))}
    if model.likelihood is not None:
        measurements["nfe_density"] = count_evaluations(model, lambda: model.log_prob(x), len(x))
    return measurements


def count_evaluations(model: HasNFE, call: Callable[[], Any], n: int) -> Measurement:
    """Return the network evaluations during `call`, which handles n points."""
    with torch.no_grad():
        call()
    return Measurement(value=model.evaluations, unit="evaluations", better="lower", n=n, impl="evaluations 1")


nfe = Metric(measure)
