"""What codes know of labels that the model never saw: a linear probe, and clusters.

Both take z = encode(x), as the model gives it, of data with labels; a model without `encode` has neither.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from genbench.evaluation import Evaluation, Measurement, Metric

__all__ = ["representation"]


@runtime_checkable
class Encodes(Protocol):
    """A model with codes z (B, ...) of points."""

    def encode(self, x: Tensor) -> Tensor: ...


def measure(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return how well codes tell labels apart.

    - linear_probe_accuracy: share of the test split that a logistic regression on codes of the training split,
      standardised, gets right.
    - clustering_ari, clustering_nmi: k-means on codes of the training split, k the number of labels; agreement of the
      clusters of the test split with its labels. Comparing Partitions (1985), eq. 5: 1 is the same partition, 0 what
      chance gives; Cluster Ensembles (2002), eq. 3, with the arithmetic mean of the entropies.
    """
    model, labels = evaluation.model, evaluation.dataset.labels
    if not isinstance(model, Encodes) or labels is None:
        return {}
    with torch.no_grad():
        train, test = (codes(evaluation, model, x) for x in (evaluation.dataset.train, evaluation.dataset.test))
    return {"linear_probe_accuracy": probe(train, labels[0], test, labels[2])} | clusters(train, test, labels[2])


def codes(evaluation: Evaluation, model: Encodes, x: Tensor) -> Tensor:
    """Return z of x (N, *shape), (N, Z) float64 on the CPU."""
    return torch.cat([model.encode(batch).flatten(1).double().cpu() for batch in evaluation.batches(x)])


def probe(train: Tensor, y_train: Tensor, test: Tensor, y_test: Tensor) -> Measurement:
    """Return the accuracy on (test, y_test) of a logistic regression on (train, y_train), z (N, Z), y (N,)."""
    from sklearn.linear_model import LogisticRegression

    std, mean = torch.std_mean(train, 0, correction=0)
    kept = std > 1e-4 * std.max()  # others do not move with x but for rounding
    a, b = (((z - mean) / std)[:, kept].numpy() for z in (train, test))
    right = torch.from_numpy(LogisticRegression(max_iter=1000).fit(a, y_train.numpy()).predict(b)) == y_test
    p, n = right.double().mean().item(), len(right)
    stderr = (p * (1 - p) / n) ** 0.5
    return Measurement(value=p, unit="of points", better="higher", n=n, stderr=stderr, impl="representation 1")


def clusters(train: Tensor, test: Tensor, labels: Tensor) -> dict[str, Measurement]:
    """Return the agreement of k-means, fitted to `train` (N, Z), with the labels (M,) of `test` (M, Z)."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    kmeans = KMeans(len(labels.unique()), n_init=10, random_state=int(torch.randint(2**31, ())))
    found, y = kmeans.fit(train.numpy()).predict(test.numpy()), labels.numpy()
    scores = {"ari": adjusted_rand_score(y, found), "nmi": normalized_mutual_info_score(y, found)}
    return {
        f"clustering_{name}": Measurement(
            value=float(score), unit="", better="higher", n=len(y), impl="representation 1, k-means"
        )
        for name, score in scores.items()
    }


representation = Metric(measure)
