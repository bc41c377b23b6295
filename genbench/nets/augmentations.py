"""Random changes of images that preserve their content: small affine maps, noise, erased rectangles."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


@dataclass(frozen=True)
class Augmentation:
    """x (B, C, H, W) float, about 0 to 1 -> as x, each image changed at random; with zeros it is the identity.

    Pixels from outside the image and erased pixels are 0, the background of digits. Images are not mirrored.

    Attributes:
        shift: largest shift along each axis, in sides of the image.
        rotation: largest rotation, in degrees.
        scale: largest scale factor minus 1; the smallest is its inverse.
        noise: standard deviation.
        erasing: longest side of the erased rectangle, in sides of the image.
    """

    shift: float = 0.1
    rotation: float = 15.0
    scale: float = 0.15
    noise: float = 0.1
    erasing: float = 0.4

    def __call__(self, x: Tensor) -> Tensor:
        """Return the augmented images, x (B, C, H, W)."""
        shift, angle, log_scale = uniform(x, 2), uniform(x, 1)[:, 0], uniform(x, 1)[:, 0]
        scale = (1 + self.scale) ** log_scale
        y = affine_warp(x, torch.deg2rad(self.rotation * angle), scale, self.shift * shift)
        return erase(y + self.noise * torch.randn_like(y), self.erasing * uniform(x, 2).abs(), uniform(x, 2))


def uniform(x: Tensor, columns: int) -> Tensor:
    """Return uniform draws from [-1, 1), (B, columns), for x (B, ...)."""
    return 2 * torch.rand(len(x), columns, device=x.device, dtype=x.dtype) - 1


def affine_warp(x: Tensor, angle: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return x (B, C, H, W) scaled and rotated about its center, then shifted; bilinear, 0 outside.

    Args:
        angle: (B,), in radians, counterclockwise.
        scale: (B,), above 1 for larger.
        shift: (B, 2), to the right and down, in sides of the image.
    """
    aspect = x.shape[2] / x.shape[3]
    cos, sin = angle.cos() / scale, angle.sin() / scale
    inverse = torch.stack((cos, -sin * aspect, sin / aspect, cos), 1).view(-1, 2, 2)
    back = inverse @ (-2 * shift)[:, :, None]  # coordinates run from -1 to 1
    grid = affine_grid(torch.cat((inverse, back), 2), list(x.shape), align_corners=False)
    return grid_sample(x, grid, align_corners=False)


def erase(x: Tensor, size: Tensor, place: Tensor) -> Tensor:
    """Return x (B, C, H, W) with a rectangle of each image set to 0.

    Args:
        size: (B, 2), height and width, in sides of the image.
        place: (B, 2), from -1, touching the upper or left edge, to 1, touching the lower or right edge.
    """
    inside = [
        (pixel_centers(length, x) - place[:, axis, None] * (1 - size[:, axis, None])).abs() < size[:, axis, None]
        for axis, length in enumerate(x.shape[2:])
    ]
    return x.masked_fill((inside[0][:, :, None] & inside[1][:, None, :]).unsqueeze(1), 0)


def pixel_centers(length: int, x: Tensor) -> Tensor:
    """Return the centers of `length` pixels that fill [-1, 1], (1, length), as x."""
    return ((2 * torch.arange(length, device=x.device, dtype=x.dtype) + 1) / length - 1).unsqueeze(0)
