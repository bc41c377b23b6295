"""DCGAN: a generator z (B, Z) -> (B, C, H, W) and a critic (B, C, H, W) -> (B, 1) of strided convolutions.

Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks (2016), section 3, with the
critic of Spectral Normalization for Generative Adversarial Networks (2018), table 3, without every other layer. Sides
double from between 4 and 7 up to those of the image: 8 = 4 x 2, 28 = 7 x 4, 32 = 4 x 8. A critic has no batch
normalization: its value at a point should not depend on the others, as gradient penalties and Lipschitz bounds assume.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Literal

from torch import nn

Shape = tuple[int, ...]
Norm = Literal["none", "batch", "group"]
NORMS: dict[Norm, Callable[[int], nn.Module]] = {
    "none": lambda channels: nn.Identity(),
    "batch": nn.BatchNorm2d,
    "group": partial(nn.GroupNorm, 4),
}


def halvings(shape: Shape) -> tuple[int, Shape]:
    """Return how often an image (C, H, W) can be halved until a side is odd or below 8, and its sides then.

    Raises:
        ValueError: `shape` is not that of an image.
    """
    if len(shape) != 3:
        raise ValueError(f"convolutions need images, got points of shape {shape}; network='mlp' takes any")
    _, H, W = shape
    n = 0
    while min(H, W) >= 8 and H % 2 == W % 2 == 0:
        n, H, W = n + 1, H // 2, W // 2
    return n, (H, W)


def generator(latent: int, shape: Shape, channels: int = 32, norm: Norm = "batch") -> nn.Sequential:
    """Return z (B, latent) -> (B, *shape), with `channels` features at full size and twice as many at each halving."""
    n, (H, W) = halvings(shape)
    widths = [channels * 2**i for i in reversed(range(n + 1))]
    layers: list[nn.Module] = [
        nn.Linear(latent, widths[0] * H * W),
        nn.Unflatten(1, (widths[0], H, W)),
        NORMS[norm](widths[0]),
        nn.ReLU(),
    ]
    for a, b in pairwise(widths):
        layers += [nn.ConvTranspose2d(a, b, 4, stride=2, padding=1), NORMS[norm](b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(channels, shape[0], 3, padding=1))


def critic(shape: Shape, channels: int = 32) -> nn.Sequential:
    """Return x (B, *shape) -> (B, 1), with `channels` features at full size and twice as many at each halving."""
    n, (H, W) = halvings(shape)
    layers: list[nn.Module] = [nn.Conv2d(shape[0], channels, 3, padding=1), nn.LeakyReLU(0.1)]
    for width in (channels * 2**i for i in range(n)):
        layers += [nn.Conv2d(width, 2 * width, 4, stride=2, padding=1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 2**n * H * W, 1))
