"""Models whose networks see standardized data: reals by the training split, integers by the first batch."""

from __future__ import annotations

from torch import Tensor

from genbench.dataset import Space
from genbench.model import Model
from genbench.nets.first_batch import FirstBatchInit
from genbench.standardization import Standardization


class Standardized(FirstBatchInit, Model):
    """A model whose networks see centered and scaled data.

    Reals are standardized in each dimension (`Standardization`); integers by the mean of each dimension and the
    standard deviation of all numbers in the first batch that the model is trained on.
    """

    def __init__(self, space: Space, standardization: Standardization | None = None) -> None:
        super().__init__(space)
        self.standardization = standardization or Standardization(space)

    @property
    def center(self) -> Tensor:
        """The mean of each dimension, (*shape)."""
        return self.standardization.shift

    @property
    def scale(self) -> Tensor:
        """The standard deviation: of each dimension (*shape) of reals, of all numbers () of integers."""
        return self.standardization.scale

    def initialize(self, x: Tensor) -> None:
        """Set center and scale of integers from the first batch x (B, *shape); a subclass may set more."""
        if self.space.levels is not None:
            self.center.copy_(x.mean(0)), self.scale.copy_(x.std(correction=0).clamp(min=1e-6))

    def scaled(self, x: Tensor) -> Tensor:
        """Return x (B, *shape) centered and scaled; the first x in training initializes the model."""
        if self.needs_init:
            self.initialize_once(x.to(self.center.dtype))
        y: Tensor = self.standardization(x)
        return y
