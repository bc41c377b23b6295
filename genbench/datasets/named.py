"""Handwritten digits with their names: what joins images and words."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from genbench.dataset import Dataset, LabelDecoder, Space
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
    written, pixels = torch.stack([spelled(name) for name in NAMES]), images.space.dims
    splits = zip((images.train, images.validation, images.test), images.labels, strict=True)
    train, validation, test = (torch.cat((x.flatten(1), written[y]), 1) for x, y in splits)

    def picture(x: Tensor) -> Tensor:
        """Return pixels (N, 1, 8, 8) of points x (N, 69); above the lightest, 16, they are 16."""
        return x[:, :pixels].clamp(max=(images.space.levels or 0) - 1).view(-1, *images.space.shape)

    def label(x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the digit (N,) whose name is nearest, and whether it is spelled so, (N,), x (N, 69).

        Distance is in places of the alphabet, summed over letters, blank being the place before a; of two that are as
        near, the lesser digit.
        """
        places = (x[:, None, pixels:].int() - written.int()).abs().sum(2)
        nearest = places.min(1)
        return nearest.indices, nearest.values == 0

    space, label_decoder = Space((pixels + LETTERS,), LEVELS), LabelDecoder(images.space, picture, label)
    return Dataset(space, train, validation, test, labels=images.labels, label_decoder=label_decoder)


def spelled(name: str) -> Tensor:
    """Return the letters of a name (LETTERS,) uint8, filled up with blanks."""
    return torch.tensor([ord(letter) - ord("a") + 1 for letter in name] + [0] * (LETTERS - len(name))).byte()
