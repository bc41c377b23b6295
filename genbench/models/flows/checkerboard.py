"""The checkerboard of an image as two halves of the channels of the squeezed image (Real NVP, 2017, figure 3)."""

from __future__ import annotations

import torch
from torch import Tensor

DIAGONAL_FIRST = (0, 3, 1, 2)  # order of the four pixels of a square that makes the halves a checkerboard


def rows_from_checkerboard(C: int, swapped: bool) -> Tensor:
    """Return the permutation from checkerboard order to upper pixels of each 2x2 square first; C channels per pixel.

    `swapped`: an odd number of couplings has swapped the two colors.
    """
    squares = DIAGONAL_FIRST[2:] + DIAGONAL_FIRST[:2] if swapped else DIAGONAL_FIRST
    return torch.arange(4 * C).view(4, C)[[squares.index(i) for i in range(4)]].flatten()
