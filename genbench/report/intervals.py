"""What may be said from a few seeds: Student-t intervals, Welch's test, and ranks that ties share.

The seed is the unit of replication. Everything here is a pure function of means, standard deviations (n - 1 in
the denominator) and numbers of seeds, over arrays of any one shape.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

Array = NDArray[np.float64]
BLOCK = 256  # rows that are held against all others at once: memory grows with the rows, not with their square


class Sample(NamedTuple):
    """Means, standard deviations and sizes of samples, elementwise."""

    mean: Array
    std: Array
    n: Array


def half_width(std: Array, n: Array, level: float = 0.95) -> Array:
    """Return half the Student-t interval of a mean, t_{n-1} s / sqrt(n); nan where n < 2.

    "The Probable Error of a Mean" (Student, 1908).
    """
    n = np.asarray(n, float)
    t = stdtrit(np.maximum(n - 1, 1), (1 + level) / 2)
    with np.errstate(over="ignore"):
        return np.where(n > 1, t * std / np.sqrt(np.maximum(n, 1)), np.nan)


def welch(a: Sample, b: Sample) -> tuple[Array, Array, Array]:
    """Return b - a of the means, its standard error, and its degrees of freedom (nan where n < 2).

    "The Generalization of 'Student's' Problem when Several Different Population Variances are Involved"
    (Welch, 1947), equation 28. Where one sample has no spread the freedom is the other's; where neither has, it
    is infinite. Standard errors are squared as shares of the larger one, so that no finite value over- or underflows.
    """
    e, f = (np.where(s.n > 1, s.std / np.sqrt(np.maximum(s.n, 1)), np.nan) for s in (a, b))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        larger = np.maximum(e, f)
        u, v = (e / larger) ** 2, (f / larger) ** 2
        freedom = (u + v) ** 2 / (u**2 / (a.n - 1) + v**2 / (b.n - 1))
        return b.mean - a.mean, np.hypot(e, f), np.where(larger == 0, np.inf, freedom)


def p_value(difference: Array, stderr: Array, freedom: Array) -> Array:
    """Return the two-sided p of `difference`; 1 where it is zero, nan where it cannot be tested."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        t = np.where(difference == 0, 0.0, np.abs(difference) / stderr)
    p = 2 * stdtr(np.where(np.isinf(freedom), 1e9, freedom), -t)
    return np.where(np.isnan(stderr), np.nan, p)


def welch_half_width(stderr: Array, freedom: Array, level: float = 0.95) -> Array:
    """Return half the interval of a difference of means; nan where it cannot be given."""
    t = stdtrit(np.where(np.isinf(freedom), 1e9, freedom), (1 + level) / 2)
    with np.errstate(over="ignore"):
        return np.where(np.isnan(stderr), np.nan, t * stderr)


def ranks(sample: Sample, better: Literal["lower", "higher"], alpha: float = 0.05) -> NDArray[np.int64]:
    """Return for each of R rows (R,) 1 + the number of rows that are significantly better, or what a better mean has.

    Significantly: Welch's two-sided test over seeds at `alpha`, not adjusted for the number of pairs. Rows with n < 2
    beat nobody and are beaten by nobody. The larger of the two counts: a row whose seeds are too far apart to be told
    from the best does not rank before one that is better on average.
    """
    blocks = (Sample(*(part[i : i + BLOCK] for part in sample)) for i in range(0, len(sample.mean), BLOCK))
    positions = 1 + np.concatenate([_beaten(block, sample, better, alpha) for block in blocks])
    order = np.argsort(sample.mean if better == "lower" else -sample.mean, kind="stable")
    positions[order] = np.maximum.accumulate(positions[order])
    return positions


def _beaten(rows: Sample, others: Sample, better: Literal["lower", "higher"], alpha: float) -> NDArray[np.int64]:
    """Return for each of `rows` (B,) how many of `others` (R,) are significantly better."""
    down, across = (Sample(*(np.expand_dims(part, axis) for part in s)) for s, axis in ((rows, 1), (others, 0)))
    difference, stderr, freedom = welch(down, across)  # [i, j]: other j less row i
    wins = difference < 0 if better == "lower" else difference > 0
    with np.errstate(over="ignore"):
        i, j = np.nonzero(wins & (np.abs(difference) > 1.95 * stderr))  # no t beats 1.95 at any freedom
    beaten = p_value(difference[i, j], stderr[i, j], freedom[i, j]) < alpha
    counts: NDArray[np.int64] = np.bincount(i[beaten], minlength=len(rows.mean))
    return counts


def quantile(values: tuple[float, ...], q: float) -> float:
    """Return the q-quantile of `values` (at least one), interpolating linearly."""
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])
