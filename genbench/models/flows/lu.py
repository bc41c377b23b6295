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


def columns(x: Tensor) -> Tensor:
    """Return the channels of every position as a column, x (B, C, ...) -> (C, B ...)."""
    return x.movedim(1, 0).flatten(1)


def from_columns(columns: Tensor, like: Tensor) -> Tensor:
    """Return columns (C, B ...) in the shape of `like` (B, C, ...)."""
    B, C, *rest = like.shape
    return columns.view(C, B, *rest).movedim(0, 1)


def upper(U: Tensor, s: Tensor, sign: Tensor) -> Tensor:
    """Return the entries of U above its diagonal, and sign e^s on it, (C, C)."""
    return U.triu(1).diagonal_scatter(sign * s.exp())


def lu(below: Tensor, U: Tensor) -> Tensor:
    """Return (1 + L) U, (C, C), `below` the entries of L below its diagonal."""
    return torch.addmm(U, below, U)


def by_factors(g: Tensor, below: Tensor, whole: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients by L, U and s from g (C, C), that by (1 + L) U, `whole` being all of U."""
    by_upper = torch.addmm(g, below.t(), g)
    return (g @ whole.t()).tril(-1), by_upper.triu(1), by_upper.diagonal() * whole.diagonal()


class Factored(torch.autograd.Function):
    """L, U, s, sign -> W = (1 + L)(U + diag(sign e^s)), with its gradient in closed form."""

    @staticmethod
    def forward(ctx: Any, L: Tensor, U: Tensor, s: Tensor, sign: Tensor) -> Tensor:
        ctx.save_for_backward(L, U, s, sign)
        return lu(L.tril(-1), upper(U, s, sign))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (L, U, s, sign) = gradients, ctx.saved_tensors
        return *by_factors(g, L.tril(-1), upper(U, s, sign)), None


class Turned(torch.autograd.Function):
    """x (B, C), (), P or None, L, U, s, sign -> W x and its log-determinant, with their gradient in closed form."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, options: tuple[()], P: Tensor | None, L: Tensor, U: Tensor, s: Tensor, sign: Tensor
    ) -> tuple[Tensor, Tensor]:
        below, whole = L.tril(-1), upper(U, s, sign)
        W = permuted(P, lu(below, whole))
        ctx.save_for_backward(x, P, L, U, s, sign, below, whole, W)
        return torch.mm(x, W.t()), s.sum()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (g, glogdet), (x, P, L, U, s, sign, below, whole, W) = cotangents, ctx.saved_tensors
        if torch.is_grad_enabled():
            below, whole = L.tril(-1), upper(U, s, sign)
            W = permuted(P, lu(below, whole))
        by_W = g.t() @ x
        gL, gU, gs = by_factors(by_W if P is None else P.t() @ by_W, below, whole)
        return g @ W, None, None, gL, gU, gs + glogdet, None


def permuted(P: Tensor | None, W: Tensor) -> Tensor:
    """Return P W; None for the identity."""
    return W if P is None else P @ W


class LULinear(Bijection):
    """y = W x with W = P L (U + diag(sign e^s)), on images at every position (Glow, 2018, section 3.2).

    P is fixed; log|det| = H W sum s. W starts as a random rotation, or as the identity.
    """

    P: Tensor
    sign: Tensor

    def __init__(self, shape: Shape, *, start: Literal["rotation", "identity"] = "rotation") -> None:
        super().__init__()
        self.positions, self.permutes = math.prod(shape[1:]), start == "rotation"  # else P is the identity
        W = torch.linalg.qr(torch.randn(shape[0], shape[0]))[0] if start == "rotation" else torch.eye(shape[0])
        P, L, U = torch.linalg.lu(W)
        self.register_buffer("P", P)
        self.register_buffer("sign", U.diagonal().sign())
        self.L = nn.Parameter(L.tril(-1))
        self.U = nn.Parameter(U.triu(1))
        self.s = nn.Parameter(U.diagonal().abs().log())

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return L, unit lower triangular, and U, upper triangular, (C, C)."""
        L = self.L.tril(-1) + torch.eye(len(self.L), dtype=self.L.dtype, device=self.L.device)
        return L, self.upper()

    def upper(self) -> Tensor:
        """Return U + diag(sign e^s) (C, C)."""
        return upper(self.U, self.s, self.sign)

    def weight(self) -> Tensor:
        """Return W (C, C)."""
        W: Tensor = Factored.apply(self.L, self.U, self.s, self.sign) if eager() else lu(self.L.tril(-1), self.upper())
        return permuted(self.P if self.permutes else None, W)

    def step(self, x: Tensor) -> Step | None:
        if x.ndim != 2 or not eager() or torch.is_autocast_enabled(x.device.type):
            return None
        return Step(Turned, (), (self.P if self.permutes else None, self.L, self.U, self.s, self.sign))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if step := self.step(x):
            return step(x)
        W = self.weight()
        y = linear(x, W) if x.ndim == 2 else from_columns(W @ columns(x), x)
        return y, self.positions * self.s.sum()

    def inverse(self, y: Tensor) -> Tensor:
        L, U = self.factors()
        x = torch.linalg.solve_triangular(L, self.P.T @ columns(y), upper=False, unitriangular=True)
        return from_columns(torch.linalg.solve_triangular(U, x, upper=True), y)
