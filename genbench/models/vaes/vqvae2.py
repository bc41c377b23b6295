"""VQ-VAE-2: Generating Diverse High-Fidelity Images with VQ-VAE-2 (2019)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genbench.dataset import Space
from genbench.models.vaes.codebook import Codebook, QuantizerOutput
from genbench.models.vaes.discrete_latent import DiscreteLatentModel, Quantizer
from genbench.nets.coders import patch_shape, unpatch_layers
from genbench.nets.resnet import resnet

__all__ = ["VQVAE2"]


class MergeLevels(nn.Module):
    """z of both levels (B, Z) -> (B, 2 d, H, W): channels of the top level, upsampled, then of the bottom level."""

    def __init__(self, dim: int, H: int, W: int) -> None:
        super().__init__()
        self.top, self.bottom = (dim, H // 2, W // 2), (dim, H, W)
        self.upsample = nn.ConvTranspose2d(dim, dim, 2, stride=2)

    def forward(self, z: Tensor) -> Tensor:
        """Return both levels at the resolution of the bottom, z (B, Z) -> (B, 2 d, H, W)."""
        top, bottom = z.split([d * h * w for d, h, w in (self.top, self.bottom)], 1)
        return torch.cat((self.upsample(top.view(-1, *self.top)), bottom.view(-1, *self.bottom)), 1)


class VQVAE2(DiscreteLatentModel):
    """The VQ-VAE of two levels: a bottom code per patch, and a top code per 2x2 patches that it is conditioned on.

    Algorithm 1: the top level is quantized first, and the encoder of the bottom level sees its code vectors.
    Algorithm 2: the prior of the top codes and that of the bottom codes given the top are here two parts of one causal
    sequence.

    Args:
        patch: side of a bottom patch in pixels; 4 in section 3.1.
        channels, blocks: of the residual networks of both encoders and the decoder.

    Raises:
        ValueError: the data are not images, or 2 * `patch` does not divide their sides.
    """

    def __init__(self, space: Space, *, patch: int = 4, channels: int = 32, blocks: int = 2, **options: Any) -> None:
        _, h, w = patch_shape(space, 2 * patch)
        C, H, W = patch_shape(space, patch)
        super().__init__(space, [(h, w), (H, W)], **options)
        self.features = nn.Sequential(nn.PixelUnshuffle(patch), resnet(C, channels, channels, blocks), nn.ReLU())
        self.top = nn.Sequential(nn.PixelUnshuffle(2), resnet(4 * channels, self.dim, channels, blocks))
        self.upsample = nn.ConvTranspose2d(self.dim, channels, 2, stride=2)
        self.bottom = nn.Conv2d(2 * channels, self.dim, 1)
        self.decoder = nn.Sequential(
            MergeLevels(self.dim, H, W),
            resnet(2 * self.dim, self.observation.parameters * C, channels, blocks, dropout=self.dropout),
            *unpatch_layers(space, patch, self.observation.parameters),
        )

    def quantize(self, x: Tensor, quantizer: Quantizer = Codebook.quantize) -> list[QuantizerOutput]:
        """Return the top level, at half the resolution, and the bottom level after quantization, x (B, C, H, W)."""
        features = self.features(self.scaled(x))
        top = quantizer(self.codebook_list[0], self.top(features))
        bottom = self.bottom(torch.cat((self.upsample(top.z), features), 1))
        return [top, quantizer(self.codebook_list[1], bottom)]
