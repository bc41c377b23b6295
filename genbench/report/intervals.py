"""Statistics over a few seeds: Student-t intervals, Welch's test, and ranks with ties.

The seed is the unit of replication. Everything here is a pure function of means, standard deviations (n - 1 in the
denominator) and numbers of seeds, over arrays of one shape.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

Array = NDArray[np.float64]
BLOCK = 256  # rows compared with all others at a time: memory grows linearly with the rows, not quadratically


class Sample(NamedTuple):
    """Means, standard deviations and sizes of samples, elementwise."""

    mean: Array
    std: Array
    n: Array


def half_width(std: Array, n: Array, level: float = 0.95) -> Array:
    """Return the half-width of the Student-t interval of a mean, t_{n-1} s / sqrt(n); nan where n < 2.

    "The Probable Error of a Mean" (Student, 1908).
    """
    n = np.asarray(n, float)
    t = stdtrit(np.maximum(n - 1, 1), (1 + level) / 2)
    with np.errstate(over="ignore"):
        return np.where(n > 1, t * std / np.sqrt(np.maximum(n, 1)), np.nan)


def welch(a: Sample, b: Sample) -> tuple[Array, Array, Array]:
    """Return the difference of means b - a, its standard error, and its degrees of freedom (nan where n < 2).

    "The Generalization of 'Student's' Problem when Several Different Population Variances are Involved"
    (Welch, 1947), equation 28. If one sample has no spread, the degrees of freedom are those of the other; if neither
    has any, they are infinite. Standard errors are scaled by the larger one before squaring, so that no finite value
    over- or underflows.
    """
    e, f = (np.where(s.n > 1, s.std / np.sqrt(np.maximum(s.n, 1)), np.nan) for s in (a, b))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        larger = np.maximum(e, f)
        u, v = (e / larger) ** 2, (f / larger) ** 2
        dof = (u + v) ** 2 / (u**2 / (a.n - 1) + v**2 / (b.n - 1))
        return b.mean - a.mean, np.hypot(e, f), np.where(larger == 0, np.inf, dof)


def p_value(difference: Array, stderr: Array, dof: Array) -> Array:
    """Return the two-sided p-value of `difference`; 1 where it is zero, nan where it cannot be tested."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        t = np.where(difference == 0, 0.0, np.abs(difference) / stderr)
    p = 2 * stdtr(np.where(np.isinf(dof), 1e9, dof), -t)
    return np.where(np.isnan(stderr), np.nan, p)


def welch_half_width(stderr: Array, dof: Array, level: float = 0.95) -> Array:
    """Return the half-width of the confidence interval of a difference of means; nan where n < 2."""
    t = stdtrit(np.where(np.isinf(dof), 1e9, dof), (1 + level) / 2)
    with np.errstate(over="ignore"):
        return np.where(np.isnan(stderr), np.nan, t * stderr)


def ranks(sample: Sample, better: Literal["lower", "higher"], alpha: float = 0.05) -> NDArray[np.int64]:
    """Return the rank of each of R rows, (R,): 1 + the number of significantly better rows, made monotone in the mean.

    The test is Welch's, two-sided, over seeds, at level `alpha`, and not corrected for multiple comparisons. Rows with
    n < 2 beat nobody and are beaten by nobody. No row ranks above one with a better mean: seeds so scattered that a row
    cannot be separated from the best do not lift it above rows that are better on average.
    """
    blocks = (Sample(*(part[i : i + BLOCK] for part in sample)) for i in range(0, len(sample.mean), BLOCK))
    positions = 1 + np.concatenate([_count_better(block, sample, better, alpha) for block in blocks])
    order = np.argsort(sample.mean if better == "lower" else -sample.mean, kind="stable")
    positions[order] = np.maximum.accumulate(positions[order])
    return positions


def _count_better(rows: Sample, others: Sample, better: Literal["lower", "higher"], alpha: float) -> NDArray[np.int64]:
    """Return for each of `rows` (B,) how many of `others` (R,) are significantly better."""
    down, across = (Sample(*(np.expand_dims(part, axis) for part in s)) for s, axis in ((rows, 1), (others, 0)))
    difference, stderr, dof = welch(down, across)  # [i, j]: other j minus row i
    wins = difference < 0 if better == "lower" else difference > 0
    with np.errstate(over="ignore"):
        i, j = np.nonzero(wins & (np.abs(difference) > 1.95 * stderr))  # a smaller t is never significant
    significant = p_value(difference[i, j], stderr[i, j], dof[i, j]) < alpha
    counts: NDArray[np.int64] = np.bincount(i[significant], minlength=len(rows.mean))
    return counts


def quantile(values: tuple[float, ...], q: float) -> float:
    """Return the q-quantile of `values` (at least one), by linear interpolation."""
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])
