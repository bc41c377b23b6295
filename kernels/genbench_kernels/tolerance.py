"""The tolerance of all fused forms: an error against float64 of at most max(2 x eager's own error, 1 ulp)."""

from __future__ import annotations

import torch
from torch import Tensor


def excess(actual: Tensor, eager: Tensor, exact: Tensor) -> float:
    """Return the largest error of `actual` as a multiple of the tolerance: 1 or less passes.

    `exact` is computed in float64 from the same inputs, `eager` is the reference at `actual`'s precision. An element
    may be off by twice the largest error of `eager`, or by one ulp in `actual`'s dtype. NaN and inf must be where they
    are in `exact`. Raises ValueError if shapes or dtypes differ.
    """
    if actual.shape != exact.shape or actual.dtype != eager.dtype or exact.dtype != torch.float64:
        got = [(tuple(t.shape), t.dtype) for t in (actual, eager, exact)]
        raise ValueError(f"need one shape, actual and eager of one dtype, and exact in float64; got {got}")
    if exact.numel() == 0:
        return 0.0
    value, finite = actual.double(), exact.isfinite()
    if not torch.equal(
        torch.where(finite, 0.0, exact).nan_to_num(0.5), torch.where(finite, 0.0, value).nan_to_num(0.5)
    ):
        return float("inf")
    error = torch.where(finite, (value - exact).abs(), 0.0)
    eager_error = torch.where(finite, (eager.double() - exact).abs(), 0.0).nan_to_num(0.0, posinf=0.0).max()
    ratio = (error / torch.maximum(2 * eager_error, ulp(exact, actual.dtype))).max().item()
    return ratio if ratio == ratio else float("inf")


def ulp(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return, for each float64 x, the spacing of the numbers of `dtype` around it."""
    info = torch.finfo(dtype)
    exponent = torch.frexp(x.clamp(info.min, info.max)).exponent - 1
    return torch.ldexp(torch.full_like(x, info.eps), exponent).clamp(min=info.smallest_normal * info.eps)
