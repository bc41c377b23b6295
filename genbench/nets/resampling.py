"""Residual networks that grow an image from a vector, z (B, Z) -> (B, C, H, W), or shrink one to a number, (B, 1).

Spectral Normalization for Generative Adversarial Networks (2018), table 4 (SN-ResNet), for any shape: sides double
`halvings` times, all blocks have the same width, and the critic, with two more blocks, sums its features over the
image. It begins with a convolution, while the paper's first block omits an activation.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import Tensor, nn

from genbench.nets.dcgan import NORMS, Norm, Shape, halvings

Change = Literal["double", "halve", "keep"]


class ResampleBlock(nn.Module):
    """branch(x) + skip(x), x (B, channels, H, W) -> the same at double, half or equal size."""

    def __init__(self, channels: int, change: Change, norm: Norm = "none") -> None:
        super().__init__()
        before = nn.Upsample(scale_factor=2) if change == "double" else nn.Identity()
        after = nn.AvgPool2d(2) if change == "halve" else nn.Identity()
        normed, conv = partial(NORMS[norm], channels), partial(nn.Conv2d, channels, channels)
        self.branch = nn.Sequential(
            normed(), nn.ReLU(), before, conv(3, padding=1), normed(), nn.ReLU(), conv(3, padding=1), after
        )
        self.skip = nn.Identity() if change == "keep" else nn.Sequential(before, conv(1), after)

    def forward(self, x: Tensor) -> Tensor:
        """Return branch(x) + skip(x)."""
        y: Tensor = self.branch(x) + self.skip(x)
        return y


class SumPool(nn.Module):
    """The sum over positions, x (B, C, H, W) -> (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum over positions."""
        return x.sum((2, 3))


def generator(latent: int, shape: Shape, channels: int = 64, norm: Norm = "batch") -> nn.Sequential:
    """Return z (B, latent) -> (B, *shape)."""
    n, (H, W) = halvings(shape)
    return nn.Sequential(
        nn.Linear(latent, channels * H * W),
        nn.Unflatten(1, (channels, H, W)),
        *(ResampleBlock(channels, "double", norm) for _ in range(n)),
        NORMS[norm](channels),
        nn.ReLU(),
        nn.Conv2d(channels, shape[0], 3, padding=1),
    )


def critic(shape: Shape, channels: int = 64) -> nn.Sequential:
    """Return x (B, *shape) -> (B, 1)."""
    n, _ = halvings(shape)
    return nn.Sequential(
        nn.Conv2d(shape[0], channels, 3, padding=1),
        *(ResampleBlock(channels, "halve") for _ in range(n)),
        *(ResampleBlock(channels, "keep") for _ in range(2)),
        nn.ReLU(),
        SumPool(),
        nn.Linear(channels, 1),
    )
