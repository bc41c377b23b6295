# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""Affine coupling with its log-determinant (Density estimation using Real NVP, 2017, eq. 7-8).

    y = x e^s + t,   logdet = sum s,      or inverse:   y = (x - t) e^-s,   logdet = -sum s,
    s = raw | gain tanh(raw) | log sigmoid(raw + 2) | -log sigmoid(raw + 2),      (raw, t) = params.

Bytes, in passes over x (float32): forward reads x, raw, t and writes y, 4 passes, the least there are. Backward reads
gy, x, raw and writes gx, graw, gt, 6: the network gets one gradient for its one output, so gt cannot be gy itself, as
a count of 5 supposes; where x needs no gradient (the first coupling of a flow) it is 5. The inverse keeps y in place of
x, and costs the same. Launches: forward 1 where a row fits a block (4096 elements) and mask and gain vary along it as
memory does, else 2 (partial sums, and their sum in fixed order); backward 1, and 2 with a learned gain. Nothing is
copied for chunks, interleaved channels, channels_last, slices or broadcasts.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from math import gcd
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from genbench_kernels.elementary import exp, log_sigmoid, sigmoid, tanh
from genbench_kernels.op import Backend, Example, Op, choose, eager, jit, launch, tl

Layout = Literal["chunk", "interleave"]
Scale = Literal["exp", "tanh", "sigmoid", "sigmoid_inv"]
SCALES: tuple[Scale, ...] = get_args(Scale)


