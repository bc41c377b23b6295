"""Hand-written gradients of the distribution function of a mixture of logistics, and of Flow++'s map."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from genbench.fastpath import fastpath
from genbench.models.flows.elementwise import parameters_first
from genbench.models.flows.fastpath.elementwise import AnalyticVJP, Gradients, Value, equation_of, parameters_adjacent
from genbench.models.flows.mixture_cdf import LOG_SCALE_LIMIT, LOG_SIGMA_LIMIT, LogisticMixture, MixtureLogit
from genbench.nets.fastpath.gradients import differentiable_grad


class LogCDF(NamedTuple):
    """log F, log(1 - F) and log F' (3, ...), and what their gradients need.

    Attributes:
        sums: the three values.
        responsibilities: of each component in F, 1 - F and F', (3, K, ...).
        z, inverse_sigma: (x - mu) / sigma and 1 / sigma, (K, ...).
    """

    sums: Tensor
    responsibilities: Tensor
    z: Tensor
    inverse_sigma: Tensor


def log_cdf_value(mixture: LogisticMixture, x: Tensor) -> LogCDF:
    """Return log F, log(1 - F) and log F' at x; autograd does not record it."""
    log_w, mu, log_sigma = mixture
    inverse_sigma = (-log_sigma).exp()
    z = (x - mu) * inverse_sigma
    log_sigmoid = logsigmoid(z)
    terms = z.new_empty(3, *z.shape)
    lower, upper, density = terms.unbind()
    torch.add(log_w, log_sigmoid, out=lower)
    torch.sub(log_sigmoid, z, out=upper).add_(log_w)
    torch.add(upper, log_sigmoid.sub_(log_sigma), out=density)
    largest = terms.amax(1, keepdim=True)
    weights = terms.sub_(largest).exp_()
    total = weights.sum(1, keepdim=True)
    return LogCDF((largest + total.log()).squeeze(1), weights.div_(total), z, inverse_sigma)


def log_cdf_gradients(
    g: Tensor, responsibilities: Tensor, z: Tensor, inverse_sigma: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients by log_w, mu and log_sigma, (K, ...), from those by the three values, (3, ...).

    With r_k the responsibility of component k and s = sigmoid(z), d log F / dz_k = r_k (1 - s_k),
    d log(1 - F) / dz_k = -r_k s_k and d log F' / dz_k = r_k (1 - 2 s_k).
    """
    lower, upper, density = responsibilities * g.unsqueeze(1)
    above = upper + density
    gz = (lower + density).mul_(torch.sigmoid(-z)).addcmul_(above, z.sigmoid(), value=-1)
    return above.add_(lower), (gz * inverse_sigma).neg_(), torch.addcmul(density, gz, z).neg_()


def log_cdf(mixture: LogisticMixture, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log F(x), log(1 - F(x)) and log F'(x)."""
    value = LogCDFFunction.apply(x, *mixture) if torch.is_grad_enabled() else log_cdf_value(mixture, x).sums.unbind()
    lower, upper, density = value
    return lower, upper, density


class LogCDFFunction(torch.autograd.Function):
    """x, log_w, mu, log_sigma -> log F, log(1 - F), log F'."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *mixture: Tensor) -> tuple[Tensor, ...]:
        sums, *saved = log_cdf_value(LogisticMixture(*mixture), x)
        ctx.save_for_backward(x, *mixture, *saved)
        return sums.unbind()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        x, *mixture, responsibilities, z, inverse_sigma = ctx.saved_tensors
        if torch.is_grad_enabled():
            with fastpath(False):
                outputs = LogisticMixture(*mixture).log_cdf(x)
            return differentiable_grad(outputs, cotangents, (x, *mixture), ctx.needs_input_grad)
        gradients = log_cdf_gradients(torch.stack(cotangents), responsibilities, z, inverse_sigma)
        by_mixture = (g.sum_to_size(v.shape) for g, v in zip(gradients, mixture, strict=True))
        return -gradients[1].sum(0), *by_mixture


# ------------------------------------------------------------------------------------------------ Flow++'s map


def value(x: Tensor, params: Tensor, gain: None, *, map: MixtureLogit) -> Value:
    """Return y, log|det dy/dx| and what the gradients need; autograd does not record it."""
    mixture, s, t = map.unpack(parameters_first(params, map.parameters))
    (lower, upper, density), *saved = log_cdf_value(mixture, x.reshape(-1))
    logit, e = lower - upper, s.exp()
    y, log_slope = torch.addcmul(t, e, logit), (s + density).sub_(lower).sub_(upper)
    logdet = log_slope.view_as(x).flatten(1).sum(1)
    return y.view_as(x), logdet, (mixture.log_w, mixture.log_sigma, s, e, logit, *saved)


def gradients(
    gy: Tensor, glogdet: Tensor, x: Tensor, gain: None, saved: Sequence[Tensor], *, map: MixtureLogit
) -> Gradients:
    """Return the gradients by x and params."""
    K = map.K
    log_w, log_sigma, s, e, logit, responsibilities, z, inverse_sigma = saved
    gy, gl = gy.reshape(-1), glogdet.unsqueeze(1).expand(-1, x[0].numel()).reshape(-1)
    g_logit = gy * e
    g = torch.stack((g_logit - gl, -g_logit - gl, gl))
    gw, gmu, g_log_sigma = log_cdf_gradients(g, responsibilities, z, inverse_sigma)
    gp = z.new_empty(map.parameters, gy.numel())
    torch.addcmul(gw, log_w.exp(), gl, out=gp[:K])  # through the softmax: gw sums to -gl over the components
    gp[K : 2 * K] = gmu
    torch.mul(g_log_sigma, soft_clamp_slope(log_sigma - map.start_log_sigma, LOG_SIGMA_LIMIT), out=gp[2 * K : 3 * K])
    torch.mul(torch.addcmul(gl, g_logit, logit), soft_clamp_slope(s, LOG_SCALE_LIMIT), out=gp[3 * K])
    gp[3 * K + 1] = gy
    return gmu.sum(0).neg_().view_as(x), parameters_adjacent(gp, x), None


def soft_clamp_slope(y: Tensor, limit: float) -> Tensor:
    """Return dy/dv of y = soft_clamp(v)."""
    return 1 - (y / limit).square_()


@cache
def mixture_logit_vjp(map: MixtureLogit) -> AnalyticVJP:
    """Return the VJP of `map`."""
    return AnalyticVJP(partial(value, map=map), partial(gradients, map=map), equation_of(map))


VJPS = {MixtureLogit: mixture_logit_vjp}
FAST = {LogisticMixture: log_cdf}
