# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""Elementary functions for kernels, accurate to one or two ulps in float32 and float64, compiled or interpreted.

`tl.exp` of float32 is a bare `ex2.approx(x log2 e)`, whose error grows with |x|; Triton's language has no `log1p` or
`tanh`, and the vendors' libraries cannot be interpreted. Here float32 uses range reduction and a minimax polynomial;
float64 uses the target's own exp and log, which are accurate to one ulp.
"""

from __future__ import annotations

from genbench_kernels.op import jit, tl


@jit
def exp(x):
    """Return e^x = 2^n e^r with n = round(x / ln 2) and r = x - n ln 2 in two pieces (Cody and Waite, 1980).

    2^n is assembled from its bits, as two factors, so that neither the largest nor subnormal results are lost.
    """
    if x.dtype == tl.float64:
        value = tl.exp(x)
    else:
        x = tl.clamp(x, -170.0, 170.0, propagate_nan=tl.PropagateNan.ALL)
        n = tl.floor(x * 1.4426950408889634 + 0.5)
        high = x - n * 0.693359375
        low = n * 2.12194440e-4
        r = high + low
        rest = 0.041668387886 + r * (0.0083687152082 + r * 0.0013814601954)
        rest = 0.49999993449 + r * (0.16666520645 + r * rest)
        near = 1.0 + high
        near += (1.0 - near + high) + (low + r * r * rest)  # the rounding error of the first sum, and the small terms
        whole = n.to(tl.int32)
        half = whole >> 1
        first = ((half + 127) << 23).to(tl.float32, bitcast=True)
        second = ((whole - half + 127) << 23).to(tl.float32, bitcast=True)
        value = near * first * second
    return value


@jit
def sqrt(x):
    """Return sqrt(x), correctly rounded: on a GPU `tl.sqrt` of float32 is a bare `sqrt.approx`, off by one ulp."""
    return tl.sqrt(x) if x.dtype == tl.float64 else tl.sqrt_rn(x)


@jit
def log1p_of_fraction(x):
    """Return log(1 + x) for x in [0, 1], to full relative accuracy.

    This is 2 atanh(z) with z = x / (2 + x), written as x - z (x - 2 z^2 (...)), whose main term x is not rounded.
    """
    if x.dtype == tl.float64:
        u = 1.0 + x  # the rounding of u cancels (Kahan)
        value = tl.where(u == 1.0, x, tl.log(u) * (x / tl.where(u == 1.0, 1.0, u - 1.0)))
    else:
        z = x / (2.0 + x)
        w = z * z
        rest = 0.14296249561 + w * (0.10852265930 + w * 0.11616782450)
        rest = 0.33333333666 + w * (0.19999851611 + w * rest)
        value = x - z * (x - 2.0 * w * rest)
    return value


@jit
def log_sigmoid(x):
    """Return log(1 / (1 + e^-x)) = min(x, 0) - log(1 + e^-|x|), which is finite for every finite x."""
    return tl.minimum(x, 0.0) - log1p_of_fraction(exp(-tl.abs(x)))


@jit
def sigmoid(x):
    """Return 1 / (1 + e^-x), computed from e^-|x|, which cannot overflow."""
    e = exp(-tl.abs(x))
    return tl.where(x >= 0.0, 1.0, e) / (1.0 + e)


@jit
def tanh(x):
    """Return tanh(x), to full relative accuracy: a polynomial near zero, else 1 - 2 / (e^2|x| + 1)."""
    a = tl.abs(x)
    if x.dtype == tl.float64:
        e = exp(2.0 * a)
        near = e - 1.0  # e^2a - 1 as (u - 1) 2a / log u: the rounding of u cancels (Kahan)
        near = tl.where(near == 0.0, 2.0 * a, near * (2.0 * a) / tl.where(near == 0.0, 1.0, tl.log(e)))
        value = tl.where(a < 0.6, near / (near + 2.0), 1.0 - 2.0 / (e + 1.0))
    else:
        w = a * a
        rest = -0.05387398158 + w * (0.02111110356 + w * -0.00626931948)
        rest = -0.33333330335 + w * (0.13332915605 + w * rest)
        value = tl.where(a < 0.6, a + a * w * rest, 1.0 - 2.0 / (exp(2.0 * a) + 1.0))
    return tl.where(x < 0.0, -value, value)
