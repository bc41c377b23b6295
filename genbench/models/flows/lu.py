"""The invertible 1x1 convolution: a full matrix by its LU factors (Glow, 2018, section 3.2)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from genbench.fastpath import accelerated
from genbench.models.flows.bijection import Bijection, Shape
from genbench.nets.precision import full_precision

Start = Literal["rotation", "identity"]  # of the matrix


def to_columns(x: Tensor) -> Tensor:
    """Return the channels of every position as a column, x (B, C, ...) -> (C, B ...)."""
    return x.movedim(1, 0).flatten(1)


def from_columns(columns: Tensor, like: Tensor) -> Tensor:
    """Return columns (C, B ...) in the shape of `like` (B, C, ...)."""
    B, C, *rest = like.shape
    return columns.view(C, B, *rest).movedim(0, 1)


def unpack_lu(packed: Tensor, sign: Tensor) -> tuple[Tensor, Tensor]:
    """Return L and U + diag(sign e^s), (C, C) each, of `packed`: L below its diagonal, s on it, U above it."""
    U = packed.triu()
    U.diagonal().copy_(sign * packed.diagonal().exp())
    return packed.tril(-1), U


def lu_product(L: Tensor, U: Tensor) -> Tensor:
    """Return (1 + L) U, (C, C)."""
    return torch.addmm(U, L, U)


def permute_rows(W: Tensor, rows: Tensor | None) -> Tensor:
    """Return P W, the `rows` of W in order; None for the identity."""
    return W if rows is None else W.index_select(0, rows)


def unpermute_rows(W: Tensor, rows: Tensor | None) -> Tensor:
    """Return P^T W, the inverse of `permute_rows`."""
    return W if rows is None else W.index_copy(0, rows, W)


class LULinear(Bijection):
    """y = W x with W = P (1 + L)(U + diag(sign e^s)), on images at every position (Glow, 2018, section 3.2).

    P is fixed; log|det| = H W sum s. W starts as a random rotation, or as the identity. L, s and U are packed in one
    matrix (C, C), as in LAPACK, so that neither model nor optimizer stores entries that are always zero.
    """

    rows: Tensor | None  # of (1 + L)(U + diag(sign e^s)), in the order of P
    sign: Tensor

    def __init__(self, shape: Shape, *, start: Start = "rotation") -> None:
        super().__init__()
        self.positions = math.prod(shape[1:])
        W = torch.linalg.qr(torch.randn(shape[0], shape[0]))[0] if start == "rotation" else torch.eye(shape[0])
        P, L, U = torch.linalg.lu(W)
        self.register_buffer("rows", P.argmax(1) if start == "rotation" else None)  # else P is the identity
        self.register_buffer("sign", U.diagonal().sign())
        self.packed = nn.Parameter(L.tril(-1) + U.triu().diagonal_scatter(U.diagonal().abs().log()))

    @accelerated
    def weight(self) -> Tensor:
        """Return W (C, C)."""
        return permute_rows(lu_product(*unpack_lu(self.packed, self.sign)), self.rows)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with full_precision(x):
            W = self.weight()
            y = linear(x, W) if x.ndim == 2 else from_columns(W @ to_columns(x), x)
        return y, self.positions * self.packed.diagonal().sum()

    def inverse(self, y: Tensor) -> Tensor:
        L, U = unpack_lu(self.packed, self.sign)
        x = torch.linalg.solve_triangular(L, unpermute_rows(to_columns(y), self.rows), upper=False, unitriangular=True)
        return from_columns(torch.linalg.solve_triangular(U, x, upper=True), y)
