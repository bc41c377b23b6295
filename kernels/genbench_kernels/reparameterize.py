# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""Reparameterized normal samples with their KL divergence (Auto-Encoding Variational Bayes, 2014, eq. 10).

    z_s = mu + e^(logvar / 2) eps_s,   eps_s ~ N(0, I),   kl = sum_d 1/2 (mu^2 + e^logvar - 1 - logvar).

eps depends on the key and on an element's position only, never on how work is divided among programs: element d of row
r = s B + b is lane d % 4 of the Philox-4x32-10 block with counter offset + r ceil(D / 4) + d // 4 and key seed
(Parallel random numbers: as easy as 1, 2, 3, 2011). Lanes (0, 1) and (2, 3) each give two normals,
sqrt(-2 log u) (cos, sin)(2 pi v) (A note on the generation of random normal deviates, 1958). If D is a multiple of
four, the bits are those of `torch.func._random.bits(key, S, B, D)` of torch 2.15. eps is not saved: backward generates
it again. The normals differ from those of `torch.randn`.

Bytes, in passes over mu (float32, one sample): forward reads mu, logvar and writes z, 3. Backward reads gz, mu, logvar
and writes both gradients, 5. These 8 are the minimum; each further sample adds a pass over z and one over gz (mu and
logvar are read again, from cache). Launches: 1 forward, and 1 if D > 4096 to sum the parts of kl; 1 backward, and, if
more than 16 samples are divided among programs, 2 to sum both gradients (and 2 to convert them below float32), at 1/4
pass per sample. Halves of a tensor, transposes, slices and broadcasts are not copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import pi, prod
from typing import Any

import torch
from torch import Tensor

from genbench_kernels.elementary import exp, log1p_of_fraction, sqrt
from genbench_kernels.frame import addressable, cdiv, row_strides, tile_of
from genbench_kernels.op import Backend, Example, Op, choose, jit, launch, tl

SAMPLES_PER_PROGRAM = 16  # at most: one program adds up the gradients of so many


def reparameterize(
    mu: Tensor, logvar: Tensor, key: Tensor, *, kl: bool = True, samples: int = 1, backend: Backend = "auto"
) -> tuple[Tensor, Tensor | None]:
    """Return (z, kl): samples z (samples, B, D) of N(mu, e^logvar) and KL(N(mu, e^logvar) || N(0, I)) (B,) in nats.

    mu and logvar are (B, D) and share a dtype, which z has, too (under autocast at least float32); kl, None if `kl` is
    False, is float32, or float64 if they are. `key` is an int64 tensor (seed,) or (seed, offset) on their device. The
    kernel reads it itself, so nothing waits for it, and a CUDA graph uses its value at replay:
    `torch.randint(2**63 - 1, (1,), device=mu.device)` follows `torch.manual_seed`. The same key gives the same eps; the
    next samples that do not overlap start at offset + samples B ceil(D / 4). Backward reads the key again: change it in
    place only after that.
    Raises ValueError, with shapes, devices or dtypes, if they do not match.
    """
    key = _validate(mu, logvar, key, samples)
    dtype = mu.dtype
    if dtype.itemsize < 4 and torch.is_autocast_enabled(mu.device.type):
        dtype = torch.float32
    form = fused if choose(backend, mu, logvar, key)[0] == "fused" else reference
    z, divergence = form(mu, logvar, key, kl, samples, dtype)
    return z, divergence if kl else None


def _validate(mu: Tensor, logvar: Tensor, key: Tensor, samples: int) -> Tensor:
    """Return the key as int64; raise ValueError if the arguments do not match."""
    if mu.ndim != 2 or mu.shape != logvar.shape:
        raise ValueError(f"mu and logvar must be (B, D), got {tuple(mu.shape)} and {tuple(logvar.shape)}")
    if mu.dtype != logvar.dtype or not mu.is_floating_point():
        raise ValueError(f"mu and logvar must have one floating-point dtype, got {mu.dtype} and {logvar.dtype}")
    if key.dtype not in (torch.int64, torch.uint64) or key.ndim != 1 or key.shape[0] not in (1, 2):
        raise ValueError(f"key must be int64, (seed,) or (seed, offset), got {key.dtype}, {tuple(key.shape)}")
    if samples < 1:
        raise ValueError(f"samples must be positive, got {samples}")
    return key if key.dtype == torch.int64 else key.view(torch.int64)


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


