"""Monotone rational-quadratic splines (Neural Spline Flows, 2019, section 3.1 and appendix A.1).

On [-bound, bound] there are K bins; in each, with theta the place in it from 0 to 1, s its mean slope and d_0, d_1 the
slopes at its ends, eq. 4 and 5 are

    y = y_0 + h (s theta^2 + d_0 t) / D,     D = s + (d_0 + d_1 - 2 s) t,     t = theta (1 - theta),
    dy/dx = s^2 N / D^2,                     N = d_1 theta^2 + 2 s t + d_0 (1 - theta)^2.

Outside, y = x. For an entry a network gives 3 K - 1 numbers: the logarithms of K widths, of K heights, each up to a
factor, and K - 1 inner slopes before a softplus.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

from genbench.models.flows.bijection import Elementwise, by_entry, by_number, wide
from genbench.models.flows.closed import Closed, Gradients, Valued, moved

LEAST = 1e-3  # of a bin's width and height, as a share of the whole, and of a slope
UNIT = math.log(math.expm1(1 - LEAST))  # softplus(0 + UNIT) + LEAST = 1


def spline(bins: int = 8, bound: float = 4.0) -> Elementwise:
    """Return the spline of `bins` bins on [-bound, bound]; raises ValueError for less than two bins."""
    if bins < 2:
        raise ValueError(f"a spline needs two bins or more, got {bins}")

    of: dict[str, Any] = {"K": bins, "bound": bound}
    closed = Closed(partial(value, **of), partial(gradients, **of), partial(plain, **of))
    return Elementwise(
        3 * bins - 1,
        lambda x, params: moved(closed, *wide(x, params)),
        lambda y, params: inverse(*wide(y, params), **of),
        closed,
    )


# ---------------------------------------------------------------------------------------------- the equations


class Bin(NamedTuple):
    """One bin for each entry, in coordinates in which the spline lives on the unit square."""

    x: Tensor
    w: Tensor
    y: Tensor
    h: Tensor
    d0: Tensor
    d1: Tensor


def bin_of(v: Tensor, params: Tensor, K: int, axis: int) -> Bin:
    """Return the bin whose width (axis 0) or height (axis 1) holds v (N,); params (3K - 1, N)."""
    size = LEAST + (1 - K * LEAST) * params[: 2 * K].unflatten(0, (2, K)).softmax(1)
    left = size.cumsum(1) - size
    slopes = pad((softplus(params[2 * K :] + UNIT) + LEAST).T, (1, 1), value=1.0).T
    k = (v >= left[axis, 1:]).sum(0, keepdim=True)
    (x, y), (w, h) = (a.gather(1, k.expand(2, 1, -1)).squeeze(1) for a in (left, size))
    d0, d1 = (slopes.gather(0, k + i).squeeze(0) for i in (0, 1))
    return Bin(x, w, y, h, d0, d1)


def rational(theta: Tensor, s: Tensor, d0: Tensor, d1: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far up its bin the spline is, from 0 to 1, and log dy/dx: eq. 4 and 5."""
    t = theta * (1 - theta)
    D = s + (d0 + d1 - 2 * s) * t
    N = d1 * theta.square() + 2 * s * t + d0 * (1 - theta).square()
    return (s * theta.square() + d0 * t) / D, 2 * (s / D).log() + N.log()


def plain(x: Tensor, params: Tensor, of_map: None = None, *, K: int, bound: float) -> tuple[Tensor, Tensor]:
    """Return y as x (B, C, ...) and log|det dy/dx| (B,), params (B, C * (3K - 1), ...)."""
    u = ((x.reshape(-1) + bound) / (2 * bound)).clamp(0, 1)
    b = bin_of(u, by_number(params, 3 * K - 1), K, axis=0)
    up, log_slope = rational((u - b.x) / b.w, b.h / b.w, b.d0, b.d1)
    inside, y = x.abs() <= bound, bound * (2 * (b.y + b.h * up) - 1)
    log_slope = torch.where(inside, log_slope.view_as(x), 0.0)
    return torch.where(inside, y.view_as(x), x), log_slope.flatten(1).sum(1)


def inverse(y: Tensor, params: Tensor, *, K: int, bound: float) -> Tensor:
    """Return x, as `plain` has y: eq. 6-8, in the form whose root does not cancel."""
    v = ((y.reshape(-1) + bound) / (2 * bound)).clamp(0, 1)
    b = bin_of(v, by_number(params, 3 * K - 1), K, axis=1)
    rise, s = v - b.y, b.h / b.w
    bend = rise * (b.d0 + b.d1 - 2 * s)
    alpha, beta, gamma = b.h * (s - b.d0) + bend, b.h * b.d0 - bend, -s * rise
    theta = 2 * gamma / (-beta - (beta.square() - 4 * alpha * gamma).clamp(min=0).sqrt())
    x = bound * (2 * (b.x + theta * b.w) - 1)
    return torch.where(y.abs() <= bound, x.view_as(y), y)


# -------------------------------------------------------------------------------------------- the same, faster


