"""Handwritten digits with their names: pairs of images and words."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from genbench.dataset import Dataset, LabelDecoder, Space
from genbench.datasets.digits import digits

__all__ = ["named"]

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
NAME_LENGTH = 5  # of the longest name
LEVELS = 27  # blank and a to z; pixels use 17 of them


@functools.cache
def named() -> Dataset:
    """The handwritten digits with their written names: 64 pixels, then 5 letters.

    Splits as in `digits`. Pixels are 0..16; letters are 1..26 for a to z, and 0 for padding blanks. x (N, 69) uint8.
    """
    images = digits()
    assert images.labels is not None
    names, pixels = torch.stack([encode_name(name) for name in NAMES]), images.space.dims
    splits = zip((images.train, images.validation, images.test), images.labels, strict=True)
    train, validation, test = (torch.cat((x.flatten(1), names[y]), 1) for x, y in splits)

    def picture(x: Tensor) -> Tensor:
        """Return the pixels (N, 1, 8, 8) of points x (N, 69), clamped to the largest level, 16."""
        return x[:, :pixels].clamp(max=(images.space.levels or 0) - 1).view(-1, *images.space.shape)

    def label(x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the digit (N,) with the nearest name, and whether the name matches exactly (N,), x (N, 69).

        The distance is the difference of positions in the alphabet, with blank before a, summed over letters. Ties go
        to the smaller digit.
        """
        distance = (x[:, None, pixels:].int() - names.int()).abs().sum(2)
        nearest = distance.min(1)
        return nearest.indices, nearest.values == 0

    space, label_decoder = Space((pixels + NAME_LENGTH,), LEVELS), LabelDecoder(images.space, picture, label)
    return Dataset(space, train, validation, test, labels=images.labels, label_decoder=label_decoder)


def encode_name(name: str) -> Tensor:
    """Return the letters of a name (NAME_LENGTH,) uint8, padded with blanks."""
    return torch.tensor([ord(letter) - ord("a") + 1 for letter in name] + [0] * (NAME_LENGTH - len(name))).byte()