# ------------------------------------------------------------------------------------------------- reference
#
# Here and in the kernels a vmapped dimension may come first: mu (V, B, D), key (V, 2), z (V, S, B, D), kl (V, B).


def reference(
    mu: Tensor, logvar: Tensor, key: Tensor, kl: bool, samples: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return (z, kl) in plain torch: the equation above, in float32 or float64; kl is empty, (B, 0), without `kl`."""
    mu, logvar = mu.to(_compute_dtype(mu.dtype)), logvar.to(_compute_dtype(mu.dtype))
    eps = normals(key, samples, *mu.shape[-2:]).to(mu.dtype)
    z = mu.unsqueeze(-3) + torch.exp(logvar / 2).unsqueeze(-3) * eps
    divergence = 0.5 * (mu**2 + (torch.expm1(logvar) - logvar)) if kl else mu[..., :0]
    return z.to(dtype), divergence.sum(-1) if kl else divergence


def normals(key: Tensor, samples: int, B: int, D: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return eps (samples, B, D), each normal from its own counter; in float64 the kernels are tested against it."""
    quads = cdiv(D, 4)
    counter = torch.arange(samples * B * quads, device=key.device) + (key[..., 1:] if key.shape[-1] == 2 else 0)
    x = philox(counter, counter >> 32, 0, 0, key[..., :1], key[..., :1] >> 32)
    x = tuple(word.to(dtype) for word in x)
    pairs = [_box_muller(x[0], x[1]), _box_muller(x[2], x[3])]
    eps = torch.stack([n for pair in pairs for n in pair], -1)
    return eps.reshape(*eps.shape[:-2], samples, B, 4 * quads)[..., :D]


def philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> tuple[Tensor, ...]:
    """Return Philox-4x32-10 of the counter (c0, c1, c2, c3) under the key (k0, k1): four words of 32 bits, in int64."""
    word = 0xFFFFFFFF
    for i in range(10):
        a, b = 0xD2511F53 * (c0 & word), 0xCD9E8D57 * (c2 & word)
        c0, c1 = (b >> 32) ^ c1 ^ (k0 + i * 0x9E3779B9), b
        c2, c3 = (a >> 32) ^ c3 ^ (k1 + i * 0xBB67AE85), a
    return tuple(c & word for c in (c0, c1, c2, c3))


def _box_muller(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    radius, angle = torch.sqrt(-2 * torch.log((x + 0.5) * 2.0**-32)), y * (2 * pi * 2.0**-32)
    return radius * torch.cos(angle), radius * torch.sin(angle)


def gradients(
    gz: Tensor | None, gkl: Tensor | None, mu: Tensor, logvar: Tensor, key: Tensor, samples: int
) -> tuple[Tensor, Tensor]:
    """Return (gmu, glogvar) in differentiable torch: for double backward."""
    m, lv = mu.to(_compute_dtype(mu.dtype)), logvar.to(_compute_dtype(mu.dtype))
    gmu = glogvar = torch.zeros_like(m)
    if gz is not None:
        gz, eps = gz.to(m.dtype), normals(key, samples, *m.shape[-2:]).to(m.dtype)
        gmu, glogvar = gz.sum(-3), 0.5 * torch.exp(lv / 2) * (gz * eps).sum(-3)
    if gkl is not None:
        gmu, glogvar = gmu + gkl.unsqueeze(-1) * m, glogvar + 0.5 * gkl.unsqueeze(-1) * torch.expm1(lv)
    return gmu.to(mu.dtype), glogvar.to(mu.dtype)


# --------------------------------------------------------------------------------------------------- kernels
#
# A program works on a tile of R rows by K columns, of one sample forward and of up to SAMPLES_PER_PROGRAM backward.
# Four adjacent columns are the four lanes of one Philox block. Strides of rows, and D, are in units of UNIT elements,
# see `frame.py`. Strides are named for tensor and dimension: mv, mb, md for V, B and D of mu.


@jit
def _radius(x, DOUBLE: tl.constexpr):
    """Return sqrt(-2 log u), u = (x + 1/2) / 2^32, to full relative accuracy: log u comes from 1 - u if u > 1/2."""
    if DOUBLE:
        log_u = tl.log((x.to(tl.float64) + 0.5) * 2.3283064365386963e-10)
    else:
        signed = x.to(tl.int32, bitcast=True)
        upper = signed < 0
        t = tl.where(upper, ~signed, signed).to(tl.float32) + 0.5
        bits = t.to(tl.int32, bitcast=True)
        mantissa = ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
        exponent = tl.where(upper, 0, (bits >> 23) - 159).to(tl.float32)
        log_m = log1p_of_fraction(tl.where(upper, t * -2.3283064365386963e-10, mantissa - 1.0))
        log_u = exponent * 0.693359375 + (exponent * -2.12194440e-4 + log_m)
    return sqrt(-2.0 * log_u)


@jit
def _circle(x, DOUBLE: tl.constexpr):
    """Return (cos, sin) of 2 pi x / 2^32: the quadrant from the integer's top bits, the rest by a polynomial."""
    signed = x.to(tl.int32, bitcast=True)
    quadrant = ((signed >> 29) + 1) >> 1
    angle = ((signed << 2) >> 2).to(tl.float64 if DOUBLE else tl.float32) * 1.4629180792671596e-09
    w, c, s = angle * angle, 1.0, 1.0
    if DOUBLE:
        for k in tl.static_range(9, 0, -1):  # Taylor
            c = 1.0 - w * c * (1.0 / (2 * k * (2 * k - 1)))
            s = 1.0 - w * s * (1.0 / (2 * k * (2 * k + 1)))
        s = s * angle
    else:  # minimax
        c = 1.0 + w * (-0.5 + w * (4.16666457e-02 + w * (-1.38873163e-03 + w * 2.44331568e-05)))
        s = angle + angle * w * (-0.16666654944 + w * (8.33217815e-03 + w * -1.9517299e-04))
    odd = (quadrant & 1) != 0
    cos, sin = tl.where(odd, s, c), tl.where(odd, c, s)
    return tl.where(((quadrant + 1) & 2) != 0, -cos, cos), tl.where((quadrant & 2) != 0, -sin, sin)


@jit
def _normals(seed, counter, R: tl.constexpr, K: tl.constexpr, DOUBLE: tl.constexpr):
    """Return eps (R, K) for counters (R, K / 4)."""
    # Four random words per counter; (x0, x1) and (x2, x3) give two normals each; interleave them along columns.
    x0, x1, x2, x3 = tl.randint4x(seed, counter)
    r0, r2 = _radius(x0, DOUBLE), _radius(x2, DOUBLE)
    c1, s1 = _circle(x1, DOUBLE)
    c3, s3 = _circle(x3, DOUBLE)
    return tl.reshape(tl.join(tl.join(r0 * c1, r2 * c3), tl.join(r0 * s1, r2 * s3)), (R, K))


@jit
def _exponentials(x):
    """Return (e^(x/2), e^x): the first as the root of the second, or, where e^x over- or underflows, by itself."""
    within = tl.abs(x) < 85.0
    v = exp(tl.where(within, x, 0.5 * x))
    return tl.where(within, sqrt(v), v), tl.where(within, v, v * v)


@jit
def _excess(x, e, DOUBLE: tl.constexpr):
    """Return (e^x - 1 - x, e^x - 1), to full relative accuracy, given e = e^x.

    For |y| < 1 with y = x/2 they are E^2 + 2 h and E (E + 2), where h = e^y - 1 - y is a series and E = y + h.
    """
    y = 0.5 * x
    series = 1.0
    if DOUBLE:
        for k in tl.static_range(18, 2, -1):  # Taylor
            series = 1.0 + y * series * (1.0 / k)
        series = 0.5 * series
    else:  # minimax
        series = 1.98444093e-04 + y * (2.53332302e-05 + y * 2.76907263e-06)
        series = 4.16667167e-02 + y * (8.33330990e-03 + y * (1.38858223e-03 + y * series))
        series = 0.5 + y * (1.66666670e-01 + y * series)
    h = y * y * series
    E, small = y + h, tl.abs(y) < 1.0
    return tl.where(small, E * E + 2.0 * h, (e - 1.0) - x), tl.where(small, E * (E + 2.0), e - 1.0)


@jit
def forward_kernel(
    mu, logvar, key, z, kl,
    rows, blocks, inner, splits, samples, quads, mv, mb, md, lv, lb, ld, kv,
    OFFSET: tl.constexpr, DOUBLE: tl.constexpr, UNIT: tl.constexpr, R: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Store z = mu + e^(logvar / 2) eps of one sample, and with the first sample each row's part of kl."""
    # Find the sample and the tile: its rows, columns, and Philox blocks of four columns.
    tile, sample, width = tl.program_id(0) // samples, tl.program_id(0) % samples, inner * UNIT
    split, block, v = tile % splits, tile // splits % blocks, (tile // splits // blocks).to(tl.int64)
    row, col, quad = block * R + tl.arange(0, R), split * K + tl.arange(0, K), split * (K // 4) + tl.arange(0, K // 4)
    inside, b = (row < rows)[:, None] & (col < width)[None, :], row.to(tl.int64)
    compute_dtype = tl.float64 if DOUBLE else tl.float32

    # Load mu and logvar.
    m = tl.load(mu + ((v * mv + b * mb) * UNIT)[:, None] + (col * md)[None, :], mask=inside, other=0.0)
    m = m.to(compute_dtype)
    g = tl.load(logvar + ((v * lv + b * lb) * UNIT)[:, None] + (col * ld)[None, :], mask=inside, other=0.0)
    g = g.to(compute_dtype)

    # Load the key; compute eps.
    seed, counter = tl.load(key + v * kv), ((sample * rows + b) * quads)[:, None] + quad[None, :]
    if OFFSET:
        counter += tl.load(key + v * kv + 1)
    eps = _normals(seed, counter, R, K, DOUBLE)

    # Compute and store z.
    sigma, e = _exponentials(g)
    out = z + (((v * samples + sample) * rows + b) * inner * UNIT)[:, None] + col[None, :]
    tl.store(out, (m + sigma * eps).to(z.dtype.element_ty), mask=inside)

    # Compute and store the part of kl; it is 0 where nothing was loaded.
    if kl is not None and sample == 0:
        excess, _ = _excess(g, e, DOUBLE)
        part = tl.sum(0.5 * (m * m + excess), 1)
        tl.store(kl + (v * rows + b) * splits + split, part, mask=row < rows)


@jit
def backward_kernel(
    gz, gkl, mu, logvar, key, gmu, glogvar,
    rows, blocks, inner, splits, samples, groups, quads, group_stride,
    zv, zs, zb, zd, gv, gb, mv, mb, md, lv, lb, ld, kv,
    OFFSET: tl.constexpr, DOUBLE: tl.constexpr, LOOPS: tl.constexpr,
    UNIT: tl.constexpr, R: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Store gmu = sum_s gz_s + gkl mu and glogvar = 1/2 (e^(logvar / 2) sum_s gz_s eps_s + gkl (e^logvar - 1)).

    A program adds up the samples of its group, LOOPS of them; gz or gkl may be None.
    """
    # Find the group of samples and the tile, as forward does.
    tile, group, width = tl.program_id(0) // groups, tl.program_id(0) % groups, inner * UNIT
    split, block, v = tile % splits, tile // splits % blocks, (tile // splits // blocks).to(tl.int64)
    row, col, quad = block * R + tl.arange(0, R), split * K + tl.arange(0, K), split * (K // 4) + tl.arange(0, K // 4)
    inside, b = (row < rows)[:, None] & (col < width)[None, :], row.to(tl.int64)
    compute_dtype = tl.float64 if DOUBLE else tl.float32
    dm, dl = tl.zeros((R, K), compute_dtype), tl.zeros((R, K), compute_dtype)

    # Load logvar.
    g = tl.load(logvar + ((v * lv + b * lb) * UNIT)[:, None] + (col * ld)[None, :], mask=inside, other=0.0)
    g = g.to(compute_dtype)

    # Load the key and each sample's gz; generate eps again; add up gz and gz eps.
    if gz is not None:
        seed, first = tl.load(key + v * kv), quad[None, :].to(tl.int64)
        if OFFSET:
            first += tl.load(key + v * kv + 1)
        for loop in range(LOOPS):
            sample = (group * LOOPS + loop).to(tl.int64)
            address = gz + ((v * zv + sample * zs + b * zb) * UNIT)[:, None] + (col * zd)[None, :]
            exists = (row < tl.where(sample < samples, rows, 0))[:, None] & (col < width)[None, :]
            dz = tl.load(address, mask=exists, other=0.0).to(compute_dtype)
            dm += dz
            dl += dz * _normals(seed, first + ((sample * rows + b) * quads)[:, None], R, K, DOUBLE)
    sigma, e = _exponentials(g)
    dl *= 0.5 * sigma

    # Load gkl (for the first group only) and mu; add the gradients of kl.
    if gkl is not None:
        d = tl.load(gkl + v * gv + b * gb, mask=row < tl.where(group == 0, rows, 0), other=0.0)[:, None]
        _, slope = _excess(g, e, DOUBLE)
        m = tl.load(mu + ((v * mv + b * mb) * UNIT)[:, None] + (col * md)[None, :], mask=inside, other=0.0)
        m = m.to(compute_dtype)
        dm += d * m
        dl += d * 0.5 * slope

    # Store gmu and glogvar of the group.
    out = ((v * rows + b) * inner * UNIT)[:, None] + col[None, :] + group * group_stride
    tl.store(gmu + out, dm.to(gmu.dtype.element_ty), mask=inside)
    tl.store(glogvar + out, dl.to(glogvar.dtype.element_ty), mask=inside)


# -------------------------------------------------------------------------------------------------- launches


def _tiles(B: int, D: int) -> tuple[dict[str, int], int, int]:
    """Return a tile (at least one Philox block of 4 columns), the number of blocks of rows, and of splits of a row."""
    tile = tile_of(D, minimum=4)
    return tile, cdiv(B, tile["R"]), cdiv(D, tile["K"])


def _forward(
    mu: Tensor, logvar: Tensor, key: Tensor, kl: bool, samples: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return (z, kl) from one launch, and a sum if a row takes several tiles; kl is (B, 0) without `kl`."""
    *V, B, D = mu.shape
    compute_dtype = _compute_dtype(mu.dtype)
    z = torch.empty((*V, samples, B, D), dtype=dtype, device=mu.device)
    if mu.numel() == 0:
        return z, torch.zeros((*V, B) if kl else (*V, B, 0), dtype=compute_dtype, device=mu.device)
    (tile, blocks, splits), mu, logvar = _tiles(B, D), addressable(mu), addressable(logvar)
    unit, (ms, ls) = row_strides((mu, logvar), (3, 3))
    parts = torch.empty((*V, B, splits if kl else 0), dtype=compute_dtype, device=mu.device)
    launch(
        forward_kernel, (prod(V) * blocks * splits * samples,), mu, logvar, key, z, parts if kl else None,
        B, blocks, D // unit, splits, samples, cdiv(D, 4), *ms, *ls, key.stride(0) if V else 0,
        OFFSET=key.shape[-1] == 2, DOUBLE=compute_dtype == torch.float64, UNIT=unit, **tile,
    )  # fmt: skip
    return z, parts if not kl else parts.sum(-1) if splits > 1 else parts.squeeze(-1)


def _backward(
    gz: Tensor | None, gkl: Tensor | None, mu: Tensor, logvar: Tensor, key: Tensor, samples: int
) -> tuple[Tensor, Tensor]:
    """Return (gmu, glogvar) from one launch, and a sum of each if samples are divided among programs."""
    *V, B, D = mu.shape
    groups, dtype = cdiv(samples, SAMPLES_PER_PROGRAM), mu.dtype
    shape, out_dtype = ((groups, *V, B, D), _compute_dtype(dtype)) if groups > 1 else (mu.shape, dtype)
    gmu, glogvar = (torch.empty(shape, dtype=out_dtype, device=mu.device) for _ in range(2))
    if mu.numel() == 0 or (gz is None and gkl is None):
        return torch.zeros_like(mu), torch.zeros_like(logvar)
    (tile, blocks, splits), mu, logvar = _tiles(B, D), addressable(mu), addressable(logvar)
    gz = None if gz is None else addressable(gz)
    unit, (zs, ms, ls) = row_strides((mu.unsqueeze(-3) if gz is None else gz, mu, logvar), (4, 3, 3))
    gs = (0, 0) if gkl is None else (gkl.stride(0) if V else 0, gkl.stride(-1))
    launch(
        backward_kernel, (prod(V) * blocks * splits * groups,), gz, gkl, None if gkl is None else mu, logvar, key,
        gmu, glogvar, B, blocks, D // unit, splits, samples, groups, cdiv(D, 4), mu.numel(),
        *zs, *gs, *ms, *ls, key.stride(0) if V else 0,
        OFFSET=key.shape[-1] == 2, DOUBLE=dtype == torch.float64, LOOPS=min(samples, SAMPLES_PER_PROGRAM), UNIT=unit,
        **tile,
    )  # fmt: skip
    return (gmu.sum(0).to(dtype), glogvar.sum(0).to(dtype)) if groups > 1 else (gmu, glogvar)


# ---------------------------------------------------------------------------------- autograd and registration


def fused(mu: Tensor, logvar: Tensor, key: Tensor, kl: bool, samples: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return (z, kl) from the kernels, twice differentiable; arguments as for `reference`."""
    call = _forward_op if torch.compiler.is_compiling() else ReparameterizeFunction.apply
    z, divergence = call(mu, logvar, key, kl, samples, dtype)
    return z, divergence


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    mu, logvar, key, ctx.kl, ctx.samples, _ = inputs
    ctx.save_for_backward(mu, logvar, key)
    ctx.set_materialize_grads(False)


def _vjp(ctx: Any, gz: Tensor | None, gkl: Tensor | None, *, kernels: Any = _backward) -> tuple[Any, ...]:
    """Return the gradients of all arguments from the kernels, or, where they are differentiated again, in torch."""
    form: Any = gradients if torch.is_grad_enabled() else kernels
    gmu, glogvar = form(gz, gkl if ctx.kl else None, *ctx.saved_tensors, ctx.samples)
    grads = zip((gmu, glogvar), ctx.needs_input_grad[:2], strict=True)
    return *(g if is_needed else None for g, is_needed in grads), None, None, None, None


def _vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    """Return the op over a vmapped dimension, which is moved in front of the batch: one launch, a key for each."""
    pairs = zip(args[:3], in_dims[:3], strict=True)
    tensors = [t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0) for t, d in pairs]
    nested = tensors[0].ndim == 4
    z, divergence = fused(*(t.flatten(0, 1) if nested else t for t in tensors), *args[3:])
    if nested:
        z, divergence = (t.unflatten(0, (info.batch_size, -1)) for t in (z, divergence))
    return (z, divergence), (0, 0)


class ReparameterizeFunction(torch.autograd.Function):
    """The kernels as one autograd node."""

    forward = staticmethod(_forward)
    setup_context = staticmethod(_setup_context)
    backward = staticmethod(_vjp)  # type: ignore[assignment]
    vmap = staticmethod(_vmap)


_forward_op = torch.library.custom_op(
    "genbench::reparameterize",
    _forward,
    mutates_args=(),
    schema="(Tensor mu, Tensor logvar, Tensor key, bool kl, SymInt samples, ScalarType dtype) -> (Tensor, Tensor)",
)
_backward_op = torch.library.custom_op(
    "genbench::reparameterize_backward",
    _backward,
    mutates_args=(),
    schema="(Tensor? gz, Tensor? gkl, Tensor mu, Tensor logvar, Tensor key, SymInt samples) -> (Tensor, Tensor)",
)


def _forward_meta(
    mu: Tensor, logvar: Tensor, key: Tensor, kl: bool, samples: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    *V, B, D = mu.shape
    z = mu.new_empty((*V, samples, B, D), dtype=dtype)
    return z, mu.new_empty((*V, B) if kl else (*V, B, 0), dtype=_compute_dtype(mu.dtype))


def _backward_meta(gz: Any, gkl: Any, mu: Tensor, logvar: Tensor, key: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    return mu.new_empty(mu.shape), mu.new_empty(mu.shape)


_forward_op.register_fake(_forward_meta)
_forward_op.register_autograd(partial(_vjp, kernels=_backward_op), setup_context=_setup_context)
_forward_op.register_vmap(_vmap)
_backward_op.register_fake(_backward_meta)


# -------------------------------------------------------------------------------------------------- examples


def examples(device: str) -> Iterator[Example]:
    """Yield calls of `fused` that reach every configuration: with and without KL and offset, samples, dtypes, tiles."""
    call = partial(_example, device)
    yield call("plain", 64, 128, kl=False)
    yield call("kl", 64, 128)
    yield call("offset", 64, 128, offset=True)
    yield call("halves", 64, 100, halves=True)
    yield call("samples", 16, 64, samples=4)
    yield call("groups", 4, 64, samples=2 * SAMPLES_PER_PROGRAM)
    yield call("float64", 64, 128, dtype=torch.float64)
    yield call("bfloat16", 64, 128, dtype=torch.bfloat16)
    yield call("float16", 64, 128, dtype=torch.float16)
    yield call("autocast", 64, 128, dtype=torch.bfloat16, out=torch.float32)
    for columns in (1, 2, 10, 32, 784, 6144):
        yield call(f"row-{columns}", 4, columns)


def _example(
    device: str,
    name: str,
    B: int,
    D: int,
    *,
    kl: bool = True,
    samples: int = 1,
    offset: bool = False,
    halves: bool = False,
    dtype: torch.dtype = torch.float32,
    out: torch.dtype | None = None,
) -> Example:
    make = partial(torch.randn, device=device, dtype=dtype)
    mu, logvar = make(B, 2 * D).chunk(2, 1) if halves else (make(B, D), make(B, D))
    key = torch.ones(2 if offset else 1, dtype=torch.int64, device=device)
    return Example(name, (mu.requires_grad_(), logvar.requires_grad_(), key, kl, samples, out or dtype))


def _lower(
    mu: Tensor, logvar: Tensor, key: Tensor, *, kl: bool = True, samples: int = 1
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments that `reparameterize` passes to `reference` and `fused`."""
    return (mu, logvar, _validate(mu, logvar, key, samples), kl, samples, mu.dtype), {}


OP = Op(reference, fused, examples, lower=_lower)
