"""What exact models of integers share: a distribution over the levels of each dimension, told by those before it."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from genbench.dataset import Space
from genbench.model import Model
from genbench.models.observations import Bernoulli, Categorical
from genbench.nets.precision import at_least_float32
from genbench.suite import Kind


class Autoregressive(Model):
    """p(x) = prod_i p(x_i | x_1 .. x_(i-1)) of integers: a logit for each level, or for x_i = 1 where there are two.

    Raises:
        ValueError: the space is of reals.
    """

    likelihood: Kind | None = "exact"

    def __init__(self, space: Space) -> None:
        if space.levels is None:
            raise ValueError(f"{type(self).__name__} gives probabilities of integers, and these data are reals")
        super().__init__(space)
        self.levels = space.levels
        self.conditional = Bernoulli(space) if space.levels == 2 else Categorical(space)

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of each dimension given those before it, x (B, *shape) -> (B, 1 or K, D)."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) in nats, exactly, x (B, *shape) integers -> (B,)."""
        theta = at_least_float32(self.logits(x))
        return self.conditional.log_prob(theta, x.flatten(1).to(theta.dtype)).sum(1)

    def scaled(self, x: Tensor) -> Tensor:
        """Return levels 0..K-1 as floats from -1 to 1."""
        return x.to(next(self.parameters()).dtype) * (2 / (self.levels - 1)) - 1


def raster(shape: tuple[int, ...]) -> Tensor:
    """Return the order (D,) in which dimensions come: pixels row by row, the channels of each together."""
    places = torch.arange(torch.Size(shape).numel()).view(shape)
    return places.permute(1, 2, 0).flatten() if len(shape) == 3 else places.flatten()
