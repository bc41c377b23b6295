"""Bijections of points, and their composition."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from genbench.fastpath import accelerated

Shape = tuple[int, ...]  # of one point: (D,) or (C, H, W)


class Bijection(nn.Module, ABC):
    """An invertible map from data to base, and back."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|det dy/dx| in nats, (B,), or () if it is the same for every x; x (B, ...)."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """Return x, y (B, ...)."""


class Chain(Bijection):
    """The composition of bijections, first to last; their log-determinants add up."""

    def __init__(self, bijections: Iterable[Bijection]) -> None:
        super().__init__()
        self.bijections = nn.ModuleList(bijections)

    def __iter__(self) -> Iterator[Bijection]:
        return (f for f in self.bijections if isinstance(f, Bijection))

    @accelerated
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(())
        for f in self:
            x, logdet = f(x)
            total = total + logdet
        return x, total

    def inverse(self, y: Tensor) -> Tensor:
        for f in reversed(list(self)):
            y = f.inverse(y)
        return y
