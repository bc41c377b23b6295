"""Standardization of real data to zero mean and unit variance, and its effect on densities."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from genbench.dataset import Space

CHUNK_VALUES = 2**24  # values converted to float64 at a time: 128 MiB


class Standardization(nn.Module):
    """y = (x - shift) / scale in each dimension, so that log p(x) = log p(y) - sum log scale; x (B, *shape).

    `fit` takes the mean and the standard deviation of the training split; before that it is the identity. Both are
    buffers, saved with the weights. For integers, `scale` is a single number, set by the model.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(space.shape))
        self.register_buffer("scale", torch.ones(() if space.levels else space.shape))

    def forward(self, x: Tensor) -> Tensor:
        """Return y of x, (B, *shape) -> as x."""
        return (x - self.shift) / self.scale

    def inverse(self, y: Tensor) -> Tensor:
        """Return x of y, (B, *shape) -> as y."""
        return self.shift + self.scale * y

    @property
    def log_scale(self) -> Tensor:
        """Sum log scale, () nats: log p(y) - log p(x)."""
        return self.scale.log().sum()

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Set mean and standard deviation of each dimension from x (N, *shape).

        A dimension that varies by no more than rounding errors gets scale 1.
        """
        chunks = x.split(max(1, CHUNK_VALUES // math.prod(x.shape[1:])))
        mean = torch.stack([chunk.double().sum(0) for chunk in chunks]).sum(0) / len(x)
        square = torch.stack([(chunk.double() - mean).square().sum(0) for chunk in chunks]).sum(0) / len(x)
        std, largest = square.sqrt(), torch.stack([chunk.abs().amax(0) for chunk in chunks]).amax(0).double()
        varies = std > torch.finfo(torch.float32).eps * largest
        self.shift.copy_(mean), self.scale.copy_(torch.where(varies, std, 1.0))
