"""The invertible 1x1 convolution: a full matrix by its LU factors (Glow, 2018, section 3.2)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from genbench_kernels.op import eager
from torch import Tensor, nn
from torch.nn.functional import linear

from genbench.models.flows.bijection import Bijection, Shape
from genbench.models.flows.closed import Step
from genbench.nets.precision import full_precision

Start = Literal["rotation", "identity"]  # of a matrix


def columns(x: Tensor) -> Tensor:
    """Return the channels of every position as a column, x (B, C, ...) -> (C, B ...)."""
    return x.movedim(1, 0).flatten(1)


def from_columns(columns: Tensor, like: Tensor) -> Tensor:
    """Return columns (C, B ...) in the shape of `like` (B, C, ...)."""
    B, C, *rest = like.shape
    return columns.view(C, B, *rest).movedim(0, 1)


def factors(packed: Tensor, sign: Tensor) -> tuple[Tensor, Tensor]:
    """Return L and U + diag(sign e^s), (C, C) each, of `packed`: L below its diagonal, s on it, U above it."""
    U = packed.triu()
    U.diagonal().copy_(sign * packed.diagonal().exp())
    return packed.tril(-1), U


def lu(L: Tensor, U: Tensor) -> Tensor:
    """Return (1 + L) U, (C, C)."""
    return torch.addmm(U, L, U)


def by_packed(g: Tensor, L: Tensor, U: Tensor) -> Tensor:
    """Return the gradient by `packed` from g (C, C), that by (1 + L) U."""
    found = (g @ U.t()).tril_(-1).add_(torch.addmm(g, L.t(), g).triu_())
    found.diagonal().mul_(U.diagonal())
    return found


class Factored(torch.autograd.Function):
    """L, s and U packed, sign -> (1 + L)(U + diag(sign e^s)), with its gradient in closed form."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, sign: Tensor) -> Tensor:
        ctx.save_for_backward(packed, sign)
        return lu(*factors(packed, sign))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (packed, sign) = gradients, ctx.saved_tensors
        return by_packed(g, *factors(packed, sign)), None


class Turned(torch.autograd.Function):
    """x (B, C), (), rows or None, packed, sign -> W x and its log-determinant, with their gradient in closed form."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, options: tuple[()], rows: Tensor | None, packed: Tensor, sign: Tensor
    ) -> tuple[Tensor, Tensor]:
        L, U = factors(packed, sign)
        W = permuted(lu(L, U), rows)
        ctx.save_for_backward(x, rows, packed, sign, L, U, W)
        return torch.mm(x, W.t()), packed.diagonal().sum()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (g, glogdet), (x, rows, packed, sign, L, U, W) = cotangents, ctx.saved_tensors
        if torch.is_grad_enabled():
            L, U = factors(packed, sign)
            W = permuted(lu(L, U), rows)
        found = by_packed(restored(g.t() @ x, rows), L, U)
        found.diagonal().add_(glogdet)
        return g @ W, None, None, found, None


def permuted(W: Tensor, rows: Tensor | None) -> Tensor:
    """Return P W, the `rows` of W in turn; None for the identity."""
    return W if rows is None else W.index_select(0, rows)


def restored(W: Tensor, rows: Tensor | None) -> Tensor:
    """Return P^T W, of which W is `permuted`."""
    return W if rows is None else W.index_copy(0, rows, W)


class LULinear(Bijection):
    """y = W x with W = P (1 + L)(U + diag(sign e^s)), on images at every position (Glow, 2018, section 3.2).

    P is fixed; log|det| = H W sum s. W starts as a random rotation, or as the identity. L, s and U are one matrix
    (C, C), as LAPACK packs them: nothing is stored, nor stepped by an optimizer, that is always zero.
    """

    rows: Tensor | None  # of (1 + L)(U + diag(sign e^s)), as P takes them
    sign: Tensor

    def __init__(self, shape: Shape, *, start: Start = "rotation") -> None:
        super().__init__()
        self.positions = math.prod(shape[1:])
        W = torch.linalg.qr(torch.randn(shape[0], shape[0]))[0] if start == "rotation" else torch.eye(shape[0])
        P, L, U = torch.linalg.lu(W)
        self.register_buffer("rows", P.argmax(1) if start == "rotation" else None)  # else P is the identity
        self.register_buffer("sign", U.diagonal().sign())
        self.packed = nn.Parameter(L.tril(-1) + U.triu().diagonal_scatter(U.diagonal().abs().log()))

    def weight(self) -> Tensor:
        """Return W (C, C)."""
        W: Tensor = Factored.apply(self.packed, self.sign) if eager() else lu(*factors(self.packed, self.sign))
        return permuted(W, self.rows)

    def step(self, x: Tensor) -> Step | None:
        if x.ndim != 2 or not eager() or torch.is_autocast_enabled(x.device.type):
            return None
        return Step(Turned, (), (self.rows, self.packed, self.sign))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if step := self.step(x):
            return step(x)
        with full_precision(x):
            W = self.weight()
            y = linear(x, W) if x.ndim == 2 else from_columns(W @ columns(x), x)
        return y, self.positions * self.packed.diagonal().sum()

    def inverse(self, y: Tensor) -> Tensor:
        L, U = factors(self.packed, self.sign)
        x = torch.linalg.solve_triangular(L, restored(columns(y), self.rows), upper=False, unitriangular=True)
        return from_columns(torch.linalg.solve_triangular(U, x, upper=True), y)
