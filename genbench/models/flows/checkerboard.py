"""The checkerboard of an image as two halves of the channels of the squeezed image (Real NVP, 2017, figure 3)."""

from __future__ import annotations

import torch
from torch import Tensor

DIAGONAL_FIRST = (0, 3, 1, 2)  # of the four pixels of a square: the halves are the two colours of a checkerboard


def rows_from_checkerboard(C: int, turned: bool) -> Tensor:
    """Return the order that puts the upper pixels of each 2x2 square first; C channels a pixel.

    `turned`: an odd number of couplings has exchanged the colours.
    """
    squares = DIAGONAL_FIRST[2:] + DIAGONAL_FIRST[:2] if turned else DIAGONAL_FIRST
    return torch.arange(4 * C).view(4, C)[[squares.index(i) for i in range(4)]].flatten()
