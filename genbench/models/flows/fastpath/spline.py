"""The rational-quadratic spline with a hand-written gradient; of each bin only a softmax is computed.

Notation as in `spline.py`; k is the bin of an entry. Tensors of bins are (K, N), of widths and heights (2, K, N).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn.functional import softplus

from genbench.models.flows.elementwise import parameters_first
from genbench.models.flows.fastpath.elementwise import AnalyticVJP, Gradients, Value, equation_of, parameters_adjacent
from genbench.models.flows.spline import MINIMUM, UNIT_SLOPE, Spline, rational


def value(x: Tensor, params: Tensor, gain: None, *, map: Spline) -> Value:
    """Return y, log|det dy/dx| and what the gradients need; autograd does not record it."""
    K, bound = map.K, map.bound
    p, u = parameters_first(params, map.parameters).contiguous(), ((x.reshape(-1) + bound) / (2 * bound)).clamp_(0, 1)
    shares = p[: 2 * K].view(2, K, -1).softmax(1)  # of widths and of heights, (2, K, N)
    below = shares.cumsum(1)
    j = torch.arange(1, K, dtype=p.dtype, device=p.device).unsqueeze(1)
    passed = torch.add(MINIMUM * j, below[0, :-1], alpha=1 - K * MINIMUM)  # the inner knots, (K - 1, N)
    k = torch.le(passed, u, out=passed).sum(0, keepdim=True)
    at = k.long().expand(2, 1, -1)
    share = shares.gather(1, at).squeeze(1)  # (2, N)
    below = below.gather(1, at).squeeze(1).sub_(share)
    w, h = torch.add(MINIMUM, share, alpha=1 - K * MINIMUM)
    left, low = torch.add(MINIMUM * k, below, alpha=1 - K * MINIMUM)
    knots = torch.cat((at[0] - 1, at[0]))  # the inner ones at either end of the bin, (2, N)
    edge = (knots < 0) | (knots > K - 2)
    knots.clamp_(0, K - 2)
    soft = softplus(p[2 * K :].gather(0, knots) + UNIT_SLOPE)
    d = (soft + MINIMUM).masked_fill_(edge, 1.0)
    theta = (u - left).div_(w)
    rise, log_slope = rational(theta, h / w, d[0], d[1])
    y = torch.addcmul(low, h, rise).mul_(2 * bound).sub_(bound).view_as(x)
    inside = x.abs() <= bound
    soft.masked_fill_(edge, 0.0)
    logdet = log_slope.view_as(x).mul_(inside).flatten(1).sum(1)
    saved = inside, shares, passed, at, share, below, w, h, theta, rise, d, knots, soft
    return torch.where(inside, y, x), logdet, saved


def gradients(gy: Tensor, glogdet: Tensor, x: Tensor, gain: None, saved: Sequence[Tensor], *, map: Spline) -> Gradients:
    """Return the gradients by x and params."""
    K, bound = map.K, map.bound
    inside, shares, passed, at, share, below, w, h, theta, rise, d, knots, soft = saved
    g_rise = (gy * inside).reshape(-1).mul_(2 * bound)
    g_log = (glogdet.view(-1, *[1] * (x.ndim - 1)) * inside).reshape(-1)
    s, (d0, d1) = h / w, d
    g_theta, g_s, *g_d = rational_gradients(theta, s, d0, d1, rise, g_rise * h, g_log)
    g_u = g_theta / w
    g_size = torch.stack(((g_s * s + g_theta * theta).div_(-w), torch.addcdiv(g_rise * rise, g_s, w)))
    g_left = torch.stack((-g_u, g_rise))
    gp = x.new_zeros(map.parameters, x.numel())
    scale = 1 - K * MINIMUM
    g = softmax_gradient(g_size.mul_(scale), g_left.mul_(scale), shares, passed, at, share, below)
    torch.mul(g, shares, out=gp[: 2 * K].view(2, K, -1))
    gp[2 * K :].scatter_add_(0, knots, torch.stack(g_d).mul_(-torch.expm1(-soft)))
    return torch.where(inside, g_u.div_(2 * bound).view_as(x), gy), parameters_adjacent(gp, x), None


def rational_gradients(
    theta: Tensor, s: Tensor, d0: Tensor, d1: Tensor, rise: Tensor, g_rise: Tensor, g_log: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients by theta, s, d0 and d1 of g_rise * rise + g_log * log_slope (see `rational`)."""
    rest, turn = 1 - theta, 1 - 2 * theta
    t, theta2, rest2 = theta * rest, theta.square(), rest.square()
    bend = torch.add(d0 + d1, s, alpha=-2)
    D = torch.addcmul(s, bend, t)
    g_N = g_log / (d1 * theta2 + 2 * s * t + d0 * rest2)
    g_A = g_rise / D  # A = rise D
    g_D = -torch.addcmul(2 * g_log / D, g_A, rise)
    g_theta = g_A * (2 * s * theta + d0 * turn) + g_D * bend * turn + 2 * g_N * (d1 * theta + s * turn - d0 * rest)
    g_s = g_A * theta2 + g_D * (1 - 2 * t) + 2 * (g_N * t + g_log / s)
    return g_theta, g_s, (g_A + g_D) * t + g_N * rest2, g_D * t + g_N * theta2


def softmax_gradient(
    g_share: Tensor, g_below: Tensor, shares: Tensor, passed: Tensor, at: Tensor, share: Tensor, below: Tensor
) -> Tensor:
    """Return the gradient by log share_j, divided by share_j, (2, K, N), from those by share_k and below_k.

    d share_k / d log_j = share_j (1[j = k] - share_k) and d below_k / d log_j = share_j (1[j < k] - below_k).
    """
    mean = torch.addcmul(g_share * share, g_below, below).neg_().unsqueeze(1)
    g = torch.empty_like(shares)
    torch.addcmul(mean, passed, g_below.unsqueeze(1), out=g[:, :-1])
    g[:, -1:] = mean
    return g.scatter_add_(1, at, g_share.unsqueeze(1))


@cache
def spline_vjp(map: Spline) -> AnalyticVJP:
    """Return the VJP of `map`."""
    return AnalyticVJP(partial(value, map=map), partial(gradients, map=map), equation_of(map))


VJPS = {Spline: spline_vjp}
