# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""Affine coupling with its log-determinant (Density estimation using Real NVP, 2017, eq. 7-8).

    y = x e^s + t,   logdet = sum s,      or inverse:   y = (x - t) e^-s,   logdet = -sum s,
    s = raw | gain tanh(raw) | log sigmoid(raw + 2) | -log sigmoid(raw + 2),      (raw, t) = params.

Bytes, in passes over x (float32): forward reads x, raw, t and writes y, 4 passes, the minimum. Backward reads gy, x and
raw and writes gx, graw, gt, 6: the network gets one gradient for its one output, so gt must be written even where it
equals gy; if x needs no gradient (the first coupling of a flow) it is 5. The inverse saves y instead of x and costs the
same. Launches: forward 1 if a row fits a tile (4096 elements) and mask and gain vary along it as memory does, else 2
(partial sums, then their sum in a fixed order); backward 1, or 2 with a trained gain. Chunks, interleaved channels,
channels_last, slices and broadcasts are not copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from genbench_kernels.elementary import exp, log_sigmoid, sigmoid, tanh
from genbench_kernels.frame import Strides, cdiv, frame_of, next_power_of_2, tile_of, vector_unit
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

    `layout` is the order of raw and t among the channels of params: two halves ("chunk", also (B, 2, C, ...)) or
    alternating ("interleave", also (B, C, 2, ...)). `scale` is the map from raw to s above; `gain` (C,) is for "tanh"
    and defaults to 1; `mask`, broadcast to x, is 1 where x is transformed and has no gradient. With `inverse`, returns
    x from y and the log-determinant of that map. y has the wider dtype of x and params, under autocast at least
    float32; arithmetic and logdet are float32, or float64 if x or params is.
    Raises ValueError, with shapes, devices or dtypes, if they do not match.
    """
    params, mask = _validate(x, params, layout, scale, gain, mask)
    dtype = torch.promote_types(x.dtype, params.dtype)
    if dtype.itemsize < 4 and torch.is_autocast_enabled(x.device.type):
        dtype = torch.float32
    form = fused if choose(backend, x, params, gain, mask)[0] == "fused" else reference
    if form is reference and backend == "auto" and eager():
        form = analytic
    return form(x, params, gain, mask, layout, scale, inverse, dtype)


def _validate(
    x: Tensor, params: Tensor, layout: str, scale: str, gain: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return params as (B, 2C, ...) and mask with x's number of dimensions; raise ValueError if they do not match x."""
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
            f"gain must be ({C},), floating point, with scale='tanh'; got {_shape(gain)}, {gain.dtype}, {scale!r}"
        )
    if mask is None:
        return params, None
    fits = all(m in (1, n) for m, n in zip(reversed(mask.shape), reversed(x.shape), strict=False))
    if mask.ndim > x.ndim or not fits or mask.requires_grad:
        raise ValueError(f"mask must broadcast to x and be without gradient; got {_shape(mask)} for {_shape(x)}")
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
    """Return y, logdet and what `gradients` needs: u, of which s is a multiple, and e = e^s (e^-s for the inverse)."""
    compute_dtype = _compute_dtype(x, params)
    if not x.dtype is params.dtype is compute_dtype:  # even a conversion that changes nothing takes time
        x, params = x.to(compute_dtype), params.to(compute_dtype)
    raw, t = _split(params, layout)
    u, s = _log_scale(raw, gain, mask, scale)
    t = t if mask is None else t * mask
    s = -s if inverse else s
    e = torch.exp(s)
    y = (x - t) * e if inverse else torch.addcmul(t, x, e)
    return y if y.dtype is dtype else y.to(dtype), s.flatten(1).sum(1), u, e


