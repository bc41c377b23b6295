"""Calls of the fused form that reach every configuration of its kernels."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from genbench_kernels.op import Example
from genbench_kernels.spectral_norm.reference import Mode, Order, initial_vectors, matrix, reference


def examples(device: str) -> Iterator[Example]:
    """Yield calls of `fused` that reach every configuration: orders, modes, shapes, units, dtypes, iterations."""
    convolutions = ((16, 3, 4, 4), (32, 16, 4, 4), (1, 32, 4, 4))
    yield _example(device, "torch", convolutions)
    yield _example(device, "legacy", convolutions, order="legacy")
    yield _example(device, "eval", convolutions, n_iter=0)
    yield _example(device, "eval-legacy", convolutions, order="legacy", n_iter=0)
    yield _example(device, "iterations", convolutions, n_iter=3)
    yield _example(device, "sigma", convolutions, mode="sigma")
    yield _example(device, "transposed", ((16, 32, 4, 4), (32, 16, 4, 4)), dims=(1, 1))
    yield _example(device, "transposed-legacy", ((16, 32, 4, 4), (32, 16, 4, 4)), dims=(1, 1), order="legacy")
    yield _example(device, "odd", ((16, 3, 3, 3), (32, 16, 3, 3)))
    yield _example(device, "odd-legacy", ((16, 3, 3, 3), (32, 16, 3, 3)), order="legacy")
    yield _example(device, "wide", ((8, 2500),))
    yield _example(device, "tall", ((2500, 8),), order="legacy")
    yield _example(device, "bfloat16", convolutions, dtype=torch.bfloat16)
    yield _example(device, "float64", convolutions, dtype=torch.float64)


def _example(
    device: str,
    name: str,
    shapes: tuple[tuple[int, ...], ...],
    *,
    dims: tuple[int, ...] = (),
    order: Order = "torch",
    n_iter: int = 1,
    mode: Mode = "weight",
    dtype: torch.dtype = torch.float32,
) -> Example:
    dims = dims or (0,) * len(shapes)
    weights = tuple(torch.randn(s, dtype=dtype, device=device, requires_grad=True) for s in shapes)
    pairs = [initial_vectors(matrix(w.detach(), dim), 1e-12) for w, dim in zip(weights, dims, strict=True)]
    us, vs = zip(*pairs, strict=True)
    reference(weights, us, vs, dims, n_iter=3)  # with random u and v, u^T W v is near 0 and inaccurate
    return Example(name, (weights, us, vs, dims, order, 1e-12, n_iter, mode))
