"""Encoders x (B, *shape) -> (B, outputs) and decoders z (B, Z) -> (B, parameters * D), by kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from genbench.dataset import Space
from genbench.nets.activations import ACTIVATIONS, Activation
from genbench.nets.convnet import convnet
from genbench.nets.mlp import mlp

NetworkName = Literal["mlp", "convnet"]


class Offset(nn.Module):
    """x + bias, x (B, N)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """Return x + bias."""
        return x + self.bias


@dataclass(frozen=True)
class Networks:
    """The architecture of encoder and decoder.

    Attributes:
        network: MLPs, or, for images, convolutions on patches of 2x2 with a linear layer to and from z.
        hidden: widths of the MLPs, from data to latents; the decoder has them in reverse.
        channels: width of the convolutions.
    """

    network: NetworkName = "mlp"
    hidden: tuple[int, ...] = (256, 256)
    channels: int = 32
    activation: Activation = "relu"
    dropout: float = 0.0

    def encoder(self, space: Space, outputs: int) -> nn.Sequential:
        """Return a network x (B, *shape) -> (B, outputs)."""
        if self.network == "mlp":
            net = mlp(space.dims, outputs, self.hidden, activation=self.activation, dropout=self.dropout)
            return nn.Sequential(nn.Flatten(), net)
        patch, (C, H, W) = patch_grid(space)
        return nn.Sequential(
            nn.PixelUnshuffle(patch),
            *convnet(C * patch**2, self.channels, self.channels, activation=self.activation, dropout=self.dropout),
            ACTIVATIONS[self.activation](),
            nn.Flatten(),
            nn.Linear(self.channels * H * W, outputs),
        )

    def decoder(self, space: Space, latent: int, parameters: int) -> nn.Sequential:
        """Return a network z (B, latent) -> (B, parameters * D), whose last layer has a bias (parameters * D,)."""
        outputs = parameters * space.dims
        if self.network == "mlp":
            hidden = self.hidden[::-1]
            return mlp(latent, outputs, hidden, activation=self.activation, dropout=self.dropout)
        patch, (C, H, W) = patch_grid(space)
        out = parameters * C * patch**2
        return nn.Sequential(
            nn.Linear(latent, self.channels * H * W),
            nn.Unflatten(1, (self.channels, H, W)),
            ACTIVATIONS[self.activation](),
            *convnet(self.channels, out, self.channels, activation=self.activation, dropout=self.dropout),
            nn.PixelShuffle(patch),
            nn.Flatten(),
            Offset(outputs),
        )


def patch_grid(space: Space) -> tuple[int, tuple[int, int, int]]:
    """Return the side of a patch, 2 if both sides of an image are even, and (channels, rows, columns) of patches.

    Raises:
        ValueError: points of `space` are not images.
    """
    if not space.is_image:
        raise ValueError(f"network='convnet' needs images, got points of shape {space.shape}; 'mlp' takes any")
    C, H, W = space.shape
    patch = 2 if H % 2 == W % 2 == 0 else 1
    return patch, (C, H // patch, W // patch)


def patch_shape(space: Space, side: int) -> tuple[int, int, int]:
    """Return (numbers in a patch, rows, columns) of patches of side x side.

    Raises:
        ValueError: points of `space` are not images whose sides `side` divides.
    """
    if not space.is_image or space.shape[1] % side or space.shape[2] % side:
        raise ValueError(f"patches of {side}x{side} need images whose sides {side} divides, got shape {space.shape}")
    C, H, W = space.shape
    return C * side**2, H // side, W // side


def unpatch_layers(space: Space, side: int, parameters: int) -> list[nn.Module]:
    """Return layers (B, parameters * patch size, rows, columns) -> (B, parameters * D); the last one has a bias."""
    return [nn.PixelShuffle(side), nn.Flatten(), Offset(parameters * space.dims)]
