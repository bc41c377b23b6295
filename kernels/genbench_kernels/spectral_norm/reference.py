"""The reference: W / sigma in plain differentiable torch, layer by layer, and the gradients of the equation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

Order = Literal["torch", "legacy"]  # which of u and v is updated first
Mode = Literal["weight", "sigma"]  # what is returned: W / sigma, or sigma


def reference(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    dims: tuple[int, ...],
    order: Order = "torch",
    eps: float = 1e-12,
    n_iter: int = 1,
    mode: Mode = "weight",
) -> list[Tensor]:
    """Return W / sigma of each layer (sigma in mode "sigma") after `n_iter` updates of us and vs in place.

    weights (any shape), us (h,), vs (w,); `dims` are the output dimensions; n_iter=0 leaves us and vs as they are
    (eval mode).
    """
    with torch.no_grad():
        iterate = power_iteration_op if torch.compiler.is_compiling() else power_iteration
        new_us, new_vs = iterate(weights, us, vs, dims, order, eps, n_iter)
        if n_iter:
            torch._foreach_copy_([*us, *vs], [*new_us, *new_vs])
    matrices = (matrix(w, dim) for w, dim in zip(weights, dims, strict=True))
    sigmas = [torch.dot(u, torch.mv(w, v)) for w, u, v in zip(matrices, new_us, new_vs, strict=True)]
    return sigmas if mode == "sigma" else [w / sigma for w, sigma in zip(weights, sigmas, strict=True)]


def matrix(weight: Tensor, dim: int) -> Tensor:
    """Return the weight as W (h, w), its output dimension in front."""
    return weight.movedim(dim, 0).flatten(1)


def initial_vectors(w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return random unit vectors u (h,) and v (w,) for W (h, w), from the same random numbers as torch's own."""
    return normalize(w.new_empty(w.shape[0]).normal_(), dim=0, eps=eps), normalize(
        w.new_empty(w.shape[1]).normal_(), dim=0, eps=eps
    )


def power_iteration(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    dims: Sequence[int],
    order: Order,
    eps: float,
    n_iter: int,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return u and v of each layer after `n_iter` power iterations, as new tensors."""
    new_us, new_vs = [u.clone() for u in us], [v.clone() for v in vs]
    for w, dim, u, v in zip(weights, dims, new_us, new_vs, strict=True):
        for _ in range(n_iter):
            _update(matrix(w, dim), u, v, order, eps)
    return new_us, new_vs


def _update(w: Tensor, u: Tensor, v: Tensor, order: Order, eps: float) -> None:
    if order == "torch":
        u.copy_(normalize(w @ v, dim=0, eps=eps))
        v.copy_(normalize(w.T @ u, dim=0, eps=eps))
    else:
        v.copy_(normalize(w.T @ u, dim=0, eps=eps))
        u.copy_(normalize(w @ v, dim=0, eps=eps))


# For a compiler the power iteration is one opaque op. Otherwise Inductor recomputes it in backward from u and v that
# have been updated by then: in torch 2.11 and 2.15 that gives wrong gradients of torch.nn.utils.spectral_norm.
power_iteration_op = torch.library.custom_op(
    "genbench::power_iteration",
    power_iteration,
    mutates_args=(),
    schema="(Tensor[] weights, Tensor[] us, Tensor[] vs, int[] dims, str order, float eps, int n_iter)"
    " -> (Tensor[], Tensor[])",
)


@power_iteration_op.register_fake
def _power_iteration_meta(weights: Any, us: Sequence[Tensor], vs: Sequence[Tensor], *rest: Any) -> tuple[Any, Any]:
    return [torch.empty_like(u) for u in us], [torch.empty_like(v) for v in vs]


def gradients(
    gs: Sequence[Tensor], weights: Sequence[Tensor], us: Sequence[Tensor], vs: Sequence[Tensor], dims: Any, mode: Mode
) -> list[Tensor]:
    """Return dW of each layer in differentiable torch, with u and v as constants: for double backward."""
    grads = []
    for g, weight, u, v, dim in zip(gs, weights, us, vs, dims, strict=True):
        w = matrix(weight, dim).to(u.dtype)
        uv, sigma = torch.outer(u, v), u @ w @ v
        G = g.to(u.dtype) if mode == "sigma" else matrix(g, dim).to(u.dtype)
        dw = G * uv if mode == "sigma" else (G - (G * w).sum() / sigma * uv) / sigma
        grads.append(dw.view(weight.movedim(dim, 0).shape).movedim(0, dim).to(weight.dtype))
    return grads
