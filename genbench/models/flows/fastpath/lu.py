"""The matrix of `LULinear`, and on vectors the whole layer, with hand-written gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genbench.models.flows.fastpath.bijection import Step
from genbench.models.flows.lu import LULinear, lu_product, permute_rows, unpack_lu, unpermute_rows


def lu_weight(f: LULinear) -> Tensor:
    """Return W (C, C)."""
    W: Tensor = LUMatrixFunction.apply(f.packed, f.sign)
    return permute_rows(W, f.rows)


def lu_linear_step(f: LULinear, x: Tensor) -> Step | None:
    """Return the layer as a step, if x are vectors and autocast is off."""
    if x.ndim != 2 or torch.is_autocast_enabled(x.device.type):
        return None
    return Step(LULinearFunction, (), (f.rows, f.packed, f.sign))


def packed_gradient(g: Tensor, L: Tensor, U: Tensor) -> Tensor:
    """Return the gradient by `packed` from g (C, C), the gradient by (1 + L) U."""
    gradient = (g @ U.t()).tril_(-1).add_(torch.addmm(g, L.t(), g).triu_())
    gradient.diagonal().mul_(U.diagonal())
    return gradient


class LUMatrixFunction(torch.autograd.Function):
    """packed, sign -> (1 + L)(U + diag(sign e^s))."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, sign: Tensor) -> Tensor:
        ctx.save_for_backward(packed, sign)
        return lu_product(*unpack_lu(packed, sign))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (packed, sign) = cotangents, ctx.saved_tensors
        return packed_gradient(g, *unpack_lu(packed, sign)), None


class LULinearFunction(torch.autograd.Function):
    """x (B, C), (), rows or None, packed, sign -> W x and its log-determinant."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, options: tuple[()], rows: Tensor | None, packed: Tensor, sign: Tensor
    ) -> tuple[Tensor, Tensor]:
        L, U = unpack_lu(packed, sign)
        W = permute_rows(lu_product(L, U), rows)
        ctx.save_for_backward(x, rows, packed, sign, L, U, W)
        return torch.mm(x, W.t()), packed.diagonal().sum()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (g, glogdet), (x, rows, packed, sign, L, U, W) = cotangents, ctx.saved_tensors
        if torch.is_grad_enabled():  # L, U and W as functions of packed
            L, U = unpack_lu(packed, sign)
            W = permute_rows(lu_product(L, U), rows)
        by_packed = packed_gradient(unpermute_rows(g.t() @ x, rows), L, U)
        by_packed.diagonal().add_(glogdet)
        return g @ W, None, None, by_packed, None


FAST = {LULinear: lu_weight}
STEPS = {LULinear: lu_linear_step}
