"""Color patches of 16x16 pixels in 256 levels, cut from the two photographs included in scikit-learn.

A temple and a flower, 427x640 each: real color images without a download. Both are cut into vertical bands that are
assigned to train, validation and test in turn, so that every split has both photographs and no pixel is in two splits.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from genbench.dataset import Dataset, Space

__all__ = ["photos"]

SIZE = 16  # side of a patch in pixels
PERIOD = 80  # width in pixels after which the bands repeat
BANDS = ((0, 48, 5), (48, 64, 6), (64, 80, 6))  # for each split: start and end column in a period, stride of patches


@functools.cache
def photos() -> Dataset:
    """Color patches, 16x16 in 256 levels, from two photographs.

    x (N, 3, 16, 16) uint8: 9,296 to train, 1,104 to validate, 1,104 to test. Patches of a split overlap, so the
    standard error over test patches is smaller than it would be over independent images.
    """
    from sklearn.datasets import load_sample_images

    images = torch.stack([torch.tensor(image).permute(2, 0, 1) for image in load_sample_images().images])
    train, validation, test = split(images)
    return Dataset(Space((3, SIZE, SIZE), levels=256), train, validation, test)


def split(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the patches of each split, images (N, C, H, W) -> (M, C, 16, 16), shuffled with a fixed seed."""
    width, generator = images.shape[-1], torch.Generator().manual_seed(0)
    splits = []
    for start, end, stride in BANDS:
        bands = [images[..., x + start : x + end] for x in range(0, width, PERIOD)]
        x = torch.cat([extract_patches(band, stride) for band in bands])
        splits.append(x[torch.randperm(len(x), generator=generator)])
    train, validation, test = splits
    return train, validation, test


def extract_patches(images: Tensor, stride: int) -> Tensor:
    """Return all patches on a grid of `stride` pixels, images (N, C, H, W) -> (M, C, 16, 16)."""
    grid = images.unfold(2, SIZE, stride).unfold(3, SIZE, stride)  # (N, C, rows, columns, 16, 16)
    return grid.permute(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1], SIZE, SIZE)
