"""What codes know of labels that the model never saw: a linear probe, and clusters.

Both take z = encode(x), as the model gives it, of data with labels; a model without `encode` has neither.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genbench.capabilities import HasEncoder
from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.metrics.estimates import proportion

__all__ = ["clustering", "linear_probe"]


def probes(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return how well a straight line tells labels apart by codes.

    - linear_probe_accuracy: share of the test split that a logistic regression on codes of the training split,
      standardised, gets right.
    """
    labels = evaluation.dataset.labels
    if labels is None or (z := codes(evaluation)) is None:
        return {}
    return {"linear_probe_accuracy": probe(z[0], labels[0], z[1], labels[2])}


def clustered(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return how well clusters of codes agree with labels.

    - clustering_ari, clustering_nmi: k-means on codes of the training split, k the number of labels; agreement of the
      clusters of the test split with its labels. Comparing Partitions (1985), eq. 5: 1 is the same partition, 0 what
      chance gives; Cluster Ensembles (2002), eq. 3, with the arithmetic mean of the entropies.
    """
    labels = evaluation.dataset.labels
    if labels is None or (z := codes(evaluation)) is None:
        return {}
    return clusters(*z, labels[2])


def codes(evaluation: Evaluation) -> tuple[Tensor, Tensor] | None:
    """Return z of the training and the test split, (N, Z) float64 on the CPU; None for a model without codes."""
    model, data = evaluation.model, evaluation.dataset
    if not isinstance(model, HasEncoder):
        return None
    with torch.no_grad():
        train, test = ([model.encode(x) for x in evaluation.batches(split)] for split in (data.train, data.test))
    return torch.cat(train).flatten(1).double().cpu(), torch.cat(test).flatten(1).double().cpu()


def probe(train: Tensor, y_train: Tensor, test: Tensor, y_test: Tensor) -> Measurement:
    """Return the accuracy on (test, y_test) of a logistic regression on (train, y_train), z (N, Z), y (N,)."""
    from sklearn.linear_model import LogisticRegression

    std, mean = torch.std_mean(train, 0, correction=0)
    varying = std > 1e-4 * std.max()  # others do not move with x but for rounding
    if varying.any() and len(y_train.unique()) > 1:
        a, b = (((z - mean) / std)[:, varying].numpy() for z in (train, test))
        right = torch.from_numpy(LogisticRegression(max_iter=1000).fit(a, y_train.numpy()).predict(b)) == y_test
    else:  # codes that tell nothing, or one label: the most frequent is the best guess
        right = y_test == y_train.mode().values
    return proportion(right, "linear_probe 1")


def clusters(train: Tensor, test: Tensor, labels: Tensor) -> dict[str, Measurement]:
    """Return the agreement of k-means, fitted to `train` (N, Z), with the labels (M,) of `test` (M, Z)."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    kmeans = KMeans(min(len(labels.unique()), len(train)), n_init=10, random_state=int(torch.randint(2**31, ())))
    found, y = kmeans.fit(train.numpy()).predict(test.numpy()), labels.numpy()
    scores = {"ari": adjusted_rand_score(y, found), "nmi": normalized_mutual_info_score(y, found)}
    return {
        f"clustering_{name}": Measurement(
            value=float(score), unit="", better="higher", n=len(y), impl="clustering 1, k-means"
        )
        for name, score in scores.items()
    }


linear_probe, clustering = Metric(probes), Metric(clustered)
