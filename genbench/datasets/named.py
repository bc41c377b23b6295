"""Handwritten digits with their names: what joins images and words."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from genbench.dataset import Dataset, Space
from genbench.datasets.digits import digits

__all__ = ["named"]

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
LETTERS = 5  # of the longest name
LEVELS = 27  # blank and a to z; pixels have 17


@functools.cache
def named() -> Dataset:
    """The handwritten digits with their written names: 64 pixels, then 5 letters.

    Split as `digits`. Pixels are 0..16; letters 1..26, a to z, and 0, the blanks that fill a name up. x (N, 69) uint8.
    """
    images = digits()
    assert images.labels is not None
    written = torch.stack([spelled(name) for name in NAMES])
    splits = zip((images.train, images.validation, images.test), images.labels, strict=True)
    train, validation, test = (torch.cat((x.flatten(1), written[y]), 1) for x, y in splits)
    return Dataset(Space((images.space.dims + LETTERS,), LEVELS), train, validation, test, labels=images.labels)


def spelled(name: str) -> Tensor:
    """Return the letters of a name (LETTERS,) uint8, filled up with blanks."""
    return torch.tensor([ord(letter) - ord("a") + 1 for letter in name] + [0] * (LETTERS - len(name))).byte()
