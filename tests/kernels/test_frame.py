"""Frames: tensors seen as (B, O, I), vector units and tiles."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from genbench_kernels.frame import addressable, frame_of, next_power_of_2, row_strides, tile_of, vector_unit
from torch import Tensor

X = torch.arange(2 * 4 * 3 * 5.0).view(2, 4, 3, 5)
PAIRS = {
    "contiguous": (X, X + 1),
    "channels_last": (X.contiguous(memory_format=torch.channels_last), X.contiguous(memory_format=torch.channels_last)),
    "half of the channels": (X, torch.cat((X, X), 1)[:, :4]),
    "interleaved channels": (X, X.repeat_interleave(2, 1)[:, ::2]),
    "broadcast over channels": (X, X[:, :1].expand_as(X)),
    "broadcast over pixels": (X, X[..., :1, :1].expand_as(X)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_frame_contains_the_same_elements_in_the_same_order_for_all_tensors(name: str) -> None:
    frame = frame_of(tuple(X.shape), [x.stride() for x in PAIRS[name]])
    assert frame is not None
    assert frame.outer * frame.inner == X[0].numel()
    shape = (len(X), frame.outer, frame.inner)
    views = [x.as_strided(shape, s, x.storage_offset()) for x, s in zip(PAIRS[name], frame.strides, strict=True)]
    assert torch.equal(pairs_of(views).unique(dim=0), pairs_of(PAIRS[name]).unique(dim=0))


def pairs_of(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack([x.flatten() for x in tensors], 1)


def test_contiguous_tensors_have_one_row_per_batch_element() -> None:
    frame = frame_of((2, 4, 3, 5), [(60, 15, 5, 1)])
    assert frame is not None
    assert (frame.outer, frame.inner, frame.strides) == (1, 60, ((60, 0, 1),))


def test_tensors_that_need_three_dimensions_have_no_frame() -> None:
    other = X.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1)
    assert frame_of(tuple(X.shape), [X.stride(), other.stride()]) is None


def test_the_vector_unit_divides_all_sizes_and_strides() -> None:
    assert [vector_unit(64, n) for n in (0, 16, 12, 6, 1)] == [8, 8, 4, 1, 1]
    unit, strides = row_strides((torch.zeros(3, 16), torch.zeros(1, 20)[:, :16]), (3, 2))
    assert (unit, strides) == (8, [(0, 2, 1), (0, 1)])


@pytest.mark.parametrize("columns", [1, 3, 64, 1000, 5000])
def test_a_tile_covers_a_row_or_4096_elements_of_it_and_at_least_1024_elements(columns: int) -> None:
    tile = tile_of(columns)
    assert tile["K"] == min(4096, next_power_of_2(columns)) >= min(4096, columns)
    assert tile["R"] * tile["K"] >= 1024
    assert tile_of(columns, minimum=4)["K"] >= 4


def test_rows_longer_than_32_bits_are_copied() -> None:
    far_apart = torch.empty_strided((1, 2), (1, 2**31), device="meta")
    assert addressable(X) is X
    assert addressable(far_apart).stride() == (2, 1)
