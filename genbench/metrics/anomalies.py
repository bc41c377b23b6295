"""Anomaly detection: how well a model's scores tell test points from points that are none.

`anomalies` takes, for anomalies, test points whose dimensions are each drawn from another test point: each dimension
by itself is distributed as before, and only what binds them is gone. `anomalies:ising`, `anomalies:digits` and
`anomalies:binary` take the test split of another data set of the same space.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.metrics.latents import Reconstructs
from genbench.run import find

__all__ = ["anomalies", "binary", "digits", "ising"]


def measure(evaluation: Evaluation, data: str | None = None) -> dict[str, Measurement]:
    """Return the area under the ROC curve of each score that the model has, 1/2 that of chance.

    - anomaly_auroc_reconstruction_<data>: the score is the squared distance of a point from its reconstruction.
    - anomaly_auroc_likelihood_<data>: it is -log p(x), exact or a bound.

    <data> is "shuffled", or the name of the other data set; there is nothing where that is the model's own, or of
    another space.
    """
    x = evaluation.dataset.test
    if data is None:
        others = shuffled(x)
    else:
        other = find("datasets", data)()
        if other.space != evaluation.dataset.space or other.sha256 == evaluation.dataset.sha256:
            return {}
        others = other.test
    said = "shuffled" if data is None else data.replace(":", "_")
    with torch.no_grad():
        found = dict(scores(evaluation, torch.cat((x, others)).split(512)))
    strange = torch.cat((torch.zeros(len(x)), torch.ones(len(others))))
    return {f"anomaly_auroc_{name}_{said}": auroc(strange, score) for name, score in found.items()}


def shuffled(x: Tensor) -> Tensor:
    """Return x (N, *shape) with each dimension permuted over points by a permutation of its own."""
    flat = x.flatten(1)
    return flat.gather(0, torch.rand(flat.shape).argsort(0)).view_as(x)


def scores(evaluation: Evaluation, batches: tuple[Tensor, ...]) -> Iterator[tuple[str, Tensor]]:
    """Yield names and scores (N,) of the points of `batches`; the more anomalous, the higher."""
    model, parts = evaluation.model, [x.to(evaluation.device) for x in batches]
    if isinstance(model, Reconstructs):
        squares = [(model.reconstruct(x).double() - x).square().flatten(1).sum(1) for x in parts]
        yield "reconstruction", torch.cat(squares).round(decimals=8).cpu()  # float32's rounding tells nothing
    if model.likelihood is not None:
        yield "likelihood", -torch.cat([model.log_prob(x).double() for x in parts]).cpu()


def auroc(strange: Tensor, score: Tensor) -> Measurement:
    """Return the probability that an anomaly, where strange (N,) is 1, has a higher score (N,) than another point."""
    from sklearn.metrics import roc_auc_score

    value = float(roc_auc_score(strange.numpy(), score.numpy()))
    return Measurement(value=value, unit="", better="higher", n=len(score), impl="anomalies 1")


anomalies = Metric(measure)
digits, binary, ising = (Metric(partial(measure, data=name)) for name in ("digits", "digits:binary", "ising"))
