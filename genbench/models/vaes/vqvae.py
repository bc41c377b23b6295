"""VQ-VAE: Neural Discrete Representation Learning (2017)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from genbench.dataset import Space
from genbench.models.vaes.discrete_latent import DiscreteLatentModel
from genbench.nets.activations import Activation
from genbench.nets.coders import Networks, patch_shape, unpatch_layers
from genbench.nets.resnet import resnet

__all__ = ["VQVAE", "FlatVQVAE"]


class VQVAE(DiscreteLatentModel):
    """The VQ-VAE of images: one code per patch, with residual convolutions over patches.

    Args:
        patch: side of a patch in pixels; 4 in section 4.1.
        channels, blocks: of the residual networks of encoder and decoder.

    Raises:
        ValueError: the data are not images, or `patch` does not divide their sides.
    """

    def __init__(self, space: Space, *, patch: int = 4, channels: int = 32, blocks: int = 2, **options: Any) -> None:
        C, H, W = patch_shape(space, patch)
        super().__init__(space, [(H, W)], **options)
        self.encoder = nn.Sequential(nn.PixelUnshuffle(patch), resnet(C, self.dim, channels, blocks))
        self.decoder = nn.Sequential(
            nn.Unflatten(1, (self.dim, H, W)),
            resnet(self.dim, self.observation.parameters * C, channels, blocks, dropout=self.dropout),
            *unpatch_layers(space, patch, self.observation.parameters),
        )


class FlatVQVAE(DiscreteLatentModel):
    """The VQ-VAE of data of any shape, with MLPs: the encoder's output (dim, positions) has one code per position.

    Args:
        positions: number of codes per point.
        hidden, activation: of the MLPs, as in `Networks`.
    """

    def __init__(
        self,
        space: Space,
        *,
        positions: int = 4,
        hidden: tuple[int, ...] = (256, 256),
        activation: Activation = "relu",
        **options: Any,
    ) -> None:
        super().__init__(space, [(positions,)], **options)
        networks, size = Networks(hidden=hidden, activation=activation), self.dim * positions
        self.encoder = nn.Sequential(networks.encoder(space, size), nn.Unflatten(1, (self.dim, positions)))
        with_dropout = replace(networks, dropout=self.dropout)
        self.decoder = with_dropout.decoder(space, size, self.observation.parameters)
