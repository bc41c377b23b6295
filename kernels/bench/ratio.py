"""Whether a new version is slower than an old one: interleaved ABBA groups, their ratios, and a bootstrap bound.

Two runs of the same program in two processes easily differ by more than 5 % (clocks, memory placement, other load). So
the versions alternate in one process, old, new, new, old: a drift that is linear over the four cancels in the ratio
(new + new) / (old + old). A version fails only if the 95 % lower confidence bound of the median ratio exceeds 1.05, and
does so again in a second round of fresh groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

LIMIT = 1.05
PAIRS = 60


@dataclass(frozen=True)
class Verdict:
    """Rounds as (median ratio, lower bound); `slower` if there were two and both bounds exceed the limit."""

    rounds: tuple[tuple[float, float], ...]
    slower: bool


def paired_ratios(old: Callable[[], float], new: Callable[[], float], pairs: int = PAIRS) -> list[float]:
    """Return (new + new) / (old + old) of each ABBA group; `old()` and `new()` return the seconds of one call."""
    ratios = []
    for _ in range(pairs):
        a1, b1, b2, a2 = old(), new(), new(), old()
        ratios.append((b1 + b2) / (a1 + a2))
    return ratios


def lower_bound(ratios: list[float], *, level: float = 0.95, resamples: int = 1000, seed: int = 0) -> float:
    """Return the one-sided lower confidence bound of the median ratio (Efron, Bootstrap methods, 1979: percentile)."""
    values = torch.tensor(ratios, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(len(values), (resamples, len(values)), generator=generator)
    return values[indices].median(dim=1).values.quantile(1 - level).item()


def judge(ratios: Callable[[], list[float]], *, limit: float = LIMIT) -> Verdict:
    """Return the verdict on `ratios()`, which measures fresh groups; a second round is run only if the first fails."""
    rounds: list[tuple[float, float]] = []
    while len(rounds) < 2 and (not rounds or rounds[-1][1] > limit):
        values = ratios()
        median = torch.tensor(values, dtype=torch.float64).median().item()
        rounds.append((median, lower_bound(values, seed=len(rounds))))
    return Verdict(tuple(rounds), len(rounds) == 2 and rounds[-1][1] > limit)
