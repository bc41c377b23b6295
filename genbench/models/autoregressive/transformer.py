"""A causal transformer over pixels: Generative Pretraining from Pixels (2020), without clustering of colors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from genbench.dataset import Space
from genbench.models.autoregressive.discrete import AutoregressiveModel, raster_order
from genbench.nets.transformer import KVCache, Transformer

__all__ = ["PixelTransformer"]


class PixelTransformer(AutoregressiveModel):
    """A transformer with one token per dimension, an embedding of its level, in raster order.

    Args:
        channels, layers, heads: width, depth and attention heads of the transformer.
        expansion: width of the MLP in each layer, in multiples of `channels`.
        dropout: on every residual branch.

    Raises:
        ValueError: the data are reals, or `heads` does not divide `channels`.
    """

    order: Tensor

    def __init__(
        self,
        space: Space,
        *,
        channels: int = 32,
        layers: int = 2,
        heads: int = 4,
        expansion: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(space)
        self.register_buffer("order", raster_order(space.shape), persistent=False)
        self.net = Transformer(
            self.levels,
            self.conditional.parameters,
            space.dims,
            width=channels,
            depth=layers,
            heads=heads,
            expansion=expansion,
            dropout=dropout,
            zero=True,
        )

    def one_hot_tokens(self, x: Tensor) -> Tensor:
        """Return levels as the one-hot input of the network, x (...) -> (..., K)."""
        return one_hot(x.long(), self.levels).to(self.net.positions.dtype)

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of each dimension, x (B, *shape) -> (B, 1 or K, D)."""
        y: Tensor = self.net(self.one_hot_tokens(x.flatten(1)[:, self.order]))
        return y.mT[:, :, self.order.argsort()]

    def sample(self, n: int) -> Tensor:
        """Return n samples (n, *shape), one token at a time with a cache of keys and values."""
        past: KVCache = {}
        x = self.order.new_zeros(n, 0)
        for t in range(self.space.dims):
            y = self.net.step(self.one_hot_tokens(x[:, -1] if t else self.order.new_zeros(n)), t, past)
            x = torch.cat((x, self.conditional.sample(y.unsqueeze(2)).long()), 1)
        return x[:, self.order.argsort()].view(n, *self.space.shape).to(self.space.dtype)
