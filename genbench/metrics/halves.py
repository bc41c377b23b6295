"""What random parts of data say of a statistic: its standard error, its value on endless data, and under chance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

DRAWS = 20


def of_halves(statistic: Callable[..., float | tuple[float, ...]], *sets: Tensor, draws: int = DRAWS) -> Tensor:
    """Return the statistic of random halves of every set (n_i, ...), (draws, ...) float64: the same in every run."""
    generator = torch.Generator().manual_seed(0)
    values = [statistic(*(shuffled(x, generator)[: len(x) // 2] for x in sets)) for _ in range(draws)]
    return torch.tensor(values, dtype=torch.float64)


def of_partitions(statistic: Callable[..., float], a: Tensor, b: Tensor, draws: int = DRAWS) -> Tensor:
    """Return the statistic of random partitions of a (n, ...) and b (m, ...) together into n and m, (draws,)."""
    both, generator = torch.cat((a, b)), torch.Generator().manual_seed(0)
    values = [statistic(*shuffled(both, generator).split((len(a), len(b)))) for _ in range(draws)]
    return torch.tensor(values, dtype=torch.float64)


def shuffled(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return x (n, ...) in a random order."""
    return x[torch.randperm(len(x), generator=generator)]


def stderr(halves: Tensor) -> float:
    """Return the standard error of a statistic of all the data, from those of halves (draws,).

    It is their spread (A General Theory for Jackknife Variance Estimation, 1989, where half of the data is left out).
    """
    return halves.std().item()


def endless(value: float, halves: Tensor) -> float:
    """Return what a statistic that is linear in 1/n comes to as n grows, from n and n/2: 2 value - mean of halves.

    Effectively Unbiased FID and Inception Score and Where to Find Them (2020).
    """
    return 2 * value - halves.mean().item()
