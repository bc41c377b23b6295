"""Anomaly detection: how well a model's scores separate test points from outliers.

The outliers of `anomalies` are test points of which each dimension is shuffled over points by itself: the marginals
stay the same, and all dependence is gone. `anomalies:ising`, `anomalies:digits` and `anomalies:binary` take the test
split of another data set on the same space. `anomalies:nine` takes the nines of all splits, for a model that was
trained, selected and tested on the digits without them.
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


def measure(
    evaluation: Evaluation, suffix: str, outliers: Callable[[Dataset], Tensor | None]
) -> dict[str, Measurement]:
    """Return the area under the ROC curve of each score that the model has; chance gives 1/2.

    - anomaly_auroc_reconstruction_<suffix>: the score is the squared distance of a point from its reconstruction.
    - anomaly_auroc_likelihood_<suffix>: the score is -log p(x), exact or a bound.

    Args:
        outliers: returns the outliers (N, *shape) for a data set, or None if it has none; then nothing is measured.
    """
    x, others = evaluation.dataset.test, outliers(evaluation.dataset)
    if others is None:
        return {}
    with torch.no_grad():
        by_name = dict(scores(evaluation, torch.cat((x, others)).split(512)))
    is_outlier = torch.cat((torch.zeros(len(x)), torch.ones(len(others))))
    return {f"anomaly_auroc_{name}_{suffix}": auroc(is_outlier, score) for name, score in by_name.items()}


def points_of_other(name: str, data: Dataset) -> Tensor | None:
    """Return the test split of the data set `name`; None if that is `data` itself or lies in another space."""
    other = load_dataset(name)
    return other.test if other.space == data.space and other.sha256 != data.sha256 else None


def held_out(label: int, without: dict[str, str], data: Dataset) -> Tensor | None:
    """Return all points of `label` of the data set that `data` is without that label; None if it is none of them.

    Args:
        without: names of data sets, with the label -> without it.
    """
    for name, rest in without.items():
        whole = load_dataset(name)
        if whole.space == data.space and load_dataset(rest).sha256 == data.sha256:
            assert whole.labels is not None
            return torch.cat((whole.train, whole.validation, whole.test))[torch.cat(whole.labels) == label]
    return None


def shuffled(x: Tensor) -> Tensor:
    """Return x (N, *shape) with each dimension shuffled over points independently of the others."""
    flat = x.flatten(1)
    return flat.gather(0, torch.rand(flat.shape).argsort(0)).view_as(x)


def scores(evaluation: Evaluation, batches: tuple[Tensor, ...]) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the values (N,) of each score over all points of `batches`; outliers should have high ones."""
    model, parts = evaluation.model, [x.to(evaluation.device) for x in batches]
    if isinstance(model, HasReconstruction):
        squares = [(model.reconstruct(x).double() - x).square().flatten(1).sum(1) for x in parts]
        yield "reconstruction", torch.cat(squares).round(decimals=8).cpu()  # ties instead of float32's rounding errors
    if model.likelihood is not None:
        yield "likelihood", -torch.cat([evaluation.log_prob_of(x) for x in parts])


def auroc(is_outlier: Tensor, score: Tensor) -> Measurement:
    """Return the probability that an outlier has a higher score than another point, both (N,), 1.0 for outliers."""
    from sklearn.metrics import roc_auc_score

    value = float(roc_auc_score(is_outlier.numpy(), score.numpy()))
    return Measurement(value=value, unit="", better="higher", n=len(score), impl="anomalies 1")


anomalies = Metric(partial(measure, suffix="shuffled", outliers=lambda data: shuffled(data.test)))
digits, binary, ising = (
    Metric(partial(measure, suffix=name.replace(":", "_"), outliers=partial(points_of_other, name)))
    for name in ("digits", "digits:binary", "ising")
)
nine = Metric(partial(measure, suffix="nine", outliers=partial(held_out, 9, WITHOUT_NINES)))
