"""The base of autoregressive models of integers: a distribution over levels for each dimension given earlier ones."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from genbench.dataset import Space
from genbench.model import Model
from genbench.models.observations import Bernoulli, Categorical
from genbench.nets.precision import at_least_float32
from genbench.suite import Kind


class AutoregressiveModel(Model):
    """p(x) = prod_i p(x_i | x_1 .. x_(i-1)) of integers: K logits per dimension, or that of x_i = 1 if K = 2.

    Raises:
        ValueError: the data are reals.
    """

    likelihood: Kind | None = "exact"

    def __init__(self, space: Space) -> None:
        if space.levels is None:
            raise ValueError(f"{type(self).__name__} needs integer data, got reals")
        super().__init__(space)
        self.levels = space.levels
        self.conditional = Bernoulli(space) if space.levels == 2 else Categorical(space)

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of each dimension given those before it, x (B, *shape) -> (B, 1 or K, D)."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the exact log p(x) in nats, x (B, *shape) integers -> (B,)."""
        theta = at_least_float32(self.logits(x))
        return self.conditional.log_prob(theta, x.flatten(1).to(theta.dtype)).sum(1)

    @property
    def network_dtype(self) -> torch.dtype:
        """The dtype of the parameters."""
        return next(self.parameters()).dtype

    def scaled(self, x: Tensor) -> Tensor:
        """Return levels 0..K-1 as floats in [-1, 1]."""
        return x.to(self.network_dtype) * (2 / (self.levels - 1)) - 1


def raster_order(shape: tuple[int, ...]) -> Tensor:
    """Return the order of dimensions (D,): pixels row by row, the channels of a pixel next to each other."""
    index = torch.arange(torch.Size(shape).numel()).view(shape)
    return index.permute(1, 2, 0).flatten() if len(shape) == 3 else index.flatten()
