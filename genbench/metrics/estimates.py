"""Estimates and their standard errors: means, proportions, half-sample jackknife, extrapolation, permutation null."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from genbench.evaluation import Measurement
from genbench.records.record import Better

DRAWS = 20  # random half-samples or permutations


# -------------------------------------------------------------------------------------------- means and proportions


def mean_stderr(values: Tensor) -> float | None:
    """Return the standard error of the mean of `values` (N,), s / sqrt(N); None if N < 2."""
    return (values.std() / len(values) ** 0.5).item() if len(values) > 1 else None


def binomial_stderr(p: float, n: int) -> float:
    """Return the standard error of a proportion p of n, sqrt(p (1 - p) / n)."""
    error: float = (p * (1 - p) / n) ** 0.5
    return error


def proportion(successes: Tensor, impl: str, better: Better = "higher") -> Measurement:
    """Return the proportion of true values in `successes` (n,) bool, with its binomial standard error."""
    p, n = successes.double().mean().item(), len(successes)
    return Measurement(value=p, unit="of points", better=better, n=n, stderr=binomial_stderr(p, n), impl=impl)


# -------------------------------------------------------------------------------------------------------- resampling


def half_sample_jackknife(
    statistic: Callable[..., float | tuple[float, ...]], *samples: Tensor, draws: int = DRAWS
) -> Tensor:
    """Return the statistic of random halves of every sample (n_i, ...), (draws, ...) float64; the same in every run.

    A General Theory for Jackknife Variance Estimation (1989), with half of the data left out.
    """
    generator = torch.Generator().manual_seed(0)
    values = [statistic(*(_shuffle(x, generator)[: len(x) // 2] for x in samples)) for _ in range(draws)]
    return torch.tensor(values, dtype=torch.float64)


def jackknife_stderr(half_sample_values: Tensor) -> float:
    """Return the standard error of a statistic of all data from its values on half-samples (draws,): their spread."""
    return half_sample_values.std().item()


def extrapolate_n_to_inf(value: float, half_sample_values: Tensor) -> float:
    """Return the limit for n -> infinity of a statistic linear in 1/n, from n and n/2: 2 value - mean over halves.

    Effectively Unbiased FID and Inception Score and Where to Find Them (2020).
    """
    return 2 * value - half_sample_values.mean().item()


def permutation_null(statistic: Callable[..., float], a: Tensor, b: Tensor, draws: int = DRAWS) -> Tensor:
    """Return the statistic under the null hypothesis that a (n, ...) and b (m, ...) have one distribution, (draws,).

    The two are pooled, permuted, and split into n and m again.
    """
    pooled, generator = torch.cat((a, b)), torch.Generator().manual_seed(0)
    values = [statistic(*_shuffle(pooled, generator).split((len(a), len(b)))) for _ in range(draws)]
    return torch.tensor(values, dtype=torch.float64)


def _shuffle(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return x (n, ...) in random order."""
    return x[torch.randperm(len(x), generator=generator)]
