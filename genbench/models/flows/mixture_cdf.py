"""The distribution function of a mixture of logistics, its inverse, and the coupling map made of them.

Used one dimension at a time (Gaussianization, 2000) and in couplings (Flow++, 2019, section 3.2).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from genbench.models.flows.bijection import Elementwise


def log_cdf(x: Tensor, log_w: Tensor, mu: Tensor, log_sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log F(x), log(1 - F(x)) and log F'(x), as x.

    F(x) = sum_k w_k sigmoid((x - mu_k) / sigma_k). The components are the last dimension of log_w (normalised), mu
    and log_sigma (..., K), which broadcast with x (..., 1). Both tails are exact in the logarithm.
    """
    tails: tuple[Tensor, Tensor, Tensor] = LogCDF.apply(x, log_w, mu, log_sigma)
    return tails


def tails_of(z: Tensor, log_w: Tensor, log_sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what each component has in F, 1 - F and F', (..., K) in the logarithm, z = (x - mu) / sigma."""
    below = logsigmoid(z)
    lower = log_w + below
    upper = lower - z  # log sigmoid(-z) = log sigmoid(z) - z
    return lower, upper, upper + below - log_sigma


def summed(parts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithm of the sum of e^parts, (..., K) -> (...), and the share of each in it, (..., K)."""
    most = parts.amax(-1, keepdim=True)
    shares = (parts - most).exp_()
    total = shares.sum(-1, keepdim=True)
    return (most + total.log()).squeeze(-1), shares.div_(total)


class LogCDF(torch.autograd.Function):
    """`log_cdf` with its gradient in closed form.

    With r_k the share of component k in a sum and s = sigmoid(z), d log F / dz_k = r_k (1 - s_k),
    d log(1 - F) / dz_k = -r_k s_k and d log F' / dz_k = r_k (1 - 2 s_k).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_w: Tensor, mu: Tensor, log_sigma: Tensor) -> tuple[Tensor, ...]:
        rate = (-log_sigma).exp()
        z = (x.unsqueeze(-1) - mu) * rate
        sums, shares = zip(*map(summed, tails_of(z, log_w, log_sigma)), strict=True)
        ctx.save_for_backward(x, log_w, mu, log_sigma, z, rate, *shares)
        return sums

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, log_w, mu, log_sigma, z, rate, *shares = ctx.saved_tensors
        if torch.is_grad_enabled():  # it is to be differentiated again
            return again(ctx.needs_input_grad, (x, log_w, mu, log_sigma), gradients)
        lower, upper, density = (r * g.unsqueeze(-1) for r, g in zip(shares, gradients, strict=True))
        gw = lower + upper + density
        gz = (lower + density) * torch.sigmoid(-z) - (upper + density) * z.sigmoid()
        gmu = gz * -rate
        gsigma = (gz * z).add_(density).neg_()
        shapes = (log_w.shape, mu.shape, log_sigma.shape)
        return -gmu.sum(-1), *(g.sum_to_size(shape) for g, shape in zip((gw, gmu, gsigma), shapes, strict=True))


def again(needed: tuple[bool, ...], inputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """Return the gradients of `log_cdf` so that they can be differentiated: through its plain formula."""
    x, log_w, mu, log_sigma = inputs
    parts = tails_of((x.unsqueeze(-1) - mu) * (-log_sigma).exp(), log_w, log_sigma)
    wanted = [v for v, need in zip(inputs, needed, strict=True) if need]
    found = iter(torch.autograd.grad([part.logsumexp(-1) for part in parts], wanted, gradients, create_graph=True))
    return tuple(next(found) if need else None for need in needed)


@torch.no_grad()
def quantile(
    log_p: Tensor, log_q: Tensor, log_w: Tensor, mu: Tensor, log_sigma: Tensor, *, halvings: int = 40
) -> Tensor:
    """Return x with log F(x) = log_p, where log_q = log(1 - p) is given too; arguments as in `log_cdf`.

    The quantile of a mixture lies between those of its components; bisection there, on the smaller tail, and one step
    of Newton's method.
    """
    ends = mu + log_sigma.exp() * (log_p - log_q).unsqueeze(-1)
    low, high = ends.amin(-1), ends.amax(-1)

    def excess(x: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper, density = log_cdf(x, log_w, mu, log_sigma)
        left = log_p < log_q
        return torch.where(left, lower - log_p, log_q - upper), density - torch.where(left, lower, upper)

    for _ in range(halvings):
        middle = (low + high) / 2
        over = excess(middle)[0] > 0
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    x = (low + high) / 2
    f, log_slope = excess(x)
    return (x - f * (-log_slope).exp()).clamp(low, high)


# ---------------------------------------------------------------------------------------------- in a coupling

LOG_SIGMA, LOG_SCALE = 6.0, 3.0  # how far from its start a network may take log sigma, and s


def soft(v: Tensor, limit: float) -> Tensor:
    """Return v where it is small, smoothly kept within +-limit."""
    return limit * torch.tanh(v / limit)


def parts_of(params: Tensor, x: Tensor, K: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return log w, mu, log sigma (B, C, ..., K), s and t as x, from params (B, C * (3K + 2), ...).

    Where params are zero, the components stand evenly on [-2, 2]. Few are as wide as logit F needs to be near x; many
    are as wide as they are apart, since narrow components learn sharp edges sooner.
    """
    logits, mu, log_sigma, affine = params.unflatten(1, (x.shape[1], -1)).movedim(2, -1).split((K, K, K, 2), -1)
    places = torch.linspace(-2, 2, K, dtype=x.dtype, device=x.device) if K > 1 else x.new_zeros(1)
    start = math.log(min(0.75, 4 / K)) if K > 1 else 0.0
    s, t = affine.unbind(-1)
    return logits.log_softmax(-1), mu + places, soft(log_sigma, LOG_SIGMA) + start, soft(s, LOG_SCALE), t


def forward(x: Tensor, params: Tensor, *, components: int) -> tuple[Tensor, Tensor]:
    """Return y = e^s logit F(x) + t and log|det dy/dx| (B,): Flow++ (2019), eq. 12-14."""
    log_w, mu, log_sigma, s, t = parts_of(params, x, components)
    lower, upper, density = log_cdf(x, log_w, mu, log_sigma)
    return torch.addcmul(t, s.exp(), lower - upper), (s + density - lower - upper).flatten(1).sum(1)


def inverse(y: Tensor, params: Tensor, *, components: int) -> Tensor:
    """Return x of y = e^s logit F(x) + t."""
    log_w, mu, log_sigma, s, t = parts_of(params, y, components)
    logit = (y - t) * (-s).exp()
    return quantile(logsigmoid(logit), logsigmoid(-logit), log_w, mu, log_sigma)


def mixture_cdf(components: int) -> Elementwise:
    """Return the map of Flow++: the distribution function of a mixture of logistics, its logit, an affine map."""
    forth, back = partial(forward, components=components), partial(inverse, components=components)
    return Elementwise(3 * components + 2, forth, back)
