"""Bijections of points, and how they compose."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from torch import Tensor, nn

Shape = tuple[int, ...]  # of one point: (D,) or (C, H, W)


class Bijection(nn.Module, ABC):
    """An invertible map from data to base, and back."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|det dy/dx| in nats, (B,), or () where it is the same for every x; x (B, ...)."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """Return x, y (B, ...)."""


class Chain(Bijection):
    """Bijections one after another; their log-determinants add."""

    def __init__(self, bijections: Iterable[Bijection]) -> None:
        super().__init__()
        self.bijections = nn.ModuleList(bijections)

    def __iter__(self) -> Iterator[Bijection]:
        return (f for f in self.bijections if isinstance(f, Bijection))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        constant = of_each = x.new_zeros(())  # apart, so that a sum over the batch is broadcast once
        for f in self:
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


class Elementwise(NamedTuple):
    """A monotone map of each entry on its own, told by parameters that a network gives for it.

    The parameters of entry c stand together: params (B, C * parameters, ...) for x (B, C, ...), those of c at
    c * parameters, c * parameters + 1, ...

    Attributes:
        parameters: how many there are for an entry. All zero, the map is the identity (or a fixed one near it).
        forward: x, params -> y as x, and log|det dy/dx| in nats, (B,).
        inverse: y, params -> x.
    """

    parameters: int
    forward: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    inverse: Callable[[Tensor, Tensor], Tensor]
