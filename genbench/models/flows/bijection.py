"""Bijections of points, and how they compose."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from genbench.models.flows.closed import Closed, Step, joined

Shape = tuple[int, ...]  # of one point: (D,) or (C, H, W)


class Bijection(nn.Module, ABC):
    """An invertible map from data to base, and back."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|det dy/dx| in nats, (B,), or () where it is the same for every x; x (B, ...)."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """Return x, y (B, ...)."""

    def step(self, x: Tensor) -> Step | None:
        """Return `forward` as it is for all that is like x in shape and dtype, where its gradient has a closed form."""
        return None


class Chain(Bijection):
    """Bijections one after another; their log-determinants add."""

    def __init__(self, bijections: Iterable[Bijection]) -> None:
        super().__init__()
        self.bijections = nn.ModuleList(bijections)

    def __iter__(self) -> Iterator[Bijection]:
        return (f for f in self.bijections if isinstance(f, Bijection))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        constant = of_each = x.new_zeros(())  # apart, so that a sum over the batch is broadcast once
        for run in in_runs(self):
            for f in joined(run, x):
                x, logdet = f(x)
                if logdet.ndim:
                    of_each = of_each + logdet
                else:
                    constant = constant + logdet
        return x, of_each + constant

    def inverse(self, y: Tensor) -> Tensor:
        for f in reversed(list(self)):
            y = f.inverse(y)
        return y


def in_runs(bijections: Iterable[Bijection]) -> list[list[Bijection]]:
    """Return the bijections that have steps in runs, as long as they are in a row, and every other by itself."""
    runs: list[list[Bijection]] = []
    before = False
    for f in bijections:
        has_steps = type(f).step is not Bijection.step
        if has_steps and before:
            runs[-1].append(f)
        else:
            runs.append([f])
        before = has_steps
    return runs


class Elementwise(NamedTuple):
    """A monotone map of each entry on its own, told by parameters that a network gives for it.

    The parameters of entry c stand together: params (B, C * parameters, ...) for x (B, C, ...), those of c at
    c * parameters, c * parameters + 1, ...

    Attributes:
        parameters: how many there are for an entry. All zero, the map is the identity (or a fixed one near it).
        forward: x, params -> y as x, and log|det dy/dx| in nats, (B,).
        inverse: y, params -> x.
        closed: `forward` with its gradient, in float32 on a CPU; None where nobody has written it down.
    """

    parameters: int
    forward: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    inverse: Callable[[Tensor, Tensor], Tensor]
    closed: Closed | None = None


def wide(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in float32 or wider, which tails and narrow bins need."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.to(dtype), params.to(dtype)


def by_number(params: Tensor, P: int) -> Tensor:
    """Return params (B, C * P, ...) as (P, B * C ...): what is done for each number is done for all entries at once."""
    pairs = params.reshape(-1, P, *params.shape[2:])  # with nothing behind, a transpose of two dimensions: the fastest
    return pairs.transpose(0, 1).reshape(P, -1)


def by_entry(p: Tensor, x: Tensor) -> Tensor:
    """Return p (P, B * C ...) as the params (B, C * P, ...) of the entries of x (B, C, ...)."""
    B, C, *rest = x.shape
    return p.view(len(p), B * C, *rest).transpose(0, 1).reshape(B, C * len(p), *rest)
