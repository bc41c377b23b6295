"""How tensors lie in memory as a kernel sees them: sizes, strides and tiles.

A kernel sees tensors as rows and columns, whatever their dimensions: (B, O, I) with a stride each, or (..., B, D) where
only rows may have any strides. `frame_of` merges dimensions until (B, O, I) is enough, so that chunks, interleaved
channels, channels_last, slices and broadcasts need no copy.

Sizes and strides are passed in units of 8 or 4 elements where that divides all of them (`vector_unit`). The kernel
multiplies them by its constant UNIT, from which the compiler learns that it can use vector loads.

A program works on a tile of R rows by K columns (`tile_of`); a row of more than MAX_COLUMNS is split among programs.
"""

from __future__ import annotations

from math import gcd
from typing import NamedTuple

from torch import Tensor

Strides = tuple[int, ...]
MAX_COLUMNS = 4096  # of a tile
MIN_ELEMENTS = 1024  # of a tile: shorter rows are taken several at a time


def cdiv(n: int, divisor: int) -> int:
    """Return n / divisor, rounded up."""
    return -(-n // divisor)


def next_power_of_2(n: int) -> int:
    """Return the smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()


def tile_of(columns: int, *, minimum: int = 1) -> dict[str, int]:
    """Return the tile of a program for rows of this length: R rows, K columns (at least `minimum`), and warps."""
    K = min(MAX_COLUMNS, max(minimum, next_power_of_2(columns)))
    return {"R": max(1, MIN_ELEMENTS // K), "K": K, "num_warps": 4 if K <= 1024 else 8}


def vector_unit(*numbers: int) -> int:
    """Return 8 or 4 if it divides all numbers, the larger if both do, else 1."""
    unit = gcd(8, *numbers)
    return unit if unit >= 4 else 1


# ------------------------------------------------------------------------------------------------- (B, O, I)


class Frame(NamedTuple):
    """Tensors of one shape (B, ...) seen as (B, O, I), with strides (b, o, i) of each, in elements."""

    outer: int
    inner: int
    strides: tuple[tuple[int, int, int], ...]


def frame_of(shape: Strides, strides: list[Strides], *, in_order_of: int = 0) -> Frame | None:
    """Return tensors of `shape` as (B, O, I), or None if they need more than two dimensions behind the batch.

    I is the dimension that is innermost in memory in the tensor numbered `in_order_of`.
    """
    (outer, o), (inner, i), *more = _merge(shape, strides, in_order_of)
    if more:
        return None
    b = [each[0] if shape[0] > 1 else 0 for each in strides]
    return Frame(outer, inner, tuple(zip(b, o, i, strict=True)))


def _merge(shape: Strides, strides: list[Strides], in_order_of: int) -> list[tuple[int, Strides]]:
    """Return [(size, stride of each tensor)], at least two, for the dimensions behind the batch, outermost first.

    Two dimensions become one if in every tensor a single stride runs through both.
    """
    merged: list[tuple[int, Strides]] = []
    order = sorted((d for d in range(1, len(shape)) if shape[d] != 1), key=lambda d: -strides[in_order_of][d])
    for d in order:
        size, steps = shape[d], tuple(each[d] for each in strides)
        if merged and all(a == b * size for a, b in zip(merged[-1][1], steps, strict=True)):
            size *= merged.pop()[0]
        merged.append((size, steps))
    single = (1, (0,) * len(strides))
    return [single] * (2 - len(merged)) + merged


# -------------------------------------------------------------------------------------------------- (..., B, D)


def row_strides(tensors: tuple[Tensor, ...], ndims: tuple[int, ...]) -> tuple[int, list[Strides]]:
    """Return (unit, strides of each tensor (..., D)): those of rows in units, that of columns in elements.

    The unit also divides D. A dimension of size 1 has stride 0; strides are padded in front with 0 to `ndims` of each.
    """
    strides = [strides_of(t) for t in tensors]
    unit = vector_unit(tensors[0].shape[-1], *(s for each in strides for s in each[:-1]))
    padding = [(0,) * (n - len(each)) for n, each in zip(ndims, strides, strict=True)]
    return unit, [(*p, *(s // unit for s in each[:-1]), each[-1]) for p, each in zip(padding, strides, strict=True)]


def strides_of(x: Tensor) -> Strides:
    """Return the strides of x, 0 along dimensions of size 1."""
    return tuple(stride if size > 1 else 0 for size, stride in zip(x.shape, x.stride(), strict=True))


def addressable(x: Tensor) -> Tensor:
    """Return x, copied if 32 bits do not address the columns of a row."""
    return x if (x.shape[-1] - 1) * x.stride(-1) < 2**31 else x.contiguous()
