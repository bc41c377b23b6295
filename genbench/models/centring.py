"""Data centred and scaled for networks: reals by the training split, integers by the first batch."""

from __future__ import annotations

import torch
from torch import Tensor

from genbench.dataset import Space
from genbench.model import Model
from genbench.standardization import Standardization


class Centred(Model):
    """A model whose networks see data centred and scaled.

    Reals are standardized in each dimension (`Standardization`); integers have the mean of each dimension and the
    standard deviation of all in the first batch that the model is trained on.
    """

    ready: Tensor

    def __init__(self, space: Space, standardization: Standardization | None = None) -> None:
        super().__init__(space)
        self.register_buffer("ready", torch.tensor(False))
        self.standardization = standardization or Standardization(space)
        self.waits = True  # `ready` is looked at once: reading it from a GPU would wait for it

    @property
    def centre(self) -> Tensor:
        """The mean of each dimension, (*shape)."""
        return self.standardization.shift

    @property
    def scale(self) -> Tensor:
        """The standard deviation, of each dimension (*shape) of reals, of all () of integers."""
        return self.standardization.scale

    def start(self, x: Tensor) -> None:
        """Take centre and scale of integers from the first batch x (B, *shape); a subclass may take more."""
        if self.space.levels is not None:
            self.centre.copy_(x.mean(0)), self.scale.copy_(x.std(correction=0).clamp(min=1e-6))

    def scaled(self, x: Tensor) -> Tensor:
        """Return x (B, *shape) centred and scaled; the first x in training starts the model."""
        if self.waits and self.training:
            self.waits = False
            if not self.ready:
                with torch.no_grad():
                    self.start(x.to(self.centre.dtype))
                self.ready.fill_(True)
        y: Tensor = self.standardization(x)
        return y
