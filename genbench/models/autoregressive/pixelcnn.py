"""Gated PixelCNN: Conditional Image Generation with PixelCNN Decoders (2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genbench.dataset import Space
from genbench.models.autoregressive.discrete import Autoregressive
from genbench.nets.causal import GatedLayer, RowConv, groups_of

__all__ = ["PixelCNN"]


class PixelCNN(Autoregressive):
    """Two stacks of gated convolutions, with no blind spot, and a softmax over the levels of each channel of a pixel.

    Pixels come row by row, and the channels of a pixel in turn. Not the paper's: a learned number for each feature
    and place, since small images are centred, and dropout.

    Args:
        channels: p, the features of either stack; at least the channels of the image.
        layers: how many gated layers, the first of which sees the image.
        kernel: n, odd: a layer sees n // 2 rows up and as many pixels to the left, so n // 2 times the layers should
            be the side of an image or more.
        dropout: on what comes out of the gates.

    Raises:
        ValueError: the space is of reals or not of images, the kernel is even, or there are too few channels.
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
            raise ValueError(f"PixelCNN models images (C, H, W), and these data are {space.shape}")
        C, H, W = space.shape
        if kernel % 2 == 0 or channels < C or layers < 1:
            raise ValueError(f"kernel={kernel} must be odd, channels={channels} {C} or more, layers={layers} 1 or more")
        self.layers = nn.ModuleList(GatedLayer(channels, C, kernel, dropout, first=i == 0) for i in range(layers))
        self.places = nn.Parameter(torch.zeros(2, channels, H, W))  # of either stack
        features = groups_of(channels, C)
        self.head = nn.Sequential(
            nn.ReLU(),
            RowConv(features, features),
            nn.ReLU(),
            RowConv(features, groups_of(C * self.conditional.parameters, C)),
        )

    def upto(self, x: Tensor) -> Tensor:
        """Return the logits of rows, x (B, C, rows, W) from the top of the image -> (B, 1 or K, C, rows, W)."""
        v = h = self.scaled(x)
        for i, layer in enumerate(self.layers):
            v, h = layer(v, h)
            if i == 0:
                v, h = v + self.places[0, :, : x.shape[2]], h + self.places[1, :, : x.shape[2]]
        theta: Tensor = self.head(h).unflatten(1, (x.shape[1], -1)).transpose(1, 2)
        return theta

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of each dimension, x (B, C, H, W) -> (B, 1 or K, D)."""
        return self.upto(x).flatten(2)

    def sample(self, n: int) -> Tensor:
        """Return n samples (n, C, H, W), channel by channel of pixel by pixel, from the rows so far."""
        C, H, W = self.space.shape
        x = torch.zeros(n, C, H, W, dtype=self.conditional.dtype, device=self.places.device)
        for i, j, c in torch.cartesian_prod(*map(torch.arange, (H, W, C))).tolist():
            theta = self.upto(x[:, :, : i + 1])[:, :, c, i, j]
            x[:, c, i, j] = self.conditional.sample(theta.unsqueeze(2))[:, 0]
        return x
