"""Representation quality: how well codes predict labels that the model never saw, by a linear probe and by clusters.

Both take z = encode(x) on data with labels; a model without `encode` has neither.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genbench.capabilities import HasEncoder
from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.metrics.estimates import proportion

__all__ = ["clustering", "linear_probe"]


def measure_probe(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return how well a linear classifier predicts labels from codes.

    - linear_probe_accuracy: test accuracy of a logistic regression on standardized codes, fitted to the training split.
    """
    labels = evaluation.dataset.labels
    if labels is None or (z := codes(evaluation)) is None:
        return {}
    return {"linear_probe_accuracy": probe(z[0], labels[0], z[1], labels[2])}


def measure_clusters(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return how well clusters of codes agree with labels.

    - clustering_ari, clustering_nmi: agreement of the clusters of the test split with its labels, by k-means on codes
      of the training split, k the number of labels. ARI is 1 for equal partitions and 0 by chance (Comparing
      Partitions, 1985, eq. 5); NMI has the arithmetic mean of the entropies (Cluster Ensembles, 2002, eq. 3).
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
    varying = std > 1e-4 * std.max()  # the others are constant but for rounding
    if varying.any() and len(y_train.unique()) > 1:
        a, b = (((z - mean) / std)[:, varying].numpy() for z in (train, test))
        correct = torch.from_numpy(LogisticRegression(max_iter=1000).fit(a, y_train.numpy()).predict(b)) == y_test
    else:  # constant codes, or a single label: predict the most frequent label
        correct = y_test == y_train.mode().values
    return proportion(correct, "linear_probe 1")


def clusters(train: Tensor, test: Tensor, labels: Tensor) -> dict[str, Measurement]:
    """Return the agreement of k-means, fitted to `train` (N, Z), with the labels (M,) of `test` (M, Z)."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    kmeans = KMeans(min(len(labels.unique()), len(train)), n_init=10, random_state=int(torch.randint(2**31, ())))
    predicted, y = kmeans.fit(train.numpy()).predict(test.numpy()), labels.numpy()
    scores = {"ari": adjusted_rand_score(y, predicted), "nmi": normalized_mutual_info_score(y, predicted)}
    return {
        f"clustering_{name}": Measurement(
            value=float(score), unit="", better="higher", n=len(y), impl="clustering 1, k-means"
        )
        for name, score in scores.items()
    }


linear_probe, clustering = Metric(measure_probe), Metric(measure_clusters)
