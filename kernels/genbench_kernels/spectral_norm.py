# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""Spectral normalisation of many layers at once (Spectral Normalization for GANs, 2018, eq. 4-9 and algorithm 1).

    u = W v / |W v|,   v = W^T u / |W^T u|,   sigma = u^T W v = |W^T u|,   weight = W / sigma,
    dW = (G - <G, W / sigma> u v^T) / sigma,

W (h, w) being a layer's weight with its output dimension in front and the others flattened; order="legacy" moves v
before u, and sigma = |W v|. As u = W v / |W v|, both products are one sum over rows, W^T (W v) = sum_i w_i (w_i . v).

Bytes, in passes over all weights (float32): forward reads W, writes and reads the sums over blocks of 8 rows, reads W
and writes W / sigma: 3.25, the least; of sigma alone 1.25; in eval mode 3 and 1; legacy, by blocks of 32 columns, 3.06.
(A row is a block where a layer has one: 3.29 for DCGAN-64's discriminator.) A block whose rows exceed a program's
registers (1024 elements) is read again, from cache. Backward reads G and W, then G, and writes dW: 4, the least; of
sigma alone 1. Each further iteration costs another 1.25.
Launches, for all layers of one dtype together: forward 3 (step, reduce, finish; 2 in eval mode, 2 n_iter + 1 in
general; one more for sigma alone, which is copied), backward 2 (of sigma alone too: its gradients are stacked).
Weights that are not contiguous are copied first. Under torch.compile the op moves nothing in place, and u and v are
copied by one launch more: forward 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import gcd, prod
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils import parametrize

from genbench_kernels.op import Backend, Example, Op, choose, jit, launch, tl

Order = Literal["torch", "legacy"]
Mode = Literal["weight", "sigma"]
Modules = TypeVar("Modules", bound=nn.Module | Iterable[nn.Module])
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


def spectral_norm_(
    modules: Modules,
    *,
    eps: float = 1e-12,
    n_iter: int = 1,
    order: Order = "torch",
    mode: Mode = "weight",
    backend: Backend = "auto",
) -> Modules:
    """Return `modules`, a network or layers, each layer of which is now divided by its spectral norm as it runs.

    Of a network, every Linear, Conv and ConvTranspose is taken. State dicts have the keys of torch's own, so that a
    checkpoint moves both ways: of `torch.nn.utils.parametrizations.spectral_norm` for order="torch" (u before v), of
    the older `torch.nn.utils.spectral_norm` for "legacy" (v before u). mode="weight" makes `.weight` W / sigma;
    "sigma" leaves `.weight` at W and divides the layer's *input* by sigma, which is the same map, W (x / sigma) + b,
    and writes no second W: for weights larger than what they are applied to.

    **When u and v move.** All layers move together, when a pass begins: when a weight is asked for (by the layer's
    forward; of order="torch" by any access to `.weight`) that this pass has already handed out, or that has changed
    since, be it by an optimizer, by train() or eval(), or by grad mode. So a network whose layers each run once in a
    forward makes `n_iter` iterations per forward, as torch's does; a layer used twice begins a second pass for all.
    Under torch.compile a pass ends with its graph: where a network is compiled in pieces, normalise each by itself.
    In eval mode u and v stay. They are kept per pass, so several forwards may precede one backward; one node of the
    graph then gives the gradients of all layers, once all are there.

    A layer leaves by `remove_spectral_norm_`, or, of order="torch" and mode="weight", by torch's own
    `parametrize.remove_parametrizations`; the others go on as they were. (In mode "sigma" torch's leaves W, which is
    what `.weight` is there, and the input is no longer divided.)

    Source: Spectral Normalization for Generative Adversarial Networks, 2018, algorithm 1; 15 + n_iter iterations at the
    start for order="torch", none for "legacy", as torch has it. Arithmetic is float32, or float64 where the weight is.
    Raises ValueError for a layer without weight, one normalised before, and unknown order, mode or backend.
    """
    layers = _layers(modules)
    _check(layers, eps, n_iter, order, mode, backend)
    group = _Group(layers, eps, n_iter, order, mode, backend)
    group.attach()
    return modules


def remove_spectral_norm_(modules: Modules) -> Modules:
    """Return `modules`, a network or layers, with W / sigma as the plain weight of every layer that was normalised.

    u and v do not move, and layers of the same group that are not among `modules` stay normalised. Raises ValueError
    where no layer is normalised by `spectral_norm_`.
    """
    candidates = list(modules.modules()) if isinstance(modules, nn.Module) else list(modules)
    places = [(layer, place) for layer in candidates if (place := _place_of(layer)) is not None]
    if not places:
        raise ValueError(f"none of {[type(layer).__name__ for layer in candidates]} is under spectral_norm_")
    for layer, (group, index) in places:
        group.release(index)
        for key in [k for k, h in layer._forward_pre_hooks.items() if isinstance(h, _Hook) and h.group is group]:
            del layer._forward_pre_hooks[key]
    return modules


def _place_of(layer: nn.Module) -> tuple[_Group, int] | None:
    """Return the group that normalises a layer, and the layer's index in it; None where none does."""
    owners: list[Any] = [h for h in layer._forward_pre_hooks.values() if isinstance(h, _Hook)]
    if parametrize.is_parametrized(layer, "weight"):
        chain: Any = layer.parametrizations
        owners += [p for p in chain.weight if isinstance(p, SpectralNorm)]
    return next(((o.group, o.index) for o in owners if o.group.holds(o.index)), None)


def _layers(modules: nn.Module | Iterable[nn.Module]) -> list[nn.Module]:
    if not isinstance(modules, nn.Module):
        return list(modules)
    found: list[nn.Module] = [m for m in modules.modules() if isinstance(m, LAYERS)]
    return found or [modules]


def _check(layers: list[nn.Module], eps: float, n_iter: int, order: str, mode: str, backend: str) -> None:
    if order not in ("torch", "legacy") or mode not in ("weight", "sigma"):
        raise ValueError(f"order must be torch or legacy, mode weight or sigma; got {order!r} and {mode!r}")
    if n_iter < 1 or not eps > 0:
        raise ValueError(f"n_iter must be 1 at least and eps positive, got {n_iter} and {eps}")
    if not layers or len({id(layer) for layer in layers}) < len(layers):
        raise ValueError(f"one layer or more, each once; got {[type(layer).__name__ for layer in layers]}")
    for layer in layers:
        name = type(layer).__name__
        if parametrize.is_parametrized(layer, "weight") or hasattr(layer, "weight_orig"):
            raise ValueError(f"the weight of {layer} is parametrised already: spectral_norm_ is applied once")
        weight = layer._parameters.get("weight")
        if weight is None or isinstance(weight, nn.UninitializedParameter):
            raise ValueError(f"{name} has no parameter `weight`, or it has no shape yet: {layer}")
        if weight.ndim < 2 or weight.numel() == 0 or not weight.is_floating_point():
            raise ValueError(
                f"weight of {name} must be real, of two dimensions or more, none empty; "
                f"got {tuple(weight.shape)}, {weight.dtype}"
            )
        if mode == "sigma" and not isinstance(layer, LAYERS):
            raise ValueError(f"mode='sigma' divides the input of a linear map, which {name} is not known to be")
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be auto, fused or reference, not {backend!r}")


# ------------------------------------------------------------------------------------------------- reference


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
    """Return W / sigma of each layer (or sigma, in mode "sigma"), having moved us and vs `n_iter` times in place.

    weights (any shape), us (h,), vs (w,); `dims` are the output dimensions; n_iter=0 leaves us and vs (eval mode).
    """
    with torch.no_grad():
        steps = _registered_steps if torch.compiler.is_compiling() else power_steps
        kept_us, kept_vs = steps(weights, us, vs, dims, order, eps, n_iter)
        if n_iter:
            torch._foreach_copy_([*us, *vs], [*kept_us, *kept_vs])
    matrices = (matrix(w, dim) for w, dim in zip(weights, dims, strict=True))
    sigmas = [torch.dot(u, torch.mv(w, v)) for w, u, v in zip(matrices, kept_us, kept_vs, strict=True)]
    return sigmas if mode == "sigma" else [w / sigma for w, sigma in zip(weights, sigmas, strict=True)]


def matrix(weight: Tensor, dim: int) -> Tensor:
    """Return the weight as W (h, w), its output dimension in front."""
    return weight.movedim(dim, 0).flatten(1)


def power_steps(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    dims: Sequence[int],
    order: Order,
    eps: float,
    n_iter: int,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return u and v of each layer after `n_iter` iterations, as new tensors."""
    moved_us, moved_vs = [u.clone() for u in us], [v.clone() for v in vs]
    for w, dim, u, v in zip(weights, dims, moved_us, moved_vs, strict=True):
        for _ in range(n_iter):
            _power_step(matrix(w, dim), u, v, order, eps)
    return moved_us, moved_vs


def _power_step(w: Tensor, u: Tensor, v: Tensor, order: Order, eps: float) -> None:
    if order == "torch":
        u.copy_(normalize(w @ v, dim=0, eps=eps))
        v.copy_(normalize(w.T @ u, dim=0, eps=eps))
    else:
        v.copy_(normalize(w.T @ u, dim=0, eps=eps))
        u.copy_(normalize(w @ v, dim=0, eps=eps))


# A compiler sees the steps as one op. Inductor would repeat them in backward, from u and v that have moved by then: the
# gradients of torch.nn.utils.spectral_norm come out wrong that way, with torch 2.11 and 2.15.
_registered_steps = torch.library.custom_op(
    "genbench::power_steps",
    power_steps,
    mutates_args=(),
    schema="(Tensor[] weights, Tensor[] us, Tensor[] vs, int[] dims, str order, float eps, int n_iter)"
    " -> (Tensor[], Tensor[])",
)


@_registered_steps.register_fake
def _fake_steps(weights: Any, us: Sequence[Tensor], vs: Sequence[Tensor], *rest: Any) -> tuple[Any, Any]:
    return [torch.empty_like(u) for u in us], [torch.empty_like(v) for v in vs]


def gradients(
    gs: Sequence[Tensor], weights: Sequence[Tensor], us: Sequence[Tensor], vs: Sequence[Tensor], dims: Any, mode: Mode
) -> list[Tensor]:
    """Return dW of each layer in differentiable torch, u and v being constants: for double backward."""
    found = []
    for g, weight, u, v, dim in zip(gs, weights, us, vs, dims, strict=True):
        w = matrix(weight, dim).to(u.dtype)
        uv, sigma = torch.outer(u, v), u @ w @ v
        G = g.to(u.dtype) if mode == "sigma" else matrix(g, dim).to(u.dtype)
        dw = G * uv if mode == "sigma" else (G - (G * w).sum() / sigma * uv) / sigma
        found.append(dw.view(weight.movedim(dim, 0).shape).movedim(0, dim).to(weight.dtype))
    return found


# --------------------------------------------------------------------------------------------------- kernels
#
# One launch runs over the layers of a group: a program reads from a map which layer it is at, and which block of it.
# Weights come as tuples of pointers (a launch's arguments: nothing to rebuild when one moves), shapes and places in the
# flat buffers from a table, ten integers a layer. `p` is the vector that moves first (u for order="torch"), `q` the
# other: a step is a = M q, c = M^T a with M (p, q) = W, or W^T for "legacy". Squares and dot products are summed in
# float64, so that they neither overflow nor lose what the vectors have. Widths that UNIT divides are said to be
# so, that the compiler can load vectors; where ODD, some layer is not divided by it and takes a second body without.


@jit
def _pick(tensors, layer, N: tl.constexpr):
    chosen = tensors[0]
    for k in tl.static_range(1, N):
        chosen = tl.where(layer == k, tensors[k], chosen)
    return chosen


@jit
def _shape(layers, layer, UNIT: tl.constexpr):
    """Return h, w, and how many columns lie side by side."""
    at = layers + layer * 10
    return tl.load(at), tl.load(at + 1) // UNIT * UNIT, tl.load(at + 2) // UNIT * UNIT


@jit
def _places(layers, layer, LEGACY: tl.constexpr):
    """Return where p and q of a layer begin in the flat vectors."""
    at = layers + layer * 10 + 3
    return tl.load(at + LEGACY) * 16, tl.load(at + 1 - LEGACY) * 16


@jit
def _padded(size, to: tl.constexpr):
    """Return how far a vector is filled with zeros in a flat buffer, where each takes a multiple of 16."""
    return (size + to - 1) // to * to


@jit
def _sizes(layers, layer, LEGACY: tl.constexpr):
    at = layers + layer * 10
    return tl.load(at + LEGACY), tl.load(at + 1 - LEGACY)  # of p and q


@jit
def _tile(i, j, h, width, inner, FLAT: tl.constexpr):
    """Return where W[i, j] lies, and whether it is there; a transposed convolution's i is its second dimension."""
    offset = i.to(tl.int64) * inner + j
    if not FLAT:
        offset = i.to(tl.int64) * inner + (j // inner).to(tl.int64) * (h * inner) + j % inner
    return offset, (i < h) & (j < width)


@jit
def _rows_of(w, p, q, h, width, inner, LEGACY: tl.constexpr, FLAT: tl.constexpr):
    """Return M[p, q], from W or W^T."""
    if LEGACY:
        offset, live = _tile(q[None, :], p[:, None], h, width, inner, FLAT)
    else:
        offset, live = _tile(p[:, None], q[None, :], h, width, inner, FLAT)
    return tl.load(w + offset, mask=live, other=0.0)


@jit
def _norms(layers, layer, totals, csums, eps, C: tl.constexpr):
    """Return max(|a|, eps) and |c| / max(|a|, eps), the norm of c before it is normalised."""
    at, chunks, k = tl.load(layers + layer * 10 + 8), tl.load(layers + layer * 10 + 9), tl.arange(0, C)
    c = tl.sum(tl.load(csums + at + k, mask=k < chunks, other=0.0), 0)
    a = tl.maximum(tl.sqrt(tl.load(totals + layer)), eps)
    return a, tl.sqrt(c) / a


@jit
def _step(
    layers, layer, block, w, x, y, factor, vectors, sums, partials,
    UNIT: tl.constexpr, LEGACY: tl.constexpr, FLAT: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, LOOPS: tl.constexpr,
):  # fmt: skip
    wide = vectors.dtype.element_ty
    h, width, inner = _shape(layers, layer, UNIT)
    p_size, q_size = _sizes(layers, layer, LEGACY)
    p = block * P + tl.arange(0, P)
    q = tl.arange(0, Q)
    tile = _rows_of(w, p, q, h, width, inner, LEGACY, FLAT).to(wide)
    products = tile * (tl.load(x + q, mask=q < q_size, other=0.0).to(wide) * factor)[None, :]
    for k in range(1, LOOPS):
        q = k * Q + tl.arange(0, Q)
        more = _rows_of(w, p, q, h, width, inner, LEGACY, FLAT).to(wide)
        products += more * (tl.load(x + q, mask=q < q_size, other=0.0).to(wide) * factor)[None, :]
    a = tl.sum(products, 1)
    row = tl.load(layers + layer * 10 + 6) + block
    if y is not None:
        tl.store(sums + row, tl.sum(a.to(tl.float64) * tl.load(y + p, mask=p < p_size, other=0.0).to(tl.float64), 0))
    else:
        p_at, _ = _places(layers, layer, LEGACY)
        tl.store(sums + row, tl.sum(a.to(tl.float64) * a.to(tl.float64), 0))
        tl.store(vectors + p_at + p, a, mask=p < _padded(p_size, 8))
        into = partials + (tl.load(layers + layer * 10 + 5).to(tl.int64) + block * (_padded(q_size, 16) // 16)) * 16
        if LOOPS == 1:
            tl.store(into + q, tl.sum(tile * a[:, None], 0), mask=q < _padded(q_size, 16))
        else:
            for k in range(LOOPS):
                q = k * Q + tl.arange(0, Q)
                tile = _rows_of(w, p, q, h, width, inner, LEGACY, FLAT).to(wide)
                tl.store(into + q, tl.sum(tile * a[:, None], 0), mask=q < _padded(q_size, 16))


@jit
def step_kernel(
    layers, blocks, ws, xs, ys, old, old_totals, old_csums, vectors, sums, partials, eps,
    N: tl.constexpr, LEGACY: tl.constexpr, FLAT: tl.constexpr, UNIT: tl.constexpr, ODD: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, LOOPS: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Store a = M q, |a|^2 by block (p . a where `ys` are given), and the part of c = M^T a that the block gives.

    q is `xs`, or, in a second iteration, c of the `old` step, which is normalised here.
    """
    layer, block = tl.load(blocks + 2 * tl.program_id(0)), tl.load(blocks + 2 * tl.program_id(0) + 1)
    w, y, factor = _pick(ws, layer, N), None, 1.0
    if xs is not None:
        x = _pick(xs, layer, N)
    else:
        a, c = _norms(layers, layer, old_totals, old_csums, eps, C)
        x, factor = (
            old + _places(layers, layer, LEGACY)[1],
            (1.0 / (a * tl.maximum(c, eps))).to(vectors.dtype.element_ty),
        )
    if ys is not None:
        y = _pick(ys, layer, N)
    if ODD:
        if tl.load(layers + layer * 10 + 7) == 0:
            _step(layers, layer, block, w, x, y, factor, vectors, sums, partials, 1, LEGACY, FLAT, P, Q, LOOPS)
        else:
            _step(layers, layer, block, w, x, y, factor, vectors, sums, partials, UNIT, LEGACY, FLAT, P, Q, LOOPS)
    else:
        _step(layers, layer, block, w, x, y, factor, vectors, sums, partials, UNIT, LEGACY, FLAT, P, Q, LOOPS)


@jit
def reduce_kernel(
    layers, chunks, partials, sums, vectors, totals, csums,
    LEGACY: tl.constexpr, P: tl.constexpr, B: tl.constexpr, K: tl.constexpr, LOOPS: tl.constexpr,
):  # fmt: skip
    """Store c, the sum of its parts in fixed order, |c|^2 by chunk, and |a|^2."""
    layer, chunk = tl.load(chunks + 2 * tl.program_id(0)), tl.load(chunks + 2 * tl.program_id(0) + 1)
    p_size, q_size = _sizes(layers, layer, LEGACY)
    step, blocks, q = _padded(q_size, 16), (p_size + P - 1) // P, chunk * K + tl.arange(0, K)
    parts = partials + tl.load(layers + layer * 10 + 5).to(tl.int64) * 16
    row = tl.load(layers + layer * 10 + 6)
    c, a = tl.zeros((B, K), vectors.dtype.element_ty), tl.zeros((B,), tl.float64)
    for k in range(LOOPS):
        b = k * B + tl.arange(0, B)
        live = (b < blocks)[:, None] & (q < step)[None, :]
        c += tl.load(parts + b.to(tl.int64)[:, None] * step + q[None, :], mask=live, other=0.0)
        a += tl.load(sums + row + b, mask=b < blocks, other=0.0)
    total = tl.sum(c, 0)
    _, q_at = _places(layers, layer, LEGACY)
    tl.store(vectors + q_at + q, total, mask=q < step)
    tl.store(csums + tl.load(layers + layer * 10 + 8) + chunk, tl.sum(total.to(tl.float64) * total.to(tl.float64), 0))
    if chunk == 0:
        tl.store(totals + layer, tl.sum(a, 0))


@jit
def finish_kernel(
    layers, tiles, vectors, sums, totals, csums, ps, qs, ws, outs, kept, sigmas, eps,
    N: tl.constexpr, LEGACY: tl.constexpr, UNIT: tl.constexpr, P: tl.constexpr, T: tl.constexpr, C: tl.constexpr,
    MOVE: tl.constexpr,
):  # fmt: skip
    """Store p, q and sigma of this pass, move ps and qs there (where MOVE), and divide ws by it into `outs`."""
    layer, tile = tl.load(tiles + 2 * tl.program_id(0)), tl.load(tiles + 2 * tl.program_id(0) + 1)
    wide = kept.dtype.element_ty
    p_size, q_size = _sizes(layers, layer, LEGACY)
    p_at, q_at = _places(layers, layer, LEGACY)
    e = tile * T + tl.arange(0, T)
    if MOVE:
        a, c = _norms(layers, layer, totals, csums, eps, C)
        sigma, both = c * (c / tl.maximum(c, eps)), (a * tl.maximum(c, eps)).to(wide)
        if tile * T < p_size:
            p = tl.load(vectors + p_at + e, mask=e < _padded(p_size, 8), other=0.0) / a.to(wide)
            tl.store(kept + p_at + e, p, mask=e < _padded(p_size, 8))
            if ps is not None:
                tl.store(_pick(ps, layer, N) + e, p.to(ps[0].dtype.element_ty), mask=e < p_size)
        if tile * T < q_size:
            q = tl.load(vectors + q_at + e, mask=e < _padded(q_size, 16), other=0.0) / both
            tl.store(kept + q_at + e, q, mask=e < _padded(q_size, 16))
            if qs is not None:
                tl.store(_pick(qs, layer, N) + e, q.to(qs[0].dtype.element_ty), mask=e < q_size)
    else:
        b, blocks = tl.arange(0, C), (p_size + P - 1) // P
        sigma = tl.sum(tl.load(sums + tl.load(layers + layer * 10 + 6) + b, mask=b < blocks, other=0.0), 0)
        if tile * T < p_size:
            p = tl.load(_pick(ps, layer, N) + e, mask=e < p_size, other=0.0)
            tl.store(kept + p_at + e, p.to(wide), mask=e < _padded(p_size, 8))
        if tile * T < q_size:
            q = tl.load(_pick(qs, layer, N) + e, mask=e < q_size, other=0.0)
            tl.store(kept + q_at + e, q.to(wide), mask=e < _padded(q_size, 16))
    sigma = sigma.to(wide)
    if tile == 0:
        tl.store(sigmas + layer, sigma)
    if outs is not None:
        h, width, _ = _shape(layers, layer, 1)
        live = e < h * width // UNIT * UNIT
        w = tl.load(_pick(ws, layer, N) + e, mask=live, other=0.0).to(wide) / sigma
        tl.store(_pick(outs, layer, N) + e, w.to(outs[0].dtype.element_ty), mask=live)


@jit
def dots_kernel(layers, tiles, gs, ws, dots, N: tl.constexpr, UNIT: tl.constexpr, T: tl.constexpr):
    """Store <G, W> by tile."""
    layer, tile = tl.load(tiles + 2 * tl.program_id(0)), tl.load(tiles + 2 * tl.program_id(0) + 1)
    wide = tl.float64 if ws[0].dtype.element_ty == tl.float64 else tl.float32
    h, width, _ = _shape(layers, layer, 1)
    e = tile * T + tl.arange(0, T)
    live = e < h * width // UNIT * UNIT
    g = tl.load(_pick(gs, layer, N) + e, mask=live, other=0.0).to(wide)
    w = tl.load(_pick(ws, layer, N) + e, mask=live, other=0.0).to(wide)
    tl.store(dots + tl.program_id(0), tl.sum(g * w, 0))


@jit
def _gradient(
    layers, layer, block, split, g, to, dot, sigma, kept,
    UNIT: tl.constexpr, FLAT: tl.constexpr, R: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    wide = kept.dtype.element_ty
    h, width, inner = _shape(layers, layer, UNIT)
    u_at, v_at = _places(layers, layer, 0)
    i, j = block * R + tl.arange(0, R), split * K + tl.arange(0, K)
    u = tl.load(kept + u_at + i, mask=i < h, other=0.0)
    v = tl.load(kept + v_at + j, mask=j < width, other=0.0)
    offset, live = _tile(i[:, None], j[None, :], h, width, inner, FLAT)
    dw = dot * (u[:, None] * v[None, :])
    if g is not None:
        dw = (tl.load(g + offset, mask=live, other=0.0).to(wide) - dw) / sigma
    tl.store(to + offset, dw.to(to.dtype.element_ty), mask=live)


@jit
def gradient_kernel(
    layers, patches, gs, gsigma, dots, tiles_at, sigmas, kept, outs,
    N: tl.constexpr, FLAT: tl.constexpr, UNIT: tl.constexpr, ODD: tl.constexpr,
    R: tl.constexpr, K: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Store dW = (G - <G, W / sigma> u v^T) / sigma, or gsigma u v^T where the output was sigma."""
    at = patches + 3 * tl.program_id(0)
    layer, block, split = tl.load(at), tl.load(at + 1), tl.load(at + 2)
    sigma, g, to = tl.load(sigmas + layer), None, _pick(outs, layer, N)
    if gs is not None:
        first, last, k = tl.load(tiles_at + layer), tl.load(tiles_at + layer + 1), tl.arange(0, D)
        dot = tl.sum(tl.load(dots + first + k, mask=k < last - first, other=0.0), 0).to(kept.dtype.element_ty) / sigma
        g = _pick(gs, layer, N)
    else:
        dot = tl.load(gsigma + layer)
    if ODD:
        if tl.load(layers + layer * 10 + 7) == 0:
            _gradient(layers, layer, block, split, g, to, dot, sigma, kept, 1, FLAT, R, K)
        else:
            _gradient(layers, layer, block, split, g, to, dot, sigma, kept, UNIT, FLAT, R, K)
    else:
        _gradient(layers, layer, block, split, g, to, dot, sigma, kept, UNIT, FLAT, R, K)


class _Plan(NamedTuple):
    """What a group of shapes needs, on its device: nothing in it moves when a weight does."""

    wide: torch.dtype  # of arithmetic
    layers: Tensor  # ten integers a layer: h, w, inner, places of u, v and parts, of sums, aligned, of chunks, chunks
    maps: dict[str, tuple[Tensor, int]]  # from programs to layers and places in them, and how many programs
    tiles_at: Tensor  # the first tile of each layer
    sizes: list[int]  # of the flat vectors and of the parts of c
    counted: list[int]  # of the scalars: |a|^2 by block, by layer, |c|^2 by chunk
    constants: dict[str, dict[str, Any]]  # of each kernel


CHUNK, TILE = 128, 4096  # columns that a program sums, elements that one scales


@lru_cache(maxsize=256)
def _plan(
    shapes: tuple[tuple[int, ...], ...], dims: tuple[int, ...], order: Order, dtype: torch.dtype, device: torch.device
) -> _Plan:
    """Return the plan of weights of these shapes, whose output dimensions are `dims`."""
    N, legacy, wide = len(shapes), int(order == "legacy"), torch.float64 if dtype == torch.float64 else torch.float32
    unit, wider = 16 // dtype.itemsize, wide.itemsize // 4
    u_at, heights, v_at, widths = zip(*_flat_places(shapes, dims), strict=True)
    inners = [prod(shape[dim + 1 :]) for shape, dim in zip(shapes, dims, strict=True)]
    ps, qs = (widths, heights) if legacy else (heights, widths)
    P, Q = 32 if legacy else 8, min(max(16, _power(max(qs))), (256 if legacy else 1024) // wider)
    K = min(_power(max(widths)), 512 // wider)
    R = 4096 // wider // K
    blocks, chunks = [-(-p // P) for p in ps], [-(-q // CHUNK) for q in qs]
    tiles = [-(-h * w // TILE) for h, w in zip(heights, widths, strict=True)]
    vectors = [-(-max(h, w) // TILE) for h, w in zip(heights, widths, strict=True)]
    parts = [b * -(-q // 16) for b, q in zip(blocks, qs, strict=True)]
    places, aligned = [[at // 16 for at in ats] for ats in (u_at, v_at)], [inner % unit == 0 for inner in inners]
    rows = (
        heights, widths, inners, *places, _starts(parts), _starts(blocks), aligned, _starts(chunks), chunks,
    )  # fmt: skip
    maps = {"blocks": _map(blocks), "chunks": _map(chunks), "tiles": _map(tiles), "vectors": _map(vectors)}
    maps["patches"] = [
        (n, i, j) for n in range(N) for i in range(-(-heights[n] // R)) for j in range(-(-widths[n] // K))
    ]
    flat = {"N": N, "UNIT": gcd(unit, *(h * w for h, w in zip(heights, widths, strict=True)))}
    body = {"N": N, "FLAT": not any(dims), "UNIT": unit if any(aligned) else 1}
    body["ODD"] = any(aligned) and not all(aligned)
    split = {"LEGACY": legacy, "P": P}
    loops, finish = -(-max(qs) // Q), {**flat, **split, "T": TILE, "num_warps": 8}
    return _Plan(
        wide,
        _table([row[n] for n in range(N) for row in rows], device),
        {name: (_table([v for row in entries for v in row], device), len(entries)) for name, entries in maps.items()},
        _table(_starts([*tiles, 0]), device),
        [_length(shapes, dims), 16 * sum(parts)],
        [16 * -(-n // 16) for n in (sum(blocks), N, sum(chunks))],
        {
            "step": {**body, **split, "Q": Q, "LOOPS": loops, "C": _power(max(chunks)), "num_warps": 8},
            "reduce": {**split, "B": 16, "K": CHUNK, "LOOPS": -(-max(blocks) // 16)},
            "finish": {**finish, "MOVE": True, "C": _power(max(chunks))},
            "still": {**finish, "MOVE": False, "C": _power(max(blocks))},
            "tile": {**flat, "T": TILE},
            "gradient": {**body, "R": R, "K": K, "D": _power(max(tiles))},
        },
    )


def _flat_places(shapes: Sequence[Sequence[int]], dims: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Return, for each layer, where u begins in the flat vectors, h, where v begins, w: each at a multiple of 16."""
    heights = [shape[dim] for shape, dim in zip(shapes, dims, strict=True)]
    widths = [prod(shape) // h for shape, h in zip(shapes, heights, strict=True)]
    at = [16 * start for start in _starts([-(-n // 16) for n in (*heights, *widths)])]
    return list(zip(at, heights, at[len(shapes) :], widths, strict=False))


def _length(shapes: Sequence[Sequence[int]], dims: Sequence[int]) -> int:
    """Return how long the flat vectors are."""
    *_, last, width = _flat_places(shapes, dims)[-1]
    return last + -(-width // 16) * 16


def _vectors(kept: Tensor, weights: Sequence[Tensor], dims: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    """Return u (h,) and v (w,) of each layer, of the flat vectors of a pass."""
    places = _flat_places([w.shape for w in weights], dims)
    return [kept[i : i + h] for i, h, _, _ in places], [kept[j : j + w] for _, _, j, w in places]


def _power(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _starts(lengths: Sequence[int]) -> list[int]:
    return [sum(lengths[:n]) for n in range(len(lengths))]


def _map(counts: Sequence[int]) -> list[tuple[int, ...]]:
    return [(n, k) for n, count in enumerate(counts) for k in range(count)]


def _table(values: list[int], device: torch.device) -> Tensor:
    if device.type == "meta":
        return torch.empty(len(values), dtype=torch.int32, device="meta")
    return torch.tensor(values, dtype=torch.int32).to(device)


def _plan_of(weights: Sequence[Tensor], dims: Sequence[int], order: Order) -> _Plan:
    return _plan(tuple(tuple(w.shape) for w in weights), tuple(dims), order, weights[0].dtype, weights[0].device)


def _forward(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    dims: Sequence[int],
    order: Order,
    eps: float,
    n_iter: int,
    mode: Mode,
    *,
    move: bool = False,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return u and v of this pass, flat, sigma (N,), and W / sigma of each (none in mode "sigma"); `move` us and vs."""
    plan = _plan_of(weights, dims, order)
    weights, us, vs = tuple(weights), tuple(us), tuple(vs)
    outs = tuple(torch.empty_like(w) for w in weights) if mode == "weight" else None
    make, constants = weights[0].new_empty, plan.constants
    kept, sigmas = make(plan.sizes[0], dtype=plan.wide), make(len(weights), dtype=plan.wide)
    ps, qs = (vs, us) if constants["reduce"]["LEGACY"] else (us, vs)
    old: tuple[Tensor | None, ...] = (None, None, None)
    for iteration in range(max(n_iter, 1)):
        vectors, parts = make(sum(plan.sizes), dtype=plan.wide).split(plan.sizes)
        sums, totals, csums = make(sum(plan.counted), dtype=torch.float64).split(plan.counted)
        xs, ys = (qs if iteration == 0 else None), (None if n_iter else ps)
        unwritten = 0 if n_iter else _bytes((vectors, parts))
        launch(
            step_kernel, (plan.maps["blocks"][1],), plan.layers, plan.maps["blocks"][0], weights, xs, ys, *old,
            vectors, sums, parts, eps, extra=_bytes(weights, xs, ys) - unwritten, **constants["step"],
        )  # fmt: skip
        if n_iter:
            launch(
                reduce_kernel, (plan.maps["chunks"][1],), plan.layers, plan.maps["chunks"][0], parts, sums, vectors,
                totals, csums, **constants["reduce"],
            )  # fmt: skip
        old = vectors, totals, csums
    table, programs = plan.maps["tiles" if outs else "vectors"]
    touched = (ps, qs) if move or not n_iter else (None, None)
    launch(
        finish_kernel, (programs,), plan.layers, table, vectors, sums, totals, csums, *touched,
        weights if outs else None, outs, kept, sigmas, eps,
        extra=_bytes(*touched, outs, weights if outs else None), **constants["finish" if n_iter else "still"],
    )  # fmt: skip
    return kept, sigmas, list(outs or ())


def _bytes(*groups: Sequence[Tensor] | None) -> int:
    return sum(t.numel() * t.element_size() for group in groups if group is not None for t in group)


def _backward(
    gs: Sequence[Tensor],
    weights: Sequence[Tensor],
    kept: Tensor,
    sigmas: Tensor,
    dims: Sequence[int],
    order: Order,
    mode: Mode,
) -> list[Tensor]:
    """Return dW of each layer from the gradients of W / sigma, or from that of sigma (N,)."""
    plan, weights = _plan_of(weights, dims, order), tuple(weights)
    outs = tuple(torch.empty_like(w) for w in weights)
    dots, gsigma, G = None, None, None
    if mode == "sigma":
        gsigma = gs[0].contiguous()
    else:
        G, (tiles, programs) = tuple(g.contiguous() for g in gs), plan.maps["tiles"]
        dots = kept.new_empty(programs, dtype=torch.float64)
        launch(
            dots_kernel, (programs,), plan.layers, tiles, G, weights, dots,
            extra=_bytes(G, weights), **plan.constants["tile"],
        )  # fmt: skip
    patches, programs = plan.maps["patches"]
    launch(
        gradient_kernel, (programs,), plan.layers, patches, G, gsigma, dots, plan.tiles_at, sigmas, kept, outs,
        extra=_bytes(G, outs), **plan.constants["gradient"],
    )  # fmt: skip
    return list(outs)


# ---------------------------------------------------------------------------------- autograd and registration


def fused(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    dims: tuple[int, ...],
    order: Order = "torch",
    eps: float = 1e-12,
    n_iter: int = 1,
    mode: Mode = "weight",
) -> list[Tensor]:
    """Return what `reference` does, of the kernels and differentiable twice; weights, us and vs share a dtype."""
    weights = tuple(w.contiguous() for w in weights)
    if torch.compiler.is_compiling():
        return _traced(weights, us, vs, dims, order, eps, n_iter, mode)
    outputs = _Fused.apply((tuple(us), tuple(vs), dims, order, eps, n_iter, mode), *weights)
    return list(outputs) if mode == "weight" else list(outputs.unbind())


def _traced(
    weights: Sequence[Tensor], us: Sequence[Tensor], vs: Sequence[Tensor], dims: tuple[int, ...], order: Order,
    eps: float, n_iter: int, mode: Mode,
) -> list[Tensor]:  # fmt: skip
    """Return what `fused` does, of an op that moves nothing in place, and one more launch that moves us and vs."""
    kept, sigmas, outs = _registered(weights, us, vs, dims, order, eps, n_iter, mode)
    if n_iter:
        moved_us, moved_vs = _vectors(kept.detach(), weights, dims)
        torch._foreach_copy_([*us, *vs], [*moved_us, *moved_vs])
    return list(outs) if mode == "weight" else list(sigmas.unbind())


class _Fused(torch.autograd.Function):
    """W / sigma of each weight, or sigma (N,)."""

    @staticmethod
    def forward(ctx: Any, options: Any, *weights: Tensor) -> Any:
        us, vs, dims, order, eps, n_iter, mode = options
        ctx.kept, ctx.sigmas, outs = _forward(weights, us, vs, dims, order, eps, n_iter, mode, move=n_iter > 0)
        if n_iter:
            torch.autograd.graph.increment_version((*us, *vs))
        # not save_for_backward, whose tensors the first backward frees: layers may be differentiated one by one
        ctx.weights, ctx.versions, ctx.options = weights, [_version(w) for w in weights], (dims, order, mode)
        return tuple(outs) or ctx.sigmas.clone()

    @staticmethod
    def backward(ctx: Any, *gs: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.versions != [_version(w) for w in ctx.weights]:
            raise RuntimeError("a weight under spectral_norm_ was modified in place between forward and backward")
        found = _differentiate(gs, ctx.weights, ctx.kept, ctx.sigmas, *ctx.options)
        return None, *_needed(found, ctx.needs_input_grad[1:])


def _version(x: Tensor) -> int:
    return -1 if x.is_inference() else x._version


def _differentiate(
    gs: Sequence[Tensor], weights: Sequence[Tensor], kept: Tensor, sigmas: Tensor, dims: tuple[int, ...],
    order: Order, mode: Mode, *, kernels: Any = _backward,
) -> list[Tensor]:  # fmt: skip
    if not torch.is_grad_enabled():
        return list(kernels(gs, weights, kept, sigmas, dims, order, mode))
    return gradients(gs if mode == "weight" else gs[0].unbind(), weights, *_vectors(kept, weights, dims), dims, mode)


def _needed(found: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
    return [g if needed else None for g, needed in zip(found, wanted, strict=True)]


_registered = torch.library.custom_op(
    "genbench::spectral_norm",
    _forward,
    mutates_args=(),
    schema="(Tensor[] weights, Tensor[] us, Tensor[] vs, int[] dims, str order, float eps, int n_iter, str mode)"
    " -> (Tensor, Tensor, Tensor[])",
)
_registered_backward = torch.library.custom_op(
    "genbench::spectral_norm_backward",
    _backward,
    mutates_args=(),
    schema="(Tensor[] gs, Tensor[] weights, Tensor kept, Tensor sigmas, int[] dims, str order, str mode) -> Tensor[]",
)


@_registered.register_fake
def _fake(
    weights: Sequence[Tensor], us: Any, vs: Any, dims: Sequence[int], order: Order, eps: float, n_iter: int, mode: Mode
) -> tuple[Tensor, Tensor, list[Tensor]]:
    wide = torch.float64 if weights[0].dtype == torch.float64 else torch.float32
    kept, sigmas = (weights[0].new_empty(n, dtype=wide) for n in (_length([w.shape for w in weights], dims), len(us)))
    return kept, sigmas, [torch.empty_like(w) for w in weights] if mode == "weight" else []


@_registered_backward.register_fake
def _fake_backward(gs: Any, weights: Sequence[Tensor], *rest: Any) -> list[Tensor]:
    return [torch.empty_like(w) for w in weights]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, list[Tensor]]) -> None:
    weights, _, _, dims, order, _, _, mode = inputs
    ctx.save_for_backward(*weights, *output[:2])
    ctx.options = dims, order, mode


def _differentiate_registered(ctx: Any, _: Tensor, gsigmas: Tensor, gs: list[Tensor]) -> tuple[Any, ...]:
    *weights, kept, sigmas = ctx.saved_tensors
    found = _differentiate(gs or [gsigmas], weights, kept, sigmas, *ctx.options, kernels=_registered_backward)
    none = [None] * len(weights)
    return _needed(found, ctx.needs_input_grad[0]), none, none, None, None, None, None, None


_registered.register_autograd(_differentiate_registered, setup_context=_save)


# -------------------------------------------------------------------------------------------------- layers


@dataclass
class _Ready:
    """What a pass has made for a layer and not yet handed out, and (in eager) what it was made of."""

    value: Any = None
    stamp: tuple[Any, ...] | None = None


class _Group:
    """Layers that are normalised together; `take` hands out W / sigma (or sigma) of one, and begins passes."""

    def __init__(
        self, layers: list[nn.Module], eps: float, n_iter: int, order: Order, mode: Mode, backend: Backend
    ) -> None:
        self.layers, self.eps, self.n_iter, self.order, self.mode, self.backend = (
            layers, eps, n_iter, order, mode, backend,
        )  # fmt: skip
        self.dims = [1 if isinstance(layer, TRANSPOSED) else 0 for layer in layers]
        self.ready = [_Ready() for _ in layers]
        self.traced: tuple[Any, dict[int, Any]] = (None, {})
        torch.compiler.assume_constant_result(_Group._at_hand)  # not as a decorator: it imports Dynamo, for seconds

    def __getstate__(self) -> dict[str, Any]:
        fresh: dict[str, Any] = {"ready": [_Ready() for _ in self.layers], "traced": (None, {})}
        return {**self.__dict__, **fresh}  # values are of a graph, which can be neither copied nor pickled

    def attach(self) -> None:
        """Give each layer its u and v, under torch's names, and what asks this group for its weight."""
        weights = [layer.get_parameter("weight") for layer in self.layers]
        vectors = [_start(matrix(w.detach(), dim), self.eps) for w, dim in zip(weights, self.dims, strict=True)]
        attach = _attach_parametrisation if self.order == "torch" else _attach_hook
        for index, (u, v) in enumerate(vectors):
            attach(self, index, u, v)
        if self.order == "torch":
            for members in self._kinds(range(len(self.layers))):
                self._normalise(members, 15 + self.n_iter, "sigma", "auto")

    def tensors(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return W, u and v of a layer."""
        layer: Any = self.layers[index]
        if self.order == "legacy":
            return layer.weight_orig, layer.weight_u, layer.weight_v
        chain = layer.parametrizations.weight
        return chain.original, chain[0]._u, chain[0]._v

    def holds(self, index: int) -> bool:
        """Return whether a layer is still normalised here: its parametrisation or hook may have been removed."""
        layer: Any = self.layers[index]
        if self.order == "legacy":
            return "weight_orig" in layer._parameters
        if not parametrize.is_parametrized(layer, "weight"):
            return False
        first = layer.parametrizations.weight[0]
        return isinstance(first, SpectralNorm) and first.group is self

    def release(self, index: int) -> None:
        """Give a layer W / sigma as its plain weight, of u and v as they are."""
        layer: Any = self.layers[index]
        with torch.no_grad():
            (value,) = self._normalise([index], 0, "weight", self.backend)
        if self.order == "torch":
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        else:
            layer.__dict__.pop("weight")
            layer.register_parameter("weight", layer._parameters.pop("weight_orig"))
            del layer.weight_u, layer.weight_v
        with torch.no_grad():
            layer.weight.copy_(value)

    def take(self, index: int) -> Tensor:
        """Return W / sigma (or sigma) of a layer: of the pass at hand, once, or of one that begins here."""
        entry = self.ready[index]
        if torch.compiler.is_compiling():
            at_hand = self._at_hand(index, torch.is_grad_enabled(), [layer.training for layer in self.layers])
        else:
            at_hand = entry.stamp == self._stamp(index)
        if not at_hand:
            self._begin(index)
        value: Tensor = entry.value
        entry.value, entry.stamp = None, None
        return value

    def _stamp(self, index: int) -> tuple[Any, ...] | None:
        if torch.compiler.is_compiling():
            return None
        weight, *_ = self.tensors(index)
        state = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), self.layers[index].training
        return (id(weight), weight.data_ptr(), _version(weight), *state)

    def _at_hand(self, index: int, grad: bool, training: list[bool]) -> bool:
        """Return whether the graph being traced has begun a pass that it has not yet taken this layer's part of.

        It runs while a graph is traced, never in one: which takes begin a pass is a constant of the graph.
        """
        trace = torch._guards.CompileContext.current_trace_id()
        if self.traced[0] != trace:
            self.traced = trace, {}
        left = self.traced[1]
        at_hand: bool = left.pop(index, None) == (grad, training[index])
        if not at_hand:
            left.update({i: (grad, t) for i, t in enumerate(training) if t == training[index] and i != index})
        return at_hand

    def _begin(self, index: int) -> None:
        training = self.layers[index].training
        same = [i for i, layer in enumerate(self.layers) if layer.training == training and self.holds(i)]
        for members in self._kinds(same):
            values = self._normalise(members, self.n_iter if training else 0, self.mode, self.backend)
            for i, value in zip(members, values, strict=True):
                self.ready[i].value, self.ready[i].stamp = value, self._stamp(i)

    def _kinds(self, indices: Iterable[int]) -> list[list[int]]:
        """Return the indices in groups that share dtype and device."""
        kinds: dict[Any, list[int]] = {}
        for i in indices:
            weight, *_ = self.tensors(i)
            kinds.setdefault((weight.dtype, weight.device), []).append(i)
        return list(kinds.values())

    def _normalise(self, members: list[int], n_iter: int, mode: Mode, backend: Backend) -> list[Tensor]:
        weights, us, vs = zip(*(self.tensors(i) for i in members), strict=True)
        form = fused if choose(backend, *weights)[0] == "fused" else reference
        dims = tuple(self.dims[i] for i in members)
        with torch.autocast(weights[0].device.type, enabled=False):
            return form(weights, us, vs, dims, self.order, self.eps, n_iter, mode)


def _start(w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return random unit u (h,) and v (w,), drawn as torch draws them."""
    return normalize(w.new_empty(w.shape[0]).normal_(), dim=0, eps=eps), normalize(
        w.new_empty(w.shape[1]).normal_(), dim=0, eps=eps
    )


class SpectralNorm(nn.Module):
    """The parametrisation of one layer's weight; its buffers `_u` and `_v` are those of torch's own."""

    def __init__(self, group: _Group, index: int, u: Tensor, v: Tensor) -> None:
        super().__init__()
        self.group, self.index = group, index
        self.register_buffer("_u", u)
        self.register_buffer("_v", v)

    def forward(self, weight: Tensor) -> Tensor:
        return self.group.take(self.index) if self.group.mode == "weight" else weight

    def right_inverse(self, value: Tensor) -> Tensor:
        return value


def _attach_parametrisation(group: _Group, index: int, u: Tensor, v: Tensor) -> None:
    layer = group.layers[index]
    parametrize.register_parametrization(layer, "weight", SpectralNorm(group, index, u, v), unsafe=True)
    if group.mode == "sigma":
        layer.register_forward_pre_hook(_Hook(group, index))


def _attach_hook(group: _Group, index: int, u: Tensor, v: Tensor) -> None:
    layer = group.layers[index]
    weight = layer.get_parameter("weight")
    del layer._parameters["weight"]
    layer.register_parameter("weight_orig", weight)
    layer.__dict__["weight"] = weight.detach()  # as torch has it: code that initialises weights finds one
    layer.register_buffer("weight_u", u)
    layer.register_buffer("weight_v", v)
    layer.register_forward_pre_hook(_Hook(group, index))


class _Hook:
    """What runs before a layer: in mode "sigma" divides its input, else gives it its weight."""

    def __init__(self, group: _Group, index: int) -> None:
        self.group, self.index = group, index

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not self.group.holds(self.index):  # the parametrisation was removed, and the input is left as it is
            return None
        value = self.group.take(self.index)
        if self.group.order == "legacy":
            weight = value if self.group.mode == "weight" else layer.weight_orig
            object.__setattr__(layer, "weight", weight)  # not registered, though it be a parameter
        return None if self.group.mode == "weight" else (inputs[0] / value, *inputs[1:])


# -------------------------------------------------------------------------------------------------- examples


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
    pairs = [_start(matrix(w.detach(), dim), 1e-12) for w, dim in zip(weights, dims, strict=True)]
    us, vs = zip(*pairs, strict=True)
    reference(weights, us, vs, dims, n_iter=3)  # a random u W v is nearly 0, and known to nobody
    return Example(name, (weights, us, vs, dims, order, 1e-12, n_iter, mode))


OP = Op(reference, fused, examples, lower=lambda modules, **options: _lowered(modules, **options))


def _lowered(
    modules: Any, *, eps: float = 1e-12, n_iter: int = 1, order: Order = "torch", mode: Mode = "weight"
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    layers = _layers(modules)
    _check(layers, eps, n_iter, order, mode, "auto")
    weights = tuple(layer.get_parameter("weight") for layer in layers)
    dims = tuple(1 if isinstance(layer, TRANSPOSED) else 0 for layer in layers)
    us, vs = zip(*(_start(matrix(w.detach(), d), eps) for w, d in zip(weights, dims, strict=True)), strict=True)
    return (weights, us, vs, dims, order, eps, n_iter, mode), {}
