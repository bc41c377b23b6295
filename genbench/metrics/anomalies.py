"""Anomaly detection: how well a model's scores tell test points from points that are none.

`anomalies` takes, for anomalies, test points whose dimensions are each drawn from another test point: each dimension
by itself is distributed as before, and only what binds them is gone. `anomalies:ising`, `anomalies:digits` and
`anomalies:binary` take the test split of another data set of the same space. `anomalies:nine` takes the nines for a
model of the digits that was trained, selected and tested without them: those of all splits, for it has seen none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from genbench.capabilities import HasReconstruction
from genbench.dataset import Dataset
from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.validation.datasets import load_dataset

__all__ = ["anomalies", "binary", "digits", "ising", "nine"]

WITHOUT_NINES = {"digits": "digits:but_nine", "digits:binary": "digits:binary_but_nine"}


def measure(evaluation: Evaluation, said: str, strangers: Callable[[Dataset], Tensor | None]) -> dict[str, Measurement]:
    """Return the area under the ROC curve of each score that the model has, 1/2 that of chance.

    - anomaly_auroc_reconstruction_<said>: the score is the squared distance of a point from its reconstruction.
    - anomaly_auroc_likelihood_<said>: it is -log p(x), exact or a bound.

    Args:
        strangers: the anomalies for a model of a data set, (N, *shape); None: there are none, and no measurements.
    """
    x, others = evaluation.dataset.test, strangers(evaluation.dataset)
    if others is None:
        return {}
    with torch.no_grad():
        found = dict(scores(evaluation, torch.cat((x, others)).split(512)))
    strange = torch.cat((torch.zeros(len(x)), torch.ones(len(others))))
    return {f"anomaly_auroc_{name}_{said}": auroc(strange, score) for name, score in found.items()}


def another(name: str, data: Dataset) -> Tensor | None:
    """Return the test split of the data set `name`, unless that is `data` itself or of another space."""
    other = load_dataset(name)
    return other.test if other.space == data.space and other.sha256 != data.sha256 else None


def held_out(label: int, without: dict[str, str], data: Dataset) -> Tensor | None:
    """Return all points of `label` of the set that `data` is the rest of, if it is; `without`: names, whole to rest."""
    for name, rest in without.items():
        whole = load_dataset(name)
        if whole.space == data.space and load_dataset(rest).sha256 == data.sha256:
            assert whole.labels is not None
            return torch.cat((whole.train, whole.validation, whole.test))[torch.cat(whole.labels) == label]
    return None


def shuffled(x: Tensor) -> Tensor:
    """Return x (N, *shape) with each dimension permuted over points by a permutation of its own."""
    flat = x.flatten(1)
    return flat.gather(0, torch.rand(flat.shape).argsort(0)).view_as(x)


def scores(evaluation: Evaluation, batches: tuple[Tensor, ...]) -> Iterator[tuple[str, Tensor]]:
    """Yield names and scores (N,) of the points of `batches`; the more anomalous, the higher."""
    model, parts = evaluation.model, [x.to(evaluation.device) for x in batches]
    if isinstance(model, HasReconstruction):
        squares = [(model.reconstruct(x).double() - x).square().flatten(1).sum(1) for x in parts]
        yield "reconstruction", torch.cat(squares).round(decimals=8).cpu()  # float32's rounding tells nothing
    if model.likelihood is not None:
        yield "likelihood", -torch.cat([evaluation.log_prob_of(x) for x in parts])


def auroc(strange: Tensor, score: Tensor) -> Measurement:
    """Return the probability that an anomaly, where strange (N,) is 1, has a higher score (N,) than another point."""
    from sklearn.metrics import roc_auc_score

    value = float(roc_auc_score(strange.numpy(), score.numpy()))
    return Measurement(value=value, unit="", better="higher", n=len(score), impl="anomalies 1")


anomalies = Metric(partial(measure, said="shuffled", strangers=lambda data: shuffled(data.test)))
digits, binary, ising = (
    Metric(partial(measure, said=name.replace(":", "_"), strangers=partial(another, name)))
    for name in ("digits", "digits:binary", "ising")
)
nine = Metric(partial(measure, said="nine", strangers=partial(held_out, 9, WITHOUT_NINES)))
