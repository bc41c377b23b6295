"""The distribution function of a mixture of logistics, its inverse, and the map of an entry made of them.

Used one dimension at a time (Gaussianization, 2000) and in couplings (Flow++, 2019, section 3.2). Components are the
first dimension of whatever has some: sums over them then run along the entries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from genbench.models.flows.bijection import Elementwise, by_entry, by_number, wide
from genbench.models.flows.closed import Closed, Gradients, Valued, moved
from genbench.nets.mlp import anew


def log_cdf(x: Tensor, log_w: Tensor, mu: Tensor, log_sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log F(x), log(1 - F(x)) and log F'(x), as x.

    F(x) = sum_k w_k sigmoid((x - mu_k) / sigma_k). log_w (normalised), mu and log_sigma (K, ...) broadcast with x.
    Both tails are exact in the logarithm.
    """
    tails: tuple[Tensor, Tensor, Tensor] = LogCDF.apply(x, log_w, mu, log_sigma)
    return tails


def parts_of(x: Tensor, log_w: Tensor, mu: Tensor, log_sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logarithm of what each component has in F, 1 - F and F', (K, ...)."""
    z = (x - mu) * (-log_sigma).exp()
    below = logsigmoid(z)
    lower = log_w + below
    upper = log_w + (below - z)  # log sigmoid(-z) = log sigmoid(z) - z, which is 0 to the bit where z is far below
    return lower, upper, upper + below - log_sigma


class Tails(NamedTuple):
    """log F, log(1 - F) and log F' (3, ...), and what their gradient needs.

    Attributes:
        sums: the three.
        shares: of each component in F, 1 - F and F', (3, K, ...).
        z, rate: (x - mu) / sigma and 1 / sigma, (K, ...).
    """

    sums: Tensor
    shares: Tensor
    z: Tensor
    rate: Tensor


def tails_of(x: Tensor, log_w: Tensor, mu: Tensor, log_sigma: Tensor) -> Tails:
    """Return the tails at x; autograd does not see it."""
    rate = (-log_sigma).exp()
    z = (x - mu) * rate
    below = logsigmoid(z)
    parts = z.new_empty(3, *z.shape)
    lower, upper, density = parts.unbind()
    torch.add(log_w, below, out=lower)
    torch.sub(below, z, out=upper).add_(log_w)
    torch.add(upper, below.sub_(log_sigma), out=density)
    most = parts.amax(1, keepdim=True)
    shares = parts.sub_(most).exp_()
    total = shares.sum(1, keepdim=True)
    return Tails((most + total.log()).squeeze(1), shares.div_(total), z, rate)


def gradients_of(g: Tensor, shares: Tensor, z: Tensor, rate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients by log_w, mu and log_sigma, (K, ...), from those by the tails, (3, ...).

    With r_k the share of component k in a sum and s = sigmoid(z), d log F / dz_k = r_k (1 - s_k),
    d log(1 - F) / dz_k = -r_k s_k and d log F' / dz_k = r_k (1 - 2 s_k).
    """
    lower, upper, density = shares * g.unsqueeze(1)
    above = upper + density
    gz = (lower + density).mul_(torch.sigmoid(-z)).addcmul_(above, z.sigmoid(), value=-1)
    return above.add_(lower), (gz * rate).neg_(), torch.addcmul(density, gz, z).neg_()


class LogCDF(torch.autograd.Function):
    """`log_cdf` with its gradient in closed form."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_w: Tensor, mu: Tensor, log_sigma: Tensor) -> tuple[Tensor, ...]:
        sums, *needed = tails_of(x, log_w, mu, log_sigma)
        ctx.save_for_backward(x, log_w, mu, log_sigma, *needed)
        return sums.unbind()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, shares, z, rate = ctx.saved_tensors
        if torch.is_grad_enabled():  # it is to be differentiated again
            sums = [part.logsumexp(0) for part in parts_of(*inputs)]
            return anew(sums, gradients, inputs, ctx.needs_input_grad)
        found = gradients_of(torch.stack(gradients), shares, z, rate)
        return -found[1].sum(0), *(g.sum_to_size(v.shape) for g, v in zip(found, inputs[1:], strict=True))


@torch.no_grad()
def quantile(logit: Tensor, log_w: Tensor, mu: Tensor, log_sigma: Tensor, *, most: int = 100) -> Tensor:
    """Return x with log F(x) - log(1 - F(x)) = logit, as logit; the others as in `log_cdf`.

    Newton's method on logit F, which is a straight line in either tail. The quantile of a mixture lies between those
    of its components: that interval is halved where a step would leave it, and every fourth time.
    """
    ends = mu + log_sigma.exp() * logit
    low, high = ends.amin(0), ends.amax(0)
    x, eps = (log_w.exp() * ends).sum(0).clamp(low, high), 4 * torch.finfo(logit.dtype).eps
    done = torch.zeros_like(x, dtype=torch.bool)
    for i in range(most):
        lower, upper, density = tails_of(x, log_w, mu, log_sigma).sums
        excess = lower - upper - logit
        low, high = torch.where(excess > 0, low, x), torch.where(excess > 0, x, high)
        newton, near = x - excess * (lower + upper - density).exp(), eps * (1 + x.abs())
        inside = (low <= newton) & (newton <= high)
        settles = (excess.abs() <= eps * (1 + logit.abs())) | ((newton - x).abs() <= near) | (high - low <= near)
        elsewhere = torch.where(settles, x, (low + high) / 2)
        x = torch.where(done, x, torch.where(inside & (settles | (i % 4 < 3)), newton, elsewhere))
        done |= settles
        if done.all():
            break
    return x


# ------------------------------------------------------------------------------------------- the map of an entry

LOG_SIGMA, LOG_SCALE = 6.0, 3.0  # how far from its start a network may take log sigma, and s


def soft(v: Tensor, limit: float) -> Tensor:
    """Return v where it is small, smoothly kept within +-limit."""
    return limit * torch.tanh(v / limit)


def width_of(K: int) -> float:
    """Return log sigma of the components where a network says nothing; they stand evenly on [-2, 2] then.

    Few are as wide as logit F needs to be near x; many are as wide as they are apart, since narrow components learn
    sharp edges sooner.
    """
    return math.log(min(0.75, 4 / K)) if K > 1 else 0.0


class Numbers(NamedTuple):
    """What a network says of N entries: log w, mu and log sigma (K, N), s and t (N,)."""

    log_w: Tensor
    mu: Tensor
    log_sigma: Tensor
    s: Tensor
    t: Tensor


def numbers_of(p: Tensor, K: int) -> Numbers:
    """Return them from p (3K + 2, N)."""
    logits, mu, bent, affine = p.split((K, K, K, 2))
    places = torch.linspace(-2, 2, K, dtype=p.dtype, device=p.device) if K > 1 else p.new_zeros(1)
    log_sigma = soft(bent, LOG_SIGMA) + width_of(K)
    return Numbers(logits.log_softmax(0), mu + places.unsqueeze(1), log_sigma, soft(affine[0], LOG_SCALE), affine[1])


def plain(x: Tensor, params: Tensor, of_map: None, *, K: int) -> tuple[Tensor, Tensor]:
    """Return y = e^s logit F(x) + t and log|det dy/dx| (B,): Flow++ (2019), eq. 12-14."""
    n = numbers_of(by_number(params, 3 * K + 2), K)
    lower, upper, density = (v.logsumexp(0) for v in parts_of(x.reshape(-1), n.log_w, n.mu, n.log_sigma))
    y, log_slope = n.s.exp() * (lower - upper) + n.t, n.s + density - lower - upper
    return y.view_as(x), log_slope.view_as(x).flatten(1).sum(1)


def value(x: Tensor, params: Tensor, of_map: None, *, K: int) -> Valued:
    """Return `plain`, and what its gradient needs; autograd does not see it."""
    n = numbers_of(by_number(params, 3 * K + 2), K)
    (lower, upper, density), *needed = tails_of(x.reshape(-1), n.log_w, n.mu, n.log_sigma)
    logit, e = lower - upper, n.s.exp()
    y, log_slope = torch.addcmul(n.t, e, logit), (n.s + density).sub_(lower).sub_(upper)
    return y.view_as(x), log_slope.view_as(x).flatten(1).sum(1), (n.log_w, n.log_sigma, n.s, e, logit, *needed)


def gradients(gy: Tensor, glogdet: Tensor, x: Tensor, of_map: None, needed: Sequence[Tensor], *, K: int) -> Gradients:
    """Return the gradients by x and params."""
    log_w, log_sigma, s, e, logit, shares, z, rate = needed
    gy, gl = gy.reshape(-1), glogdet.unsqueeze(1).expand(-1, x[0].numel()).reshape(-1)
    g_logit = gy * e
    gw, gmu, g_log_sigma = gradients_of(torch.stack((g_logit - gl, -g_logit - gl, gl)), shares, z, rate)
    gp = z.new_empty(3 * K + 2, gy.numel())
    torch.addcmul(gw, log_w.exp(), gl, out=gp[:K])  # through the softmax: over all components gw is -gl
    gp[K : 2 * K] = gmu
    torch.mul(g_log_sigma, slope(log_sigma - width_of(K), LOG_SIGMA), out=gp[2 * K : 3 * K])
    torch.mul(torch.addcmul(gl, g_logit, logit), slope(s, LOG_SCALE), out=gp[3 * K])
    gp[3 * K + 1] = gy
    return gmu.sum(0).neg_().view_as(x), by_entry(gp, x), None


def slope(y: Tensor, limit: float) -> Tensor:
    """Return dy/dv of y = `soft` v."""
    return 1 - (y / limit).square_()


def inverse(y: Tensor, params: Tensor, *, K: int) -> Tensor:
    """Return x of y = e^s logit F(x) + t."""
    n = numbers_of(by_number(params, 3 * K + 2), K)
    logit = (y.reshape(-1) - n.t) * (-n.s).exp()
    return quantile(logit, n.log_w, n.mu, n.log_sigma).view_as(y)


def mixture_cdf(components: int) -> Elementwise:
    """Return the map of Flow++: the distribution function of a mixture of logistics, its logit, an affine map."""
    K = components
    closed = Closed(partial(value, K=K), partial(gradients, K=K), partial(plain, K=K))
    return Elementwise(
        3 * K + 2,
        lambda x, params: moved(closed, *wide(x, params)),
        lambda y, params: inverse(*wide(y, params), K=K),
        closed,
    )
