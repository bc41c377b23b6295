"""VQ-VAE-2: Generating Diverse High-Fidelity Images with VQ-VAE-2 (2019)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genbench.dataset import Space
from genbench.models.vaes.codebook import Codebook, Quantised
from genbench.models.vaes.quantised import Choose, QuantisedModel
from genbench.nets.coders import patches, unpatched
from genbench.nets.resnet import resnet

__all__ = ["VQVAE2"]


class Joined(nn.Module):
    """z of both levels (B, Z) -> (B, 2 d, H, W): the top, raised to the bottom's places, above the bottom."""

    def __init__(self, dim: int, H: int, W: int) -> None:
        super().__init__()
        self.top, self.bottom = (dim, H // 2, W // 2), (dim, H, W)
        self.raised = nn.ConvTranspose2d(dim, dim, 2, stride=2)

    def forward(self, z: Tensor) -> Tensor:
        """Return both levels, a map of each number."""
        top, bottom = z.split([d * h * w for d, h, w in (self.top, self.bottom)], 1)
        return torch.cat((self.raised(top.view(-1, *self.top)), bottom.view(-1, *self.bottom)), 1)


class VQVAE2(QuantisedModel):
    """The VQ-VAE of two levels: a bottom code for each patch, told of the top, which has one for four patches.

    Algorithm 1: the top is quantised first, and the bottom's encoder sees its vectors. Algorithm 2: the prior of the
    top, and that of the bottom given the top, which are here the two parts of one causal sequence.

    Args:
        patch: the side of a bottom patch; section 3.1 has 4.
        channels, blocks: of the residual networks of the two encoders and of the decoder.

    Raises:
        ValueError: the space is not of images whose sides twice `patch` divides.
    """

    def __init__(self, space: Space, *, patch: int = 4, channels: int = 32, blocks: int = 2, **options: Any) -> None:
        _, h, w = patches(space, 2 * patch)
        C, H, W = patches(space, patch)
        super().__init__(space, [(h, w), (H, W)], **options)
        self.features = nn.Sequential(nn.PixelUnshuffle(patch), resnet(C, channels, channels, blocks), nn.ReLU())
        self.top = nn.Sequential(nn.PixelUnshuffle(2), resnet(4 * channels, self.dim, channels, blocks))
        self.raised = nn.ConvTranspose2d(self.dim, channels, 2, stride=2)
        self.bottom = nn.Conv2d(2 * channels, self.dim, 1)
        self.decoder = nn.Sequential(
            Joined(self.dim, H, W),
            resnet(2 * self.dim, self.observation.parameters * C, channels, blocks, dropout=self.dropout),
            *unpatched(space, patch, self.observation.parameters),
        )

    def quantised(self, x: Tensor, choose: Choose = Codebook.nearest) -> list[Quantised]:
        """Return x (B, C, H, W) quantised, the top's places half as many along either side as the bottom's."""
        features = self.features(self.scaled(x))
        top = choose(self.books[0], self.top(features))
        return [top, choose(self.books[1], self.bottom(torch.cat((self.raised(top.z), features), 1)))]
