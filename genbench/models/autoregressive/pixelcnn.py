"""Gated PixelCNN: Conditional Image Generation with PixelCNN Decoders (2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genbench.dataset import Space
from genbench.models.autoregressive.discrete import AutoregressiveModel
from genbench.nets.causal import GatedLayer, RowConv, groups_of

__all__ = ["PixelCNN"]


class PixelCNN(AutoregressiveModel):
    """Two stacks of gated convolutions without a blind spot, and a softmax over the levels of each channel of a pixel.

    The order is row by row, the channels of a pixel one after another. In addition to the paper: dropout, and a learned
    bias for each feature at each pixel, because small images are centered.

    Args:
        channels: p, the features of each stack; at least the channels of the image.
        layers: number of gated layers; the first sees the image.
        kernel: n, odd: a layer sees n // 2 rows up and n // 2 pixels to the left, so (n // 2) * layers should be at
            least the side of the image.
        dropout: on the output of the gates.

    Raises:
        ValueError: the data are reals or not images, the kernel is even, or there are too few channels or layers.
    """

    def __init__(
        self,
        space: Space,
        *,
        channels: int = 32,
        layers: int = 5,
        kernel: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(space)
        if len(space.shape) != 3:
            raise ValueError(f"PixelCNN needs images (C, H, W), got data of shape {space.shape}")
        C, H, W = space.shape
        if kernel % 2 == 0 or channels < C or layers < 1:
            given = f"kernel={kernel}, channels={channels}, layers={layers}"
            raise ValueError(f"kernel must be odd, channels at least {C} and layers at least 1, got {given}")
        self.layers = nn.ModuleList(GatedLayer(channels, C, kernel, dropout, first=i == 0) for i in range(layers))
        self.position_bias = nn.Parameter(torch.zeros(2, channels, H, W))  # of the vertical and the horizontal stack
        features = groups_of(channels, C)
        self.head = nn.Sequential(
            nn.ReLU(),
            RowConv(features, features),
            nn.ReLU(),
            RowConv(features, groups_of(C * self.conditional.parameters, C)),
        )

    def logits_of_rows(self, x: Tensor) -> Tensor:
        """Return the logits of the top rows, x (B, C, rows, W) -> (B, 1 or K, C, rows, W)."""
        v = h = self.scaled(x)
        for i, layer in enumerate(self.layers):
            v, h = layer(v, h)
            if i == 0:
                bias = self.position_bias[:, :, : x.shape[2]]
                v, h = v + bias[0], h + bias[1]
        theta: Tensor = self.head(h).unflatten(1, (x.shape[1], -1)).transpose(1, 2)
        return theta

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of each dimension, x (B, C, H, W) -> (B, 1 or K, D)."""
        return self.logits_of_rows(x).flatten(2)

    def sample(self, n: int) -> Tensor:
        """Return n samples (n, C, H, W), one channel of one pixel at a time, computing only the rows up to it."""
        C, H, W = self.space.shape
        x = torch.zeros(n, C, H, W, dtype=self.space.dtype, device=self.device)
        for i, j, c in torch.cartesian_prod(*map(torch.arange, (H, W, C))).tolist():
            theta = self.logits_of_rows(x[:, :, : i + 1])[:, :, c, i, j]
            x[:, c, i, j] = self.conditional.sample(theta.unsqueeze(2))[:, 0]
        return x