def _compute_dtype(x: Tensor, params: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (x.dtype, params.dtype) else torch.float32


def _split(params: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Return raw and t."""
    if layout == "interleave":  # contiguous, as CPUs do not vectorize over every other number
        return params[:, 0::2].contiguous(), params[:, 1::2].contiguous()
    raw, t = params.chunk(2, 1)
    return raw, t


def _interleave(a: Tensor, b: Tensor) -> Tensor:
    """Return a_1, b_1, a_2, b_2, ... along dimension 1; for (B, C) by a call five times as fast as stack."""
    return (torch.view_as_real(torch.complex(a, b)) if a.ndim == 2 else torch.stack((a, b), 2)).flatten(1, 2)


def _log_scale(raw: Tensor, gain: Tensor | None, mask: Tensor | None, scale: Scale) -> tuple[Tensor, Tensor]:
    """Return u = raw | tanh(raw) | log sigmoid(raw + 2), and s, which is u times -1, 1 or the gain, masked."""
    u = raw if scale == "exp" else torch.tanh(raw) if scale == "tanh" else logsigmoid(raw + 2)
    s = _times_gain(u, gain, scale)
    return u, s if mask is None else s * mask


def _times_gain(u: Tensor, gain: Tensor | None, scale: Scale) -> Tensor:
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
    """Return (gx, gparams, ggain) in differentiable torch; v is x (y for the inverse), u and e come from `parts`.

    gx = gy e, gt = gy, gs = gx x + glogdet; for the inverse gt = -gx, gs = -(gy y + glogdet). ggain is None if the gain
    is not trained.
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
    halves = _raw_gradient(_times_gain(gs, gain, scale), u, scale), gt
    return gx, torch.cat(halves, 1) if layout == "chunk" else _interleave(*halves), ggain


def channel_sums(g: Tensor) -> Tensor:
    """Return the sum over all dimensions but the channels, g (B, C, ...) -> (C,), by the call that is fastest."""
    return g.sum(0) if g.ndim == 2 else g.sum([0, *range(2, g.ndim)])


def _raw_gradient(g: Tensor, u: Tensor, scale: Scale) -> Tensor:
    """Return g du / draw."""
    if scale == "exp":
        return g
    return torch.ops.aten.tanh_backward(g, u) if scale == "tanh" else -g * torch.expm1(u)


# --------------------------------------------------------------------------------------------------- kernels
#
# Every tensor is seen as (B, O, I), see `frame.py`; a row is one (b, o), and a program works on a tile of R rows by K
# columns. Strides are named for tensor and dimension: xb, xo, xi. `net` is params, a name that Triton's launcher uses
# for a variable of its own: an argument of that name would be overwritten.


@jit
def _log_scale_kernel(raw, gain, SCALE: tl.constexpr):
    """Return s."""
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
    """Return ds / draw."""
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
    xb, xo, xi, yb, yo, yi, pb, po, pi, pt, mb, mo, mi, gain_stride,
    SCALE: tl.constexpr, INVERSE: tl.constexpr, PAIRS: tl.constexpr, GAIN_BY_COLUMN: tl.constexpr,
    UNIT: tl.constexpr, R: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Store y = x e^s + t (the inverse: (x - t) e^-s) and, per row and split, the part of logdet = sum s."""
    # Find the tile: its rows, the (b, o) of each, and its columns.
    block, split = tl.program_id(0) // splits, tl.program_id(0) % splits
    row, col, width = block * R + tl.arange(0, R), split * K + tl.arange(0, K), inner * UNIT
    inside = (row < rows)[:, None] & (col < width)[None, :]
    b, o = (row // outer).to(tl.int64), (row % outer).to(tl.int64)
    compute_dtype = logdet.dtype.element_ty

    # Load x, raw and t; raw and t in one load where they alternate.
    v = tl.load(x + ((b * xb + o * xo) * UNIT)[:, None] + (col * xi)[None, :], mask=inside, other=0.0)
    v = v.to(compute_dtype)
    p = net + ((b * pb + o * po) * UNIT)[:, None]
    if PAIRS:
        pair_col = split * 2 * K + tl.arange(0, 2 * K)
        inside_pairs = (row < rows)[:, None] & (pair_col < 2 * width)[None, :]
        raw, t = tl.split(tl.reshape(tl.load(p + pair_col[None, :], mask=inside_pairs, other=0.0), (R, K, 2)))
    else:
        raw = tl.load(p + (col * pi)[None, :], mask=inside, other=0.0)
        t = tl.load(p + pt * UNIT + (col * pi)[None, :], mask=inside, other=0.0)
    raw, t, g = raw.to(compute_dtype), t.to(compute_dtype), 1.0

    # Load the gain of each column or row; compute s. Load the mask; apply it to s and t.
    if gain is not None and GAIN_BY_COLUMN:
        g = tl.load(gain + col * gain_stride, mask=col < width, other=0.0)[None, :].to(compute_dtype)
    elif gain is not None:
        g = tl.load(gain + o * gain_stride)[:, None].to(compute_dtype)
    s = tl.where(inside, _log_scale_kernel(raw, g, SCALE), 0.0)
    if mask is not None:
        m = tl.load(mask + ((b * mb + o * mo) * UNIT)[:, None] + (col * mi)[None, :], mask=inside, other=0.0)
        m = m.to(compute_dtype)
        s, t = s * m, t * m

    # Compute y = x e^s + t, or (x - t) e^-s; store it, and the sum of s.
    if INVERSE:
        s = -s
        v = (v - t) * exp(s)
    else:
        v = v * exp(s) + t
    tl.store(y + ((b * yb + o * yo) * UNIT)[:, None] + (col * yi)[None, :], v.to(y.dtype.element_ty), mask=inside)
    tl.store(logdet + row * splits + split, tl.sum(s, 1), mask=row < rows)


@jit
def backward_kernel(
    gy, glogdet, v, net, mask, gain, gx, gnet, ggain,
    rows, outer, inner, splits,
    gyb, gyo, gyi, gl, vb, vo, vi, gxb, gxo, gxi, pb, po, pi, pt, gpb, gpo, gpi, gpt, mb, mo, mi, gain_stride,
    SCALE: tl.constexpr, INVERSE: tl.constexpr, PAIRS: tl.constexpr, GAIN_BY_COLUMN: tl.constexpr,
    UNIT: tl.constexpr, R: tl.constexpr, K: tl.constexpr, LOOPS: tl.constexpr,
):  # fmt: skip
    """Store gx = gy e^s, graw = gs ds / draw and gt = gy, with gs = (gx x + glogdet) m, and parts of ggain.

    v is x, or y for the inverse, where gx = gy e^-s, gt = -gx and gs = -(gy y + glogdet) m. Gradients of gt are masked,
    too; each of gx, gnet and ggain may be None.
    """
    # Find the columns; the rows are taken R at a time, LOOPS times.
    block, split = tl.program_id(0) // splits, tl.program_id(0) % splits
    col, width = split * K + tl.arange(0, K), inner * UNIT
    compute_dtype = glogdet.dtype.element_ty
    gain_sums = tl.zeros((K,), compute_dtype)
    for loop in range(LOOPS):
        row = (block * LOOPS + loop) * R + tl.arange(0, R)
        inside = (row < rows)[:, None] & (col < width)[None, :]
        b, o = (row // outer).to(tl.int64), (row % outer).to(tl.int64)

        # Load gy, x (or y), glogdet and raw.
        dy = tl.load(gy + ((b * gyb + o * gyo) * UNIT)[:, None] + (col * gyi)[None, :], mask=inside, other=0.0)
        dy = dy.to(compute_dtype)
        x = tl.load(v + ((b * vb + o * vo) * UNIT)[:, None] + (col * vi)[None, :], mask=inside, other=0.0)
        x = x.to(compute_dtype)
        dl = tl.load(glogdet + b * gl, mask=row < rows, other=0.0)[:, None]
        p, g = net + ((b * pb + o * po) * UNIT)[:, None], 1.0
        pair_col = split * 2 * K + tl.arange(0, 2 * K)
        inside_pairs = (row < rows)[:, None] & (pair_col < 2 * width)[None, :]
        if PAIRS:
            raw, _ = tl.split(tl.reshape(tl.load(p + pair_col[None, :], mask=inside_pairs, other=0.0), (R, K, 2)))
        else:
            raw = tl.load(p + (col * pi)[None, :], mask=inside, other=0.0)
        raw = raw.to(compute_dtype)

        # Load the gain and the mask; compute s.
        if gain is not None and GAIN_BY_COLUMN:
            g = tl.load(gain + col * gain_stride, mask=col < width, other=0.0)[None, :].to(compute_dtype)
        elif gain is not None:
            g = tl.load(gain + o * gain_stride)[:, None].to(compute_dtype)
        s = _log_scale_kernel(raw, g, SCALE)
        if mask is not None:
            m = tl.load(mask + ((b * mb + o * mo) * UNIT)[:, None] + (col * mi)[None, :], mask=inside, other=0.0)
            m = m.to(compute_dtype)
            s = s * m

        # Compute gx, gs and gt.
        if INVERSE:
            dx = dy * exp(-s)
            ds, dt = -(dy * x + dl), -dx
        else:
            dx = dy * exp(s)
            ds, dt = dx * x + dl, dy
        if mask is not None:
            ds, dt = ds * m, dt * m

        # Store gx, graw = gs ds / draw and gt; the latter two in one store where they alternate.
        if gx is not None:
            out = gx + ((b * gxb + o * gxo) * UNIT)[:, None] + (col * gxi)[None, :]
            tl.store(out, dx.to(gx.dtype.element_ty), mask=inside)
        if gnet is not None:
            out = gnet + ((b * gpb + o * gpo) * UNIT)[:, None]
            out_dtype = gnet.dtype.element_ty
            draw, dt = (ds * _slope_kernel(raw, g, SCALE)).to(out_dtype), dt.to(out_dtype)
            if PAIRS:
                tl.store(out + pair_col[None, :], tl.reshape(tl.join(draw, dt), (R, 2 * K)), mask=inside_pairs)
            else:
                tl.store(out + (col * gpi)[None, :], draw, mask=inside)
                tl.store(out + gpt * UNIT + (col * gpi)[None, :], dt, mask=inside)

        # Add up the gradient of the gain, gs tanh(raw): over rows here, over columns for each row.
        if ggain is not None:
            part = tl.where(inside, ds * tanh(raw), 0.0)
            if GAIN_BY_COLUMN:
                gain_sums += tl.sum(part, 0)
            else:
                tl.store(ggain + row * splits + split, tl.sum(part, 1), mask=row < rows)

    # Store the sums over rows.
    if ggain is not None and GAIN_BY_COLUMN:
        tl.store(ggain + block * width + col, gain_sums, mask=col < width)


# -------------------------------------------------------------------------------------------------- launches


class _CouplingFrame(NamedTuple):
    """How the tensors of one call lie in memory as (B, O, I); I and strides of b and o are in units of `unit`."""

    outer: int
    inner: int
    unit: int
    pairs: bool  # raw and t alternate along I
    strides: tuple[Strides, ...]  # (b, o, i) of each tensor like x, each like params, and the mask
    t_offsets: Strides  # from raw to t, in each tensor like params
    gain_by_column: bool  # the gain varies along I, not O
    gain_stride: int
    tile: dict[str, int]
    splits: int  # tiles in a row


def _coupling_frame(
    x: Tensor, layout: Layout, like_x: Any, like_params: Any, mask: Tensor | None, gain: Tensor | None
) -> _CouplingFrame | None:
    """Return the frame of tensors shaped like x and like params; None if (B, O, I) is not enough for all of them."""
    strides = tuple(t.stride() for t in like_x), tuple(t.stride() for t in like_params)
    gain_stride = 0 if gain is None or gain.numel() == 1 else gain.stride(0)
    mask_layout = None if mask is None else (tuple(mask.shape), mask.stride())
    return _cached_coupling_frame(tuple(x.shape), layout, *strides, mask_layout, gain_stride)


@lru_cache(maxsize=4096)
def _cached_coupling_frame(
    shape: Strides,
    layout: Layout,
    like_x: tuple[Strides, ...],
    like_params: tuple[Strides, ...],
    mask: tuple[Strides, Strides] | None,
    gain: int,
) -> _CouplingFrame | None:
    """Return the frame: `like_x` and `like_params` are strides, `mask` (shape, strides), `gain` a stride."""
    # Strides along the dimensions of x: raw in params, a broadcast mask, the gain along the channels.
    C, spacing = shape[1], 1 if layout == "chunk" else 2
    raw = [(p[0], p[1] * spacing, *p[2:]) for p in like_params]
    masked = tuple(st if n > 1 else 0 for n, st in zip(*mask, strict=True)) if mask else (0,) * len(shape)
    gained = (0, gain, *(0,) * (len(shape) - 2))
    frame = frame_of(shape, [*like_x, *raw, masked, gained], in_order_of=len(like_x))
    if frame is None:
        return None
    *strides, (_, gain_outer, gain_inner) = frame.strides
    # The unit that divides I and the strides of b and o; the offset of t, too, unless raw and t are loaded together.
    t_offsets = tuple(p[1] * (C if layout == "chunk" else 1) for p in like_params)
    pairs = set(t_offsets) == {1} and {i for _, _, i in strides[len(like_x) : -1]} == {2}
    divisible = [n for b, o, _ in strides for n in (b, o)]
    unit = vector_unit(frame.inner, *divisible, *(() if pairs else t_offsets))
    tile = tile_of(frame.inner)
    return _CouplingFrame(
        outer=frame.outer,
        inner=frame.inner // unit,
        unit=unit,
        pairs=pairs,
        strides=tuple((b // unit, o // unit, i) for b, o, i in strides),
        t_offsets=tuple(offset // unit for offset in t_offsets),
        gain_by_column=gain_inner != 0,
        gain_stride=gain_inner or gain_outer,
        tile=tile,
        splits=cdiv(frame.inner, tile["K"]),
    )


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
    """Return (y, logdet) from one launch, and a sum if a row takes several tiles."""
    y, B, compute_dtype = torch.empty_like(x, dtype=dtype), x.shape[0], _compute_dtype(x, params)
    if x.numel() == 0:
        return y, x.new_zeros(B, dtype=compute_dtype)
    gain = None if gain is None else gain.reshape(-1)
    frame = _coupling_frame(x, layout, (x, y), (params,), mask, gain)
    if frame is None:
        dense = x.contiguous(), params.contiguous(), gain, _dense_mask(mask, x)
        result, logdet = _forward(*dense, layout, scale, inverse, dtype)
        return y.copy_(result), logdet
    (xs, ys, ps, ms), (pt,), rows = frame.strides, frame.t_offsets, B * frame.outer
    logdet = torch.empty((B, frame.outer * frame.splits), dtype=compute_dtype, device=x.device)
    launch(
        forward_kernel, (cdiv(rows, frame.tile["R"]) * frame.splits,), x, params, mask, gain, y, logdet,
        rows, frame.outer, frame.inner, frame.splits, *xs, *ys, *ps, pt, *ms, frame.gain_stride,
        SCALE=scale, INVERSE=inverse, PAIRS=frame.pairs, GAIN_BY_COLUMN=frame.gain_by_column, UNIT=frame.unit,
        **frame.tile,
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
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return (gx of `dtype`, gparams, ggain), None where not `needed`: one launch, and the sum of ggain's parts."""
    B, C = v.shape[:2]
    gx = torch.empty_like(v, dtype=dtype) if needed[0] else None
    gp = torch.empty_like(params) if needed[1] else None
    if v.numel() == 0:
        return gx, gp, torch.zeros_like(gain) if needed[2] and gain is not None else None
    flat_gain = None if gain is None else gain.reshape(-1)
    like_x, like_params = (gy, v, v if gx is None else gx), (params, params if gp is None else gp)
    frame = _coupling_frame(v, layout, like_x, like_params, mask, flat_gain)
    if frame is None:
        dense = gy.contiguous(), glogdet, v.contiguous(), params.contiguous(), gain, _dense_mask(mask, v)
        dx, dp, dg = _backward(*dense, layout, scale, inverse, dtype, needed)
        return gx if gx is None or dx is None else gx.copy_(dx), gp if gp is None or dp is None else gp.copy_(dp), dg
    (gys, vs, gxs, ps, gps, ms), (pt, gpt), rows = frame.strides, frame.t_offsets, B * frame.outer
    loops = 1  # per program; if ggain is summed over rows, 16 rows in all, so that its parts add few bytes
    if needed[2] and frame.gain_by_column:
        loops = max(1, min(16 // frame.tile["R"], next_power_of_2(rows)))
    blocks, parts = cdiv(rows, frame.tile["R"] * loops), None
    if needed[2]:
        size = (blocks, C) if frame.gain_by_column else (B, frame.outer, frame.splits)
        parts = torch.empty(size, dtype=glogdet.dtype, device=v.device)
    unread = 0 if frame.pairs else v.numel() * params.element_size()  # t
    launch(
        backward_kernel, (blocks * frame.splits,), gy, glogdet, v, params, mask, flat_gain, gx, gp, parts,
        rows, frame.outer, frame.inner, frame.splits,
        *gys, glogdet.stride(0), *vs, *gxs, *ps, pt, *gps, gpt, *ms, frame.gain_stride,
        SCALE=scale, INVERSE=inverse, PAIRS=frame.pairs, GAIN_BY_COLUMN=frame.gain_by_column, UNIT=frame.unit,
        LOOPS=loops, **frame.tile, extra=-unread,
    )  # fmt: skip
    if parts is None or gain is None:
        return gx, gp, None
    total = parts.sum() if gain.numel() == 1 else parts.sum(0) if frame.gain_by_column else parts.sum((0, 2))
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
    """Return (y, logdet) from the kernels, twice differentiable; arguments as for `reference`."""
    if inverse and dtype.itemsize < 4:  # y is saved for backward, at full precision
        y, logdet = fused(x, params, gain, mask, layout, scale, inverse, torch.float32)
        return y.to(dtype), logdet
    call = _forward_op if torch.compiler.is_compiling() else AffineCouplingFunction.apply
    y, logdet = call(x, params, gain, mask, layout, scale, inverse, dtype)
    return y, logdet


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, params, gain, mask, *ctx.options, _ = inputs
    ctx.save_for_backward(output[0] if ctx.options[2] else x, params, gain, mask)
    ctx.dtype = x.dtype


def _vjp(ctx: Any, gy: Tensor, glogdet: Tensor, *, kernels: Any = _backward) -> tuple[Tensor | None, ...]:
    """Return the gradients of all arguments from the kernels, or, where they are differentiated again, in torch."""
    needed = tuple(ctx.needs_input_grad[:3])
    if torch.is_grad_enabled():
        grads: tuple[Tensor | None, ...] = _differentiable_gradients(ctx, gy, glogdet)
    else:
        grads = kernels(gy, glogdet, *ctx.saved_tensors, *ctx.options, ctx.dtype, needed)
    return *(g if is_needed else None for g, is_needed in zip(grads, needed, strict=True)), None, None, None, None, None


def _differentiable_gradients(ctx: Any, gy: Tensor, glogdet: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return `gradients`, with u and e recomputed so that they can be differentiated."""
    (v, params, gain, mask, *_), (layout, scale, inverse) = ctx.saved_tensors, ctx.options
    raw, _ = _split(params.to(torch.promote_types(glogdet.dtype, params.dtype)), layout)
    u, s = _log_scale(raw, gain, mask, scale)
    return gradients(gy, glogdet, v, u, torch.exp(-s if inverse else s), gain, mask, layout, scale, inverse)


def _vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    """Return the op over a vmapped dimension, which is merged into the batch (the reference if gain is vmapped)."""
    x, params, gain, mask, *options = args
    if in_dims[2] is not None:
        each = torch.vmap(lambda *tensors: reference(*tensors, *options), in_dims[:4])
        return each(x, params, gain, mask), (0, 0)
    size = info.batch_size
    x, params = _merge_batch(x, in_dims[0], size), _merge_batch(params, in_dims[1], size)
    if mask is not None and (in_dims[3] is not None or mask.shape[0] != 1):
        mask = _merge_batch(mask, in_dims[3], size, len(x) // size)
    y, logdet = fused(x, params, gain, mask, *options)
    return (y.unflatten(0, (size, -1)), logdet.unflatten(0, (size, -1))), (0, 0)


def _merge_batch(x: Tensor, dim: int | None, size: int, batch: int = -1) -> Tensor:
    """Return x with its vmapped dimension merged into the batch, which is expanded to `batch` if given."""
    x = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.expand(size, batch, *x.shape[2:]).flatten(0, 1)


def analytic(
    x: Tensor,
    params: Tensor,
    gain: Tensor | None,
    mask: Tensor | None,
    layout: Layout,
    scale: Scale,
    inverse: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return (y, logdet) of `reference` with `gradients` as its derivative: one autograd node instead of ten."""
    if inverse and dtype.itemsize < 4:  # as in `fused`
        y, logdet = analytic(x, params, gain, mask, layout, scale, inverse, torch.float32)
        return y.to(dtype), logdet
    y, logdet = AnalyticFunction.apply(x, params, gain, mask, layout, scale, inverse, dtype)
    return y, logdet


class AnalyticFunction(torch.autograd.Function):
    """The reference as one autograd node."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        y, logdet, u, e = parts(*inputs)
        x, params, gain, mask, *ctx.options, _ = inputs
        ctx.save_for_backward(y if ctx.options[2] else x, params, gain, mask, u, e)
        return y, logdet

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return *_differentiable_gradients(ctx, *cotangents), None, None, None, None, None
        (gy, glogdet), (v, _, gain, mask, u, e), (layout, scale, inverse) = cotangents, ctx.saved_tensors, ctx.options
        grads = gradients(gy, glogdet, v, u, e, gain, mask, layout, scale, inverse)
        return *grads, None, None, None, None, None


class AffineCouplingFunction(torch.autograd.Function):
    """The kernels as one autograd node."""

    forward = staticmethod(_forward)
    setup_context = staticmethod(_setup_context)
    backward = staticmethod(_vjp)  # type: ignore[assignment]
    vmap = staticmethod(_vmap)


_OPTIONS = "Tensor? gain, Tensor? mask, str layout, str scale, bool inverse, ScalarType dtype"
_forward_op = torch.library.custom_op(
    "genbench::affine_coupling",
    _forward,
    mutates_args=(),
    schema=f"(Tensor x, Tensor params, {_OPTIONS}) -> (Tensor, Tensor)",
)


def _backward_tensors(gy: Tensor, glogdet: Tensor, v: Tensor, *args: Any) -> tuple[Tensor, ...]:
    """Return what `_backward` returns, with empty tensors for None: an op returns only tensors."""
    return tuple(v.new_empty(0) if g is None else g for g in _backward(gy, glogdet, v, *args))


_backward_op = torch.library.custom_op(
    "genbench::affine_coupling_backward",
    _backward_tensors,
    mutates_args=(),
    schema=f"(Tensor gy, Tensor glogdet, Tensor v, Tensor params, {_OPTIONS}, bool[] needed)"
    " -> (Tensor, Tensor, Tensor)",
)


def _forward_meta(x: Tensor, params: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, dtype=options[-1]), x.new_empty(x.shape[0], dtype=_compute_dtype(x, params))


def _backward_meta(gy: Tensor, glogdet: Tensor, v: Tensor, params: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    gain, *_, dtype, needed = rest
    like = ((v, dtype), (params, params.dtype), (v if gain is None else gain, None))
    pairs = zip(needed, like, strict=True)
    return tuple(torch.empty_like(t, dtype=d) if is_needed else v.new_empty(0) for is_needed, (t, d) in pairs)


_forward_op.register_fake(_forward_meta)
_forward_op.register_autograd(partial(_vjp, kernels=_backward_op), setup_context=_setup_context)
_forward_op.register_vmap(_vmap)
_backward_op.register_fake(_backward_meta)


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
    gains = make(shape[1], requires_grad=True) if gain else None
    ones = None if mask is None else torch.ones(mask, device=device, dtype=mask_dtype)
    return Example(name, (x, params, gains, ones, layout, scale, inverse, torch.promote_types(dtype, params_dtype)))


def _lower(
    x: Tensor,
    params: Tensor,
    *,
    layout: Layout = "chunk",
    scale: Scale = "exp",
    gain: Tensor | None = None,
    mask: Tensor | None = None,
    inverse: bool = False,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments that `affine_coupling` passes to `reference` and `fused`."""
    params, mask = _validate(x, params, layout, scale, gain, mask)
    return (x, params, gain, mask, layout, scale, inverse, torch.promote_types(x.dtype, params.dtype)), {}


OP = Op(reference, fused, examples, lower=_lower)