def value(x: Tensor, params: Tensor, of_map: None, *, K: int, bound: float) -> Valued:
    """Return `plain`, and what its gradient needs; autograd does not see it. For every bin there is but a softmax."""
    p, u = by_number(params, 3 * K - 1).contiguous(), ((x.reshape(-1) + bound) / (2 * bound)).clamp_(0, 1)
    shares = p[: 2 * K].view(2, K, -1).softmax(1)  # of widths and of heights, (2, K, N)
    below = shares.cumsum(1)
    j = torch.arange(1, K, dtype=p.dtype, device=p.device).unsqueeze(1)
    passed = torch.add(LEAST * j, below[0, :-1], alpha=1 - K * LEAST)  # the inner knots, (K - 1, N)
    k = torch.le(passed, u, out=passed).sum(0, keepdim=True)
    at = k.long().expand(2, 1, -1)
    share = shares.gather(1, at).squeeze(1)  # (2, N)
    below = below.gather(1, at).squeeze(1).sub_(share)
    w, h = torch.add(LEAST, share, alpha=1 - K * LEAST)
    left, low = torch.add(LEAST * k, below, alpha=1 - K * LEAST)
    knots = torch.cat((at[0] - 1, at[0]))  # the inner ones at either end of the bin, (2, N)
    edge = (knots < 0) | (knots > K - 2)
    knots.clamp_(0, K - 2)
    soft = softplus(p[2 * K :].gather(0, knots) + UNIT)
    d = (soft + LEAST).masked_fill_(edge, 1.0)
    theta = (u - left).div_(w)
    up, log_slope = rational(theta, h / w, d[0], d[1])
    y = torch.addcmul(low, h, up).mul_(2 * bound).sub_(bound).view_as(x)
    inside = x.abs() <= bound
    soft.masked_fill_(edge, 0.0)
    logdet = log_slope.view_as(x).mul_(inside).flatten(1).sum(1)
    return (
        torch.where(inside, y, x),
        logdet,
        (inside, shares, passed, at, share, below, w, h, theta, up, d, knots, soft),
    )


def gradients(
    gy: Tensor, glogdet: Tensor, x: Tensor, of_map: None, needed: Sequence[Tensor], *, K: int, bound: float
) -> Gradients:
    """Return the gradients by x and params."""
    inside, shares, passed, at, share, below, w, h, theta, up, d, knots, soft = needed
    g_up = (gy * inside).reshape(-1).mul_(2 * bound)
    g_log = (glogdet.view(-1, *[1] * (x.ndim - 1)) * inside).reshape(-1)
    s, (d0, d1) = h / w, d
    g_theta, g_s, *g_d = rational_gradients(theta, s, d0, d1, up, g_up * h, g_log)
    g_u = g_theta / w
    g_size = torch.stack(((g_s * s + g_theta * theta).div_(-w), torch.addcdiv(g_up * up, g_s, w)))
    g_left = torch.stack((-g_u, g_up))
    gp = x.new_zeros(3 * K - 1, x.numel())
    g = softmax_gradient(g_size.mul_(1 - K * LEAST), g_left.mul_(1 - K * LEAST), shares, passed, at, share, below)
    torch.mul(g, shares, out=gp[: 2 * K].view(2, K, -1))
    gp[2 * K :].scatter_add_(0, knots, torch.stack(g_d).mul_(-torch.expm1(-soft)))
    return torch.where(inside, g_u.div_(2 * bound).view_as(x), gy), by_entry(gp, x), None


def rational_gradients(
    theta: Tensor, s: Tensor, d0: Tensor, d1: Tensor, up: Tensor, g_up: Tensor, g_log: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients by theta, s, d0 and d1 of g_up * up + g_log * log_slope, those two as in `rational`."""
    rest, turn = 1 - theta, 1 - 2 * theta
    t, theta2, rest2 = theta * rest, theta.square(), rest.square()
    bend = torch.add(d0 + d1, s, alpha=-2)
    D = torch.addcmul(s, bend, t)
    g_N = g_log / (d1 * theta2 + 2 * s * t + d0 * rest2)
    g_A = g_up / D  # A = up D
    g_D = -torch.addcmul(2 * g_log / D, g_A, up)
    g_theta = g_A * (2 * s * theta + d0 * turn) + g_D * bend * turn + 2 * g_N * (d1 * theta + s * turn - d0 * rest)
    g_s = g_A * theta2 + g_D * (1 - 2 * t) + 2 * (g_N * t + g_log / s)
    return g_theta, g_s, (g_A + g_D) * t + g_N * rest2, g_D * t + g_N * theta2


def softmax_gradient(
    g_share: Tensor, g_below: Tensor, shares: Tensor, passed: Tensor, at: Tensor, share: Tensor, below: Tensor
) -> Tensor:
    """Return the gradient by log share_j, over share_j, (2, K, N), from those by share_k and below_k.

    d share_k / d log_j = share_j (1[j = k] - share_k) and d below_k / d log_j = share_j (1[j < k] - below_k).
    """
    mean = torch.addcmul(g_share * share, g_below, below).neg_().unsqueeze(1)
    g = torch.empty_like(shares)
    torch.addcmul(mean, passed, g_below.unsqueeze(1), out=g[:, :-1])
    g[:, -1:] = mean
    return g.scatter_add_(1, at, g_share.unsqueeze(1))
