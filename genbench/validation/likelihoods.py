"""Likelihoods that cannot be: above 1 for integers, or above the truth on data that the model has not seen.

For a density p that is independent of n test points of the truth p*, E prod_i p(x_i) / p*(x_i) <= 1, and so by Markov's
inequality, whatever the distribution,

    P(sum_i log p(x_i) - log p*(x_i) >= t) <= e^-t

(E-values: Calibration, combination and applications, 2021, section 2). The same holds of lower bounds on log p, and of
logs of unbiased estimates of p. Standard errors would not do: those of few points, or of rare and large differences,
are too small. Probabilities of integers are at most 1, so that p* = 1 bounds them, too.
"""

from __future__ import annotations

import math

from scipy.stats import t as student
from torch import Tensor

from genbench.dataset import Dataset
from genbench.suite import Kind

CHANCE = 1e-9  # of a true likelihood to be called impossible
ROUNDING = 0.01  # nats by which float32, or a solver, may put a point too high


def is_impossible(log_p: Tensor, kind: Kind, data: Dataset, truth: Tensor | None) -> bool:
    """Return whether log p of test points, (N,) nats, is higher than any model can come by.

    Args:
        truth: the true log p* of these points, (N,), where it is known. Where the entropy alone is known, the mean of
            log p must not exceed its negative by more standard errors than Student's t allows by chance.
    """
    above_one = exceeds(log_p) or (kind == "exact" and bool((log_p > ROUNDING).any()))
    if data.space.levels is not None and above_one:
        return True
    if truth is not None:
        return exceeds(log_p - truth)
    return data.entropy is not None and beats_entropy(log_p, data.entropy)


def exceeds(advantage: Tensor) -> bool:
    """Return whether log p(x) - log p*(x) of points, (N,) nats, sum to more than chance and rounding give."""
    return (advantage - ROUNDING).sum().item() > -math.log(CHANCE)


def beats_entropy(log_p: Tensor, entropy: float) -> bool:
    """Return whether the mean of -log p, (N,) nats, is below the entropy of the truth by more than chance gives."""
    if (n := len(log_p)) < 2:
        return False
    error = log_p.std(correction=1).item() / n**0.5
    return bool(entropy + log_p.mean().item() > ROUNDING + student.isf(CHANCE, n - 1) * error)