def affine_coupling(
    x: Tensor,
    params: Tensor,
    *,
    layout: Layout = "chunk",
    scale: Scale = "exp",
    gain: Tensor | None = None,
    mask: Tensor | None = None,
    inverse: bool = False,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """Return y = x e^s + t and logdet = sum s; x (B, C, ...), params (B, 2C, ...) -> y as x, logdet (B,).

    `layout` says where raw and t stand among the channels of params: halves ("chunk", also (B, 2, C, ...)) or by turns
    ("interleave", also (B, C, 2, ...)). `scale` is the map from raw to s above; `gain` (C,) goes with "tanh", 1 where
    None; `mask`, broadcast to x, is 1 where x is transformed and takes no gradient. With `inverse`, returns x from y
    and the log-determinant of that map. y has the wider of the dtypes of x and params, float32 at least under autocast;
    arithmetic and logdet are float32, or float64 where x or params is.
    Raises ValueError, with the shapes, devices or dtypes, where they do not fit.
    """
    params, mask = _checked(x, params, layout, scale, gain, mask)
    dtype = torch.promote_types(x.dtype, params.dtype)
    if dtype.itemsize < 4 and torch.is_autocast_enabled(x.device.type):
        dtype = torch.float32
    form = fused if choose(backend, x, params, gain, mask)[0] == "fused" else reference
    if form is reference and backend == "auto" and eager():
        form = closed
    return form(x, params, gain, mask, layout, scale, inverse, dtype)


def _checked(
    x: Tensor, params: Tensor, layout: str, scale: str, gain: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return params as (B, 2C, ...) and mask with x's number of dimensions; raise ValueError where they do not fit."""
    if layout not in ("chunk", "interleave") or scale not in SCALES:
        raise ValueError(f"layout must be chunk or interleave, scale one of {SCALES}; got {layout!r}, {scale!r}")
    if x.ndim < 2:
        raise ValueError(f"x must be (B, C, ...), got {tuple(x.shape)}")
    B, C, *rest = x.shape
    if params.ndim == x.ndim + 1 and params.shape == ((B, 2, C, *rest) if layout == "chunk" else (B, C, 2, *rest)):
        params = params.flatten(1, 2)
    if params.ndim != x.ndim or params.shape[1] != 2 * C or params.shape[0] != B or params.shape[2:] != x.shape[2:]:
        raise ValueError(f"params must be (B, 2C, ...) for x (B, C, ...), got {_shape(params)} for {_shape(x)}")
    if not (x.is_floating_point() and params.is_floating_point()):
        raise ValueError(f"x and params must be floating point, got {x.dtype} and {params.dtype}")
    if gain is not None and (scale != "tanh" or not gain.is_floating_point() or gain.numel() not in (1, C)):
        raise ValueError(
            f"gain must be ({C},), floating point, with scale='tanh': {_shape(gain)}, {gain.dtype}, {scale}"
        )
    if mask is None:
        return params, None
    fits = all(m in (1, n) for m, n in zip(reversed(mask.shape), reversed(x.shape), strict=False))
    if mask.ndim > x.ndim or not fits or mask.requires_grad:
        raise ValueError(f"mask must broadcast to x, without gradient; got {_shape(mask)} for {_shape(x)}")
    return params, mask.reshape(*[1] * (x.ndim - mask.ndim), *mask.shape)


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


# ------------------------------------------------------------------------------------------------- reference


def reference(
    x: Tensor,
    params: Tensor,
    gain: Tensor | None,
    mask: Tensor | None,
    layout: Layout,
    scale: Scale,
    inverse: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return (y, logdet) in plain torch: the equation above, in float32 or float64."""
    return parts(x, params, gain, mask, layout, scale, inverse, dtype)[:2]


def parts(
    x: Tensor,
    params: Tensor,
    gain: Tensor | None,
    mask: Tensor | None,
    layout: Layout,
    scale: Scale,
    inverse: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return y, logdet and what `gradients` needs: u, of which s is a multiple, and e = e^s (e^-s of the inverse)."""
    wide = torch.float64 if torch.float64 in (x.dtype, params.dtype) else torch.float32
    if not x.dtype is params.dtype is wide:  # a call that changes nothing takes its time, too
        x, params = x.to(wide), params.to(wide)
    raw, t = _halves(params, layout)
    u, s = _log_scale(raw, gain, mask, scale)
    t = t if mask is None else t * mask
    s = -s if inverse else s
    e = torch.exp(s)
    y = (x - t) * e if inverse else torch.addcmul(t, x, e)
    return y if y.dtype is dtype else y.to(dtype), s.flatten(1).sum(1), u, e


def _halves(params: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    if layout == "interleave":  # a CPU does not vectorise over every other number
        return params[:, 0::2].contiguous(), params[:, 1::2].contiguous()
    raw, t = params.chunk(2, 1)
    return raw, t


def _interleaved(a: Tensor, b: Tensor) -> Tensor:
    """Return a_1, b_1, a_2, b_2, ... along dimension 1; for vectors in the call that costs a fifth of a stack."""
    return (torch.view_as_real(torch.complex(a, b)) if a.ndim == 2 else torch.stack((a, b), 2)).flatten(1, 2)


def _log_scale(raw: Tensor, gain: Tensor | None, mask: Tensor | None, scale: Scale) -> tuple[Tensor, Tensor]:
    """Return u = raw | tanh(raw) | log sigmoid(raw + 2), and s, a multiple of it."""
    u = raw if scale == "exp" else torch.tanh(raw) if scale == "tanh" else logsigmoid(raw + 2)
    s = _multiple(u, gain, scale)
    return u, s if mask is None else s * mask


def _multiple(u: Tensor, gain: Tensor | None, scale: Scale) -> Tensor:
    if gain is None:
        return -u if scale == "sigmoid_inv" else u
    gain = gain if gain.dtype == u.dtype else gain.to(u.dtype)
    return u * (gain if u.ndim == 2 else gain.reshape(-1, *[1] * (u.ndim - 2)))


def gradients(
    gy: Tensor,
    glogdet: Tensor,
    v: Tensor,
    u: Tensor,
    e: Tensor,
    gain: Tensor | None,
    mask: Tensor | None,
    layout: Layout,
    scale: Scale,
    inverse: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return (gx, gparams, ggain) in differentiable torch, v being x (y, of the inverse), u and e those of `parts`.

    gx = gy e, gt = gy, gs = gx x + glogdet; of the inverse gt = -gx, gs = -(gy y + glogdet). None for a gain that is
    not trained.
    """
    glogdet = glogdet.view(-1, *[1] * (v.ndim - 1))
    gx = gy * e
    gs, gt = (-torch.addcmul(glogdet, gy, v), -gx) if inverse else (torch.addcmul(glogdet, gx, v), gy)
    gs, gt = (gs, gt) if mask is None else (gs * mask, gt * mask)
    ggain = None
    if gain is not None and gain.requires_grad:
        ggain = channel_sums(gs * u)
        if gain.shape != ggain.shape:
            ggain = (ggain.sum() if gain.numel() == 1 else ggain).view(gain.shape)
    halves = _by_raw(_multiple(gs, gain, scale), u, scale), gt
    return gx, torch.cat(halves, 1) if layout == "chunk" else _interleaved(*halves), ggain


def channel_sums(g: Tensor) -> Tensor:
    """Return the sum over all but the channels of g (B, C, ...) -> (C,); for vectors in the call that costs least."""
    return g.sum(0) if g.ndim == 2 else g.sum([0, *range(2, g.ndim)])


def _by_raw(g: Tensor, u: Tensor, scale: Scale) -> Tensor:
    """Return g du / draw."""
    if scale == "exp":
        return g
    return torch.ops.aten.tanh_backward(g, u) if scale == "tanh" else -g * torch.expm1(u)


# --------------------------------------------------------------------------------------------------- kernels
#
# Every tensor is seen as (B, O, I): `_frame` merges the dimensions behind the batch into two (one, mostly) along which
# all of them have a stride. A program owns a tile of R rows (b, o) by K columns i, once. Strides of b and o, and I,
# come divided by UNIT, so that the compiler knows what divides them and can load vectors. `net` is params, a name that
# Triton's launcher has for a variable of its own, which an argument of that name would lose its value to.


@jit
def _log_scale_kernel(raw, gain, SCALE: tl.constexpr):
    if SCALE == "exp":
        s = raw
    elif SCALE == "tanh":
        s = tanh(raw) * gain
    elif SCALE == "sigmoid":
        s = log_sigmoid(raw + 2.0)
    else:
        s = -log_sigmoid(raw + 2.0)
    return s


@jit
def _slope_kernel(raw, gain, SCALE: tl.constexpr):
    if SCALE == "exp":
        slope = 1.0
    elif SCALE == "tanh":
        squashed = tanh(raw)
        slope = (1.0 - squashed * squashed) * gain
    elif SCALE == "sigmoid":
        slope = sigmoid(-(raw + 2.0))
    else:
        slope = -sigmoid(-(raw + 2.0))
    return slope


@jit
def forward_kernel(
    x, net, mask, gain, y, logdet,
    rows, outer, inner, splits,
    xb, xo, xi, yb, yo, yi, pb, po, pi, pt, mb, mo, mi, g_step,
    SCALE: tl.constexpr, INVERSE: tl.constexpr, PAIR: tl.constexpr, BY_COLUMN: tl.constexpr,
    UNIT: tl.constexpr, R: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    block, split = tl.program_id(0) // splits, tl.program_id(0) % splits
    row, col, width = block * R + tl.arange(0, R), split * K + tl.arange(0, K), inner * UNIT
    live = (row < rows)[:, None] & (col < width)[None, :]
    b, o = (row // outer).to(tl.int64), (row % outer).to(tl.int64)
    wide = logdet.dtype.element_ty
    v = tl.load(x + ((b * xb + o * xo) * UNIT)[:, None] + (col * xi)[None, :], mask=live, other=0.0).to(wide)
    p = net + ((b * pb + o * po) * UNIT)[:, None]
    if PAIR:
        both = split * 2 * K + tl.arange(0, 2 * K)
        inside = (row < rows)[:, None] & (both < 2 * width)[None, :]
        raw, t = tl.split(tl.reshape(tl.load(p + both[None, :], mask=inside, other=0.0), (R, K, 2)))
    else:
        raw = tl.load(p + (col * pi)[None, :], mask=live, other=0.0)
        t = tl.load(p + pt * UNIT + (col * pi)[None, :], mask=live, other=0.0)
    raw, t, g = raw.to(wide), t.to(wide), 1.0
    if gain is not None and BY_COLUMN:
        g = tl.load(gain + col * g_step, mask=col < width, other=0.0)[None, :].to(wide)
    elif gain is not None:
        g = tl.load(gain + o * g_step)[:, None].to(wide)
    s = tl.where(live, _log_scale_kernel(raw, g, SCALE), 0.0)
    if mask is not None:
        m = tl.load(mask + ((b * mb + o * mo) * UNIT)[:, None] + (col * mi)[None, :], mask=live, other=0.0).to(wide)
        s, t = s * m, t * m
    if INVERSE:
        s = -s
        v = (v - t) * exp(s)
    else:
        v = v * exp(s) + t
    tl.store(y + ((b * yb + o * yo) * UNIT)[:, None] + (col * yi)[None, :], v.to(y.dtype.element_ty), mask=live)
    tl.store(logdet + row * splits + split, tl.sum(s, 1), mask=row < rows)


@jit
def backward_kernel(
    gy, glogdet, v, net, mask, gain, gx, gnet, ggain,
    rows, outer, inner, splits,
    gyb, gyo, gyi, gl, vb, vo, vi, gxb, gxo, gxi, pb, po, pi, pt, qb, qo, qi, qt, mb, mo, mi, g_step,
    SCALE: tl.constexpr, INVERSE: tl.constexpr, PAIR: tl.constexpr, BY_COLUMN: tl.constexpr,
    UNIT: tl.constexpr, R: tl.constexpr, K: tl.constexpr, LOOP: tl.constexpr,
):  # fmt: skip
    block, split = tl.program_id(0) // splits, tl.program_id(0) % splits
    col, width = split * K + tl.arange(0, K), inner * UNIT
    wide = glogdet.dtype.element_ty
    columns = tl.zeros((K,), wide)
    for turn in range(LOOP):
        row = (block * LOOP + turn) * R + tl.arange(0, R)
        live = (row < rows)[:, None] & (col < width)[None, :]
        b, o = (row // outer).to(tl.int64), (row % outer).to(tl.int64)
        dy = tl.load(gy + ((b * gyb + o * gyo) * UNIT)[:, None] + (col * gyi)[None, :], mask=live, other=0.0).to(wide)
        x = tl.load(v + ((b * vb + o * vo) * UNIT)[:, None] + (col * vi)[None, :], mask=live, other=0.0).to(wide)
        dl = tl.load(glogdet + b * gl, mask=row < rows, other=0.0)[:, None]
        p, g = net + ((b * pb + o * po) * UNIT)[:, None], 1.0
        both = split * 2 * K + tl.arange(0, 2 * K)
        inside = (row < rows)[:, None] & (both < 2 * width)[None, :]
        if PAIR:
            raw, _ = tl.split(tl.reshape(tl.load(p + both[None, :], mask=inside, other=0.0), (R, K, 2)))
        else:
            raw = tl.load(p + (col * pi)[None, :], mask=live, other=0.0)
        raw = raw.to(wide)
        if gain is not None and BY_COLUMN:
            g = tl.load(gain + col * g_step, mask=col < width, other=0.0)[None, :].to(wide)
        elif gain is not None:
            g = tl.load(gain + o * g_step)[:, None].to(wide)
        s = _log_scale_kernel(raw, g, SCALE)
        if mask is not None:
            m = tl.load(mask + ((b * mb + o * mo) * UNIT)[:, None] + (col * mi)[None, :], mask=live, other=0.0).to(wide)
            s = s * m
        if INVERSE:
            dx = dy * exp(-s)
            ds, dt = -(dy * x + dl), -dx
        else:
            dx = dy * exp(s)
            ds, dt = dx * x + dl, dy
        if mask is not None:
            ds, dt = ds * m, dt * m
        if gx is not None:
            to = gx + ((b * gxb + o * gxo) * UNIT)[:, None] + (col * gxi)[None, :]
            tl.store(to, dx.to(gx.dtype.element_ty), mask=live)
        if gnet is not None:
            q = gnet + ((b * qb + o * qo) * UNIT)[:, None]
            narrow = gnet.dtype.element_ty
            draw, dt = (ds * _slope_kernel(raw, g, SCALE)).to(narrow), dt.to(narrow)
            if PAIR:
                tl.store(q + both[None, :], tl.reshape(tl.join(draw, dt), (R, 2 * K)), mask=inside)
            else:
                tl.store(q + (col * qi)[None, :], draw, mask=live)
                tl.store(q + qt * UNIT + (col * qi)[None, :], dt, mask=live)
        if ggain is not None:
            part = tl.where(live, ds * tanh(raw), 0.0)
            if BY_COLUMN:
                columns += tl.sum(part, 0)
            else:
                tl.store(ggain + row * splits + split, tl.sum(part, 1), mask=row < rows)
    if ggain is not None and BY_COLUMN:
        tl.store(ggain + block * width + col, columns, mask=col < width)


Strides = tuple[int, ...]


class _Frame(NamedTuple):
    """How tensors lie as (B, O, I), in steps of `unit`; `neighbours` where raw and t alternate along I."""

    outer: int
    inner: int
    unit: int
    neighbours: bool
    strides: tuple[Strides, ...]  # (b, o, i) of each of alike, params, mask
    steps: Strides  # from raw to t, of each of params
    by_column: bool  # the gain varies along I, else along O
    gain_step: int
    tile: dict[str, int]  # of a program: K columns, the row or 4096 of it, and R rows, to make 1024 elements at least
    splits: int  # tiles in a row


@lru_cache(maxsize=4096)
def _frame(
    shape: Strides, layout: Layout, alike: tuple[Strides, ...], params: tuple[Strides, ...], mask: Any, gain: int
) -> _Frame | None:
    """Return the frame of tensors of these strides, or None where two dimensions do not do for all of them.

    `alike` are shaped as x, `params` as params, `mask` is (shape, strides) or None, `gain` the stride of the gain.
    """
    B, C, turns = shape[0], shape[1], 1 if layout == "chunk" else 2
    steps = tuple(p[1] * (C if layout == "chunk" else 1) for p in params)
    seen = [*alike, *((p[0], p[1] * turns, *p[2:]) for p in params)]
    seen.append(tuple(st if n > 1 else 0 for n, st in zip(*mask, strict=True)) if mask else (0,) * len(shape))
    seen.append((0, gain, *(0,) * (len(shape) - 2)))
    (outer, o), (inner, i), *more = _merged(shape, seen, lead=len(alike))
    if more:
        return None
    b = [t[0] if B > 1 else 0 for t in seen]
    pairs = slice(len(alike), len(alike) + len(params))
    neighbours = set(steps) == {1} and set(i[pairs]) == {2}
    unit = gcd(inner, 8, *b, *o[:-1], *(() if neighbours else steps))
    unit = unit if unit >= 4 else 1
    strides = tuple((bb // unit, oo // unit, ii) for bb, oo, ii in zip(b[:-1], o[:-1], i[:-1], strict=True))
    steps = tuple(st // unit for st in steps)
    K = min(4096, 1 << (inner - 1).bit_length())
    tile = {"R": max(1, 1024 // K), "K": K, "num_warps": 4 if K <= 1024 else 8}
    by_column, splits = i[-1] != 0, -(-inner // K)
    return _Frame(outer, inner // unit, unit, neighbours, strides, steps, by_column, i[-1] or o[-1], tile, splits)


def _merged(shape: Strides, seen: list[Strides], lead: int) -> list[tuple[int, Strides]]:
    """Return [(size, strides of each)], two dimensions at least, from those behind the batch, in memory's order."""
    merged: list[tuple[int, Strides]] = []
    for d in sorted((d for d in range(1, len(shape)) if shape[d] != 1), key=lambda d: -seen[lead][d]):
        size, strides = shape[d], tuple(t[d] for t in seen)
        if merged and all(a == b * size for a, b in zip(merged[-1][1], strides, strict=True)):
            size *= merged.pop()[0]
        merged.append((size, strides))
    single = (1, (0,) * len(seen))
    return [single] * (2 - len(merged)) + merged


def _framed(
    x: Tensor, layout: Layout, alike: Any, params: Any, mask: Tensor | None, gain: Tensor | None
) -> _Frame | None:
    strides = tuple(t.stride() for t in alike), tuple(t.stride() for t in params)
    step = 0 if gain is None or gain.numel() == 1 else gain.stride(0)
    return _frame(tuple(x.shape), layout, *strides, None if mask is None else (tuple(mask.shape), mask.stride()), step)


def _forward(
    x: Tensor,
    params: Tensor,
    gain: Tensor | None,
    mask: Tensor | None,
    layout: Layout,
    scale: Scale,
    inverse: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return (y, logdet) of one launch, and a sum where a row takes several blocks."""
    y, B = torch.empty_like(x, dtype=dtype), x.shape[0]
    wide = torch.float64 if torch.float64 in (x.dtype, params.dtype) else torch.float32
    if x.numel() == 0:
        return y, x.new_zeros(B, dtype=wide)
    gain = None if gain is None else gain.reshape(-1)
    frame = _framed(x, layout, (x, y), (params,), mask, gain)
    if frame is None:
        dense = x.contiguous(), params.contiguous(), gain, _dense_mask(mask, x)
        result, logdet = _forward(*dense, layout, scale, inverse, dtype)
        return y.copy_(result), logdet
    (xs, ys, ps, ms), (pt,), rows = frame.strides, frame.steps, B * frame.outer
    logdet = torch.empty((B, frame.outer * frame.splits), dtype=wide, device=x.device)
    launch(
        forward_kernel, (-(-rows // frame.tile["R"]) * frame.splits,), x, params, mask, gain, y, logdet,
        rows, frame.outer, frame.inner, frame.splits, *xs, *ys, *ps, pt, *ms, frame.gain_step,
        SCALE=scale, INVERSE=inverse, PAIR=frame.neighbours, BY_COLUMN=frame.by_column, UNIT=frame.unit, **frame.tile,
    )  # fmt: skip
    return y, logdet.view(B) if logdet.shape[1] == 1 else logdet.sum(1)


def _backward(
    gy: Tensor,
    glogdet: Tensor,
    v: Tensor,
    params: Tensor,
    gain: Tensor | None,
    mask: Tensor | None,
    layout: Layout,
    scale: Scale,
    inverse: bool,
    dtype: torch.dtype,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return (gx of `dtype`, gparams, ggain), None where not `wanted`: one launch, and the sum of ggain's parts."""
    B, C = v.shape[:2]
    gx = torch.empty_like(v, dtype=dtype) if wanted[0] else None
    gp = torch.empty_like(params) if wanted[1] else None
    if v.numel() == 0:
        return gx, gp, torch.zeros_like(gain) if wanted[2] and gain is not None else None
    flat = None if gain is None else gain.reshape(-1)
    written = v if gx is None else gx, params if gp is None else gp
    frame = _framed(v, layout, (gy, v, written[0]), (params, written[1]), mask, flat)
    if frame is None:
        dense = gy.contiguous(), glogdet, v.contiguous(), params.contiguous(), gain, _dense_mask(mask, v)
        dx, dp, dg = _backward(*dense, layout, scale, inverse, dtype, wanted)
        return gx if gx is None or dx is None else gx.copy_(dx), gp if gp is None or dp is None else gp.copy_(dp), dg
    (gys, vs, gxs, ps, qs, ms), (pt, qt), rows = frame.strides, frame.steps, B * frame.outer
    loop = 1  # else as many turns as make parts of 16 rows, so that parts add little to the bytes
    if wanted[2] and frame.by_column:
        loop = max(1, min(16 // frame.tile["R"], 1 << (rows - 1).bit_length()))
    blocks, parts = -(-rows // (frame.tile["R"] * loop)), None
    if wanted[2]:
        size = (blocks, C) if frame.by_column else (B, frame.outer, frame.splits)
        parts = torch.empty(size, dtype=glogdet.dtype, device=v.device)
    unread = 0 if frame.neighbours else v.numel() * params.element_size()  # t
    launch(
        backward_kernel, (blocks * frame.splits,), gy, glogdet, v, params, mask, flat, gx, gp, parts,
        rows, frame.outer, frame.inner, frame.splits,
        *gys, glogdet.stride(0), *vs, *gxs, *ps, pt, *qs, qt, *ms, frame.gain_step,
        SCALE=scale, INVERSE=inverse, PAIR=frame.neighbours, BY_COLUMN=frame.by_column, UNIT=frame.unit, LOOP=loop,
        **frame.tile, extra=-unread,
    )  # fmt: skip
    if parts is None or gain is None:
        return gx, gp, None
    total = parts.sum() if gain.numel() == 1 else parts.sum(0) if frame.by_column else parts.sum((0, 2))
    return gx, gp, total.to(gain.dtype).view(gain.shape)


def _dense_mask(mask: Tensor | None, x: Tensor) -> Tensor | None:
    return None if mask is None else mask.expand(-1, *x.shape[1:]).contiguous()


# ---------------------------------------------------------------------------------- autograd and registration


def fused(
    x: Tensor,
    params: Tensor,
    gain: Tensor | None,
    mask: Tensor | None,
    layout: Layout,
    scale: Scale,
    inverse: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return (y, logdet) from the kernels, differentiable twice; arguments as those of `reference`."""
    if inverse and dtype.itemsize < 4:  # y is kept for backward, and is kept in full
        y, logdet = fused(x, params, gain, mask, layout, scale, inverse, torch.float32)
        return y.to(dtype), logdet
    call = _registered if torch.compiler.is_compiling() else _Fused.apply
    y, logdet = call(x, params, gain, mask, layout, scale, inverse, dtype)
    return y, logdet


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, params, gain, mask, *ctx.options, _ = inputs
    ctx.save_for_backward(output[0] if ctx.options[2] else x, params, gain, mask)
    ctx.dtype = x.dtype


def _differentiate(ctx: Any, gy: Tensor, glogdet: Tensor, *, kernels: Any = _backward) -> tuple[Tensor | None, ...]:
    wanted = tuple(ctx.needs_input_grad[:3])
    if torch.is_grad_enabled():
        found: tuple[Tensor | None, ...] = _anew(ctx, gy, glogdet)
    else:
        found = kernels(gy, glogdet, *ctx.saved_tensors, *ctx.options, ctx.dtype, wanted)
    return *(g if w else None for g, w in zip(found, wanted, strict=True)), None, None, None, None, None


def _anew(ctx: Any, gy: Tensor, glogdet: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return `gradients` with u and e computed again, so that they can be differentiated."""
    (v, params, gain, mask, *_), (layout, scale, inverse) = ctx.saved_tensors, ctx.options
    raw, _ = _halves(params.to(torch.promote_types(glogdet.dtype, params.dtype)), layout)
    u, s = _log_scale(raw, gain, mask, scale)
    return gradients(gy, glogdet, v, u, torch.exp(-s if inverse else s), gain, mask, layout, scale, inverse)


def _batched(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    """Return the op over a vmapped dimension, which joins the batch (the reference, for a gain of each)."""
    x, params, gain, mask, *options = args
    if in_dims[2] is not None:
        each = torch.vmap(lambda *tensors: reference(*tensors, *options), in_dims[:4])
        return each(x, params, gain, mask), (0, 0)
    size = info.batch_size
    x, params = _fold(x, in_dims[0], size), _fold(params, in_dims[1], size)
    if mask is not None and (in_dims[3] is not None or mask.shape[0] != 1):
        mask = _fold(mask, in_dims[3], size, len(x) // size)
    y, logdet = fused(x, params, gain, mask, *options)
    return (y.unflatten(0, (size, -1)), logdet.unflatten(0, (size, -1))), (0, 0)


def _fold(x: Tensor, dim: int | None, size: int, batch: int = -1) -> Tensor:
    """Return x with the vmapped dimension in front of its batch, expanded to `batch` where given, as one."""
    x = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.expand(size, batch, *x.shape[2:]).flatten(0, 1)


def closed(
    x: Tensor,
    params: Tensor,
    gain: Tensor | None,
    mask: Tensor | None,
    layout: Layout,
    scale: Scale,
    inverse: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return (y, logdet) of `reference` with `gradients` as its derivative: one step for autograd in place of ten."""
    if inverse and dtype.itemsize < 4:  # as in `fused`
        y, logdet = closed(x, params, gain, mask, layout, scale, inverse, torch.float32)
        return y.to(dtype), logdet
    y, logdet = _Closed.apply(x, params, gain, mask, layout, scale, inverse, dtype)
    return y, logdet


class _Closed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        y, logdet, u, e = parts(*inputs)
        x, params, gain, mask, *ctx.options, _ = inputs
        ctx.save_for_backward(y if ctx.options[2] else x, params, gain, mask, u, e)
        return y, logdet

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return *_anew(ctx, *cotangents), None, None, None, None, None
        (gy, glogdet), (v, _, gain, mask, u, e), (layout, scale, inverse) = cotangents, ctx.saved_tensors, ctx.options
        found = gradients(gy, glogdet, v, u, e, gain, mask, layout, scale, inverse)
        return *found, None, None, None, None, None


class _Fused(torch.autograd.Function):
    forward = staticmethod(_forward)
    setup_context = staticmethod(_save)
    backward = staticmethod(_differentiate)  # type: ignore[assignment]
    vmap = staticmethod(_batched)


_OPTIONS = "Tensor? gain, Tensor? mask, str layout, str scale, bool inverse, ScalarType dtype"
_registered = torch.library.custom_op(
    "genbench::affine_coupling",
    _forward,
    mutates_args=(),
    schema=f"(Tensor x, Tensor params, {_OPTIONS}) -> (Tensor, Tensor)",
)


def _backward_parts(gy: Tensor, glogdet: Tensor, v: Tensor, *args: Any) -> tuple[Tensor, ...]:
    """Return what `_backward` does, empty where it is None: an op returns tensors."""
    return tuple(v.new_empty(0) if g is None else g for g in _backward(gy, glogdet, v, *args))


_registered_backward = torch.library.custom_op(
    "genbench::affine_coupling_backward",
    _backward_parts,
    mutates_args=(),
    schema=f"(Tensor gy, Tensor glogdet, Tensor v, Tensor params, {_OPTIONS}, bool[] wanted)"
    " -> (Tensor, Tensor, Tensor)",
)


def _fake(x: Tensor, params: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    wide = torch.float64 if torch.float64 in (x.dtype, params.dtype) else torch.float32
    return torch.empty_like(x, dtype=options[-1]), x.new_empty(x.shape[0], dtype=wide)


def _fake_backward(gy: Tensor, glogdet: Tensor, v: Tensor, params: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    gain, *_, dtype, wanted = rest
    like = ((v, dtype), (params, params.dtype), (v if gain is None else gain, None))
    pairs = zip(wanted, like, strict=True)
    return tuple(torch.empty_like(t, dtype=d) if w else v.new_empty(0) for w, (t, d) in pairs)


_registered.register_fake(_fake)
_registered.register_autograd(partial(_differentiate, kernels=_registered_backward), setup_context=_save)
_registered.register_vmap(_batched)
_registered_backward.register_fake(_fake_backward)


# -------------------------------------------------------------------------------------------------- examples


def examples(device: str) -> Iterator[Example]:
    """Yield calls of `fused` that reach every configuration: maps, directions, layouts, masks, gains, dtypes, tiles."""
    call = partial(_example, device)
    for scale in SCALES:
        for inverse in (False, True):
            yield call(f"{scale}{'-inverse' * inverse}", (4, 6, 16, 16), scale=scale, inverse=inverse)
    yield call("gain-rows", (4, 6, 16, 16), scale="tanh", gain=True)
    yield call("gain-columns", (4, 64), scale="tanh", gain=True)
    yield call("mask", (4, 3, 16, 16), scale="tanh", gain=True, mask=(1, 1, 16, 16))
    yield call("mask-bool", (4, 3, 16, 16), scale="exp", mask=(1, 3, 16, 16), mask_dtype=torch.bool)
    yield call("interleave", (4, 6, 16, 16), scale="sigmoid", layout="interleave")
    yield call("pairs", (4, 256), scale="sigmoid", layout="interleave")
    yield call("first", (4, 6, 16, 16), scale="tanh", needs_x=False)
    yield call("autocast", (4, 6, 16, 16), scale="tanh", params_dtype=torch.bfloat16)
    yield call("bfloat16", (4, 6, 16, 16), scale="tanh", dtype=torch.bfloat16, params_dtype=torch.bfloat16)
    yield call("float64", (4, 6, 16, 16), scale="tanh", dtype=torch.float64, params_dtype=torch.float64)
    for columns in (1, 8, 64, 784, 6144):
        yield call(f"row-{columns}", (4, columns), scale="tanh")


def _example(
    device: str,
    name: str,
    shape: tuple[int, ...],
    *,
    scale: Scale,
    layout: Layout = "chunk",
    inverse: bool = False,
    gain: bool = False,
    mask: tuple[int, ...] | None = None,
    needs_x: bool = True,
    dtype: torch.dtype = torch.float32,
    params_dtype: torch.dtype = torch.float32,
    mask_dtype: torch.dtype = torch.float32,
) -> Example:
    make = partial(torch.randn, device=device)
    x = make(shape, dtype=dtype, requires_grad=needs_x)
    params = make((shape[0], 2 * shape[1], *shape[2:]), dtype=params_dtype, requires_grad=True)
    weights = make(shape[1], requires_grad=True) if gain else None
    keep = None if mask is None else torch.ones(mask, device=device, dtype=mask_dtype)
    return Example(name, (x, params, weights, keep, layout, scale, inverse, torch.promote_types(dtype, params_dtype)))


OP = Op(reference, fused, examples, lower=lambda x, params, **options: _lowered(x, params, **options))


def _lowered(
    x: Tensor,
    params: Tensor,
    *,
    layout: Layout = "chunk",
    scale: Scale = "exp",
    gain: Tensor | None = None,
    mask: Tensor | None = None,
    inverse: bool = False,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    params, mask = _checked(x, params, layout, scale, gain, mask)
    return (x, params, gain, mask, layout, scale, inverse, torch.promote_types(x.dtype, params.dtype)), {}
