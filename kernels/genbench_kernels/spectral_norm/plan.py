"""The plan of a group: what its launches need to know about shapes, computed once and cached on the device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import gcd, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genbench_kernels.frame import cdiv, next_power_of_2
from genbench_kernels.spectral_norm.reference import Order

PAD = 16  # elements: vectors in a flat buffer begin at multiples of it
CHUNK = 128  # columns of c that one program of reduce_kernel adds up
TILE = 4096  # elements of W that one program scales


class LayerRow(NamedTuple):
    """Columns of the table that the kernels read, of all layers each; `kernels.py` has a function for every column."""

    height: Sequence[int]  # h, rows of W: the size of u
    width: Sequence[int]  # w, columns of W: the size of v
    inner: Sequence[int]  # how many columns of W lie side by side in memory
    u_start: Sequence[int]  # where u begins in the flat buffers, in steps of PAD
    v_start: Sequence[int]  # where v begins there
    parts_start: Sequence[int]  # where the parts of c begin, in steps of PAD
    first_block: Sequence[int]  # the layer's first block among those of all layers
    aligned: Sequence[int]  # whether UNIT divides `inner`
    first_chunk: Sequence[int]  # the layer's first chunk among those of all layers
    chunks: Sequence[int]  # how many chunks c has


class Plan(NamedTuple):
    """Tables, buffer sizes and constants for a group of shapes on one device; it does not depend on the weights."""

    compute_dtype: torch.dtype
    table: Tensor  # the rows of all layers, see `LayerRow`
    programs: dict[str, tuple[Tensor, int]]  # per launch: layer and part of it for each program, and how many programs
    tile_starts: Tensor  # the first tile of each layer
    vector_sizes: list[int]  # of the flat vectors, and of the parts of c
    scalar_sizes: list[int]  # of |a|^2 by block, |a|^2 by layer, and |c|^2 by chunk
    constants: dict[str, dict[str, Any]]  # compile-time arguments of each kernel


def plan_for(weights: Sequence[Tensor], dims: Sequence[int], order: Order) -> Plan:
    """Return the plan of these weights, whose output dimensions are `dims`."""
    return _plan(tuple(tuple(w.shape) for w in weights), tuple(dims), order, weights[0].dtype, weights[0].device)


@lru_cache(maxsize=256)
def _plan(
    shapes: tuple[tuple[int, ...], ...], dims: tuple[int, ...], order: Order, dtype: torch.dtype, device: torch.device
) -> Plan:
    compute_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    N, legacy = len(shapes), int(order == "legacy")
    unit, words = 16 // dtype.itemsize, compute_dtype.itemsize // 4  # elements in 128 bits; registers per element
    u_starts, heights, v_starts, widths = zip(*_vector_places(shapes, dims), strict=True)
    inners = [prod(shape[dim + 1 :]) for shape, dim in zip(shapes, dims, strict=True)]
    sizes = [h * w for h, w in zip(heights, widths, strict=True)]
    aligned = [inner % unit == 0 for inner in inners]

    # step and reduce: blocks of P rows of M, read Q columns at a time, and chunks of c
    ps, qs = (widths, heights) if legacy else (heights, widths)
    P = 32 if legacy else 8
    Q = min(max(16, next_power_of_2(max(qs))), (256 if legacy else 1024) // words)
    blocks, chunks = [cdiv(p, P) for p in ps], [cdiv(q, CHUNK) for q in qs]
    parts = [b * cdiv(q, PAD) for b, q in zip(blocks, qs, strict=True)]

    # finish and dots: tiles of W (or of u and v where no weight is written); gradient: patches of R x K
    tiles = [cdiv(size, TILE) for size in sizes]
    vectors = [cdiv(max(h, w), TILE) for h, w in zip(heights, widths, strict=True)]
    K = min(next_power_of_2(max(widths)), 512 // words)
    R = 4096 // words // K
    patches: list[tuple[int, ...]] = [
        (n, i, j) for n in range(N) for i in range(cdiv(heights[n], R)) for j in range(cdiv(widths[n], K))
    ]

    row = LayerRow(
        height=heights, width=widths, inner=inners,
        u_start=[start // PAD for start in u_starts], v_start=[start // PAD for start in v_starts],
        parts_start=_starts(parts), first_block=_starts(blocks), aligned=aligned,
        first_chunk=_starts(chunks), chunks=chunks,
    )  # fmt: skip
    programs: dict[str, list[tuple[int, ...]]] = {
        "blocks": _enumerate(blocks),
        "chunks": _enumerate(chunks),
        "tiles": _enumerate(tiles),
        "vectors": _enumerate(vectors),
        "patches": patches,
    }
    by_element = {"N": N, "UNIT": gcd(unit, *sizes)}
    by_row = {
        "N": N,
        "ROW_MAJOR": not any(dims),
        "UNIT": unit if any(aligned) else 1,
        "MIXED": any(aligned) and not all(aligned),
    }
    by_block = {"LEGACY": legacy, "P": P}
    finish = {**by_element, **by_block, "T": TILE, "num_warps": 8}
    max_blocks, max_chunks = next_power_of_2(max(blocks)), next_power_of_2(max(chunks))
    return Plan(
        compute_dtype,
        _integers([value for values in zip(*row, strict=True) for value in values], device),
        {
            name: (_integers([value for entry in entries for value in entry], device), len(entries))
            for name, entries in programs.items()
        },
        _integers(_starts([*tiles, 0]), device),
        [buffer_size(shapes, dims), PAD * sum(parts)],
        [16 * cdiv(n, 16) for n in (sum(blocks), N, sum(chunks))],
        {
            "step": {**by_row, **by_block, "Q": Q, "LOOPS": cdiv(max(qs), Q), "C": max_chunks, "num_warps": 8},
            "reduce": {**by_block, "B": 16, "K": CHUNK, "LOOPS": cdiv(max(blocks), 16)},
            "finish": {**finish, "UPDATE": True, "C": max_chunks},
            "finish_eval": {**finish, "UPDATE": False, "C": max_blocks},
            "dots": {**by_element, "T": TILE},
            "gradient": {**by_row, "R": R, "K": K, "D": next_power_of_2(max(tiles))},
        },
    )


def _vector_places(shapes: Sequence[Sequence[int]], dims: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Return for each layer the start of u in the flat buffers, h, the start of v, w; starts are multiples of PAD."""
    heights = [shape[dim] for shape, dim in zip(shapes, dims, strict=True)]
    widths = [prod(shape) // h for shape, h in zip(shapes, heights, strict=True)]
    starts = [PAD * start for start in _starts([cdiv(n, PAD) for n in (*heights, *widths)])]
    return list(zip(starts, heights, starts[len(shapes) :], widths, strict=False))


def buffer_size(shapes: Sequence[Sequence[int]], dims: Sequence[int]) -> int:
    """Return the number of elements of a flat buffer with u and v of all layers."""
    *_, v_start, width = _vector_places(shapes, dims)[-1]
    return v_start + cdiv(width, PAD) * PAD


def split_vectors(uv: Tensor, weights: Sequence[Tensor], dims: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    """Return u (h,) and v (w,) of each layer as views of the flat buffer `uv`."""
    places = _vector_places([w.shape for w in weights], dims)
    return [uv[i : i + h] for i, h, _, _ in places], [uv[j : j + w] for _, _, j, w in places]


def _starts(lengths: Sequence[int]) -> list[int]:
    """Return where each of several consecutive pieces begins."""
    return [sum(lengths[:n]) for n in range(len(lengths))]


def _enumerate(counts: Sequence[int]) -> list[tuple[int, ...]]:
    """Return (layer, part) for every part of every layer."""
    return [(n, k) for n, count in enumerate(counts) for k in range(count)]


def _integers(values: list[int], device: torch.device) -> Tensor:
    if device.type == "meta":
        return torch.empty(len(values), dtype=torch.int32, device="meta")
    return torch.tensor(values, dtype=torch.int32).to(device)
