"""Random changes of images that leave what they show: small affine maps, noise, a part erased."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


@dataclass(frozen=True)
class Augmentation:
    """x (B, C, H, W) float, about 0 to 1 -> as x, each image changed by draws of its own; with zeros the identity.

    What comes in from beyond the edge, and what is erased, is 0: the ground of digits. Nothing is mirrored.

    Attributes:
        shift: furthest along each axis, in sides of the image.
        rotation: furthest, in degrees.
        scale: largest factor, less 1; as far down as up.
        noise: standard deviation.
        erasing: longest side of the rectangle that is erased, in sides of the image.
    """

    shift: float = 0.1
    rotation: float = 15.0
    scale: float = 0.15
    noise: float = 0.1
    erasing: float = 0.4

    def __call__(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W), changed."""
        shift, angle, log_scale = spread(x, 2), spread(x, 1)[:, 0], spread(x, 1)[:, 0]
        scale = (1 + self.scale) ** log_scale
        y = affine(x, torch.deg2rad(self.rotation * angle), scale, self.shift * shift)
        return erased(y + self.noise * torch.randn_like(y), self.erasing * spread(x, 2).abs(), spread(x, 2))


def spread(x: Tensor, columns: int) -> Tensor:
    """Return uniform draws from [-1, 1), (B, columns), for x (B, ...)."""
    return 2 * torch.rand(len(x), columns, device=x.device, dtype=x.dtype) - 1


def affine(x: Tensor, angle: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return x (B, C, H, W) scaled and turned about its middle, then moved; between pixels linearly, 0 from outside.

    Args:
        angle: (B,), in radians, anticlockwise.
        scale: (B,), above 1 larger.
        shift: (B, 2), rightwards and downwards, in sides of the image.
    """
    aspect = x.shape[2] / x.shape[3]
    cos, sin = angle.cos() / scale, angle.sin() / scale
    inverse = torch.stack((cos, -sin * aspect, sin / aspect, cos), 1).view(-1, 2, 2)
    back = inverse @ (-2 * shift)[:, :, None]  # coordinates run from -1 to 1
    grid = affine_grid(torch.cat((inverse, back), 2), list(x.shape), align_corners=False)
    return grid_sample(x, grid, align_corners=False)


def erased(x: Tensor, size: Tensor, place: Tensor) -> Tensor:
    """Return x (B, C, H, W) with a rectangle of each image 0.

    Args:
        size: (B, 2), height and width, in sides of the image.
        place: (B, 2), from -1, where it touches the upper or left edge, to 1, the lower or right.
    """
    inside = [
        (middles(length, x) - place[:, axis, None] * (1 - size[:, axis, None])).abs() < size[:, axis, None]
        for axis, length in enumerate(x.shape[2:])
    ]
    return x.masked_fill((inside[0][:, :, None] & inside[1][:, None, :]).unsqueeze(1), 0)


def middles(length: int, x: Tensor) -> Tensor:
    """Return the middles of `length` pixels that fill [-1, 1], (1, length), as x."""
    return ((2 * torch.arange(length, device=x.device, dtype=x.dtype) + 1) / length - 1).unsqueeze(0)
