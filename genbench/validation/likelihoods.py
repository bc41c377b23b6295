"""Impossible likelihoods: above 1 for integers, or above the true density on test data.

If a density p does not depend on the n test points, which are drawn from p*, then E prod_i p(x_i) / p*(x_i) <= 1, and
by Markov's inequality, whatever the distribution,

    P(sum_i log p(x_i) - log p*(x_i) >= t) <= e^-t

(E-values: Calibration, combination and applications, 2021, section 2). The same is true for lower bounds on log p, and
for logarithms of unbiased estimates of p. Standard errors would not do: they are too small for few points, or for rare
and large differences. Probabilities of integers are at most 1, so that p* = 1 is a bound for them.
"""

from __future__ import annotations

import math

from scipy.stats import t as student
from torch import Tensor

from genbench.dataset import Dataset
from genbench.suite import Kind

CHANCE = 1e-9  # probability of calling a correct likelihood impossible
ROUNDING = 0.01  # nats per point by which float32, or a solver, may be too high


def is_impossible(log_p: Tensor, kind: Kind, data: Dataset, truth: Tensor | None) -> bool:
    """Return whether log p of test points, (N,) nats, is higher than any model can achieve.

    Args:
        truth: the true log p* of these points, (N,), where it is known. If only the entropy is known, the mean of log p
            must not exceed its negative by more standard errors than Student's t distribution allows.
    """
    above_one = exceeds(log_p) or (kind == "exact" and bool((log_p > ROUNDING).any()))
    if data.space.levels is not None and above_one:
        return True
    if truth is not None:
        return exceeds(log_p - truth)
    return data.entropy is not None and beats_entropy(log_p, data.entropy)


def exceeds(advantage: Tensor) -> bool:
    """Return whether the sum of log p(x) - log p*(x), (N,) nats, is more than chance and rounding explain."""
    return (advantage - ROUNDING).sum().item() > -math.log(CHANCE)


def beats_entropy(log_p: Tensor, entropy: float) -> bool:
    """Return whether the mean of -log p, (N,) nats, is below the true entropy by more than chance explains."""
    if (n := len(log_p)) < 2:
        return False
    error = log_p.std(correction=1).item() / n**0.5
    return bool(entropy + log_p.mean().item() > ROUNDING + student.isf(CHANCE, n - 1) * error)
