"""Optimization of a diagonal Gaussian q(z | x) for each point by natural gradients on the ELBO.

Stochastic Variational Inference (2013); Fast yet Simple Natural-Gradient Descent for Variational Inference in Complex
Models (2018); Handling the Positive-Definite Constraint in the Bayesian Learning Rule (2020), whose update of the
precision S = 1 / sigma^2 keeps it positive. With z = mu + sigma eps and p(x, z) = N(z; 0, I) p(x | z),

    mu <- mu + a g / S,    S <- S (1 + u + u^2 / 2),    u = b (h / S - 1),
    g = E[grad log p(x | z)] - mu,    h = 1 - E[eps grad log p(x | z)] / sigma    (Stein's lemma).

The fixed points are those where the gradient of the ELBO vanishes: g = 0, and S = h, the mean curvature of
-log p(x, z).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from genbench.nets.precision import full_precision

LogLikelihood = Callable[[Tensor, Tensor], Tensor]  # x (B, *shape), z (k, B, Z) -> log p(x | z) (k, B) in nats

GRADIENT_PAIRS = 2  # antithetic pairs of samples in a gradient
ELBO_PAIRS = 32  # antithetic pairs of samples in the ELBO that rounds are compared by
ROUND_STEPS = 40
PRECISION_RATE = 0.3  # b / a: estimates of precisions are noisier than those of means
MAX_MU_STEP = 1.0  # in standard deviations of the prior
MAX_U = 1.5


class Optimum(NamedTuple):
    """The best q of each point: mu, logvar (B, Z), ELBO gain of the last round (B,) in nats, steps taken (B,)."""

    mu: Tensor
    logvar: Tensor
    gain: Tensor
    steps: Tensor


def antithetic(pairs: int, shape: torch.Size, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return samples eps (2 pairs, *shape) of N(0, I): `pairs` independent ones and their negatives."""
    device = generator.device if generator else like.device
    eps = torch.randn(pairs, *shape, dtype=like.dtype, device=device, generator=generator)
    return torch.cat((eps, -eps)).to(like.device)


def elbo(log_p: Callable[[Tensor], Tensor], mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    """Return E_q log p(x | z) - KL in nats from samples eps (k, 1 or B, Z), mu and logvar (B, Z) -> (B,)."""
    kl = 0.5 * (mu**2 + (torch.expm1(logvar) - logvar)).sum(-1)
    return log_p(torch.addcmul(mu, torch.exp(0.5 * logvar), eps)).mean(0) - kl


def ascend(
    log_p: Callable[[Tensor], Tensor],
    mu: Tensor,
    logvar: Tensor,
    steps: int,
    rate: float = 1.0,
    pairs: int = GRADIENT_PAIRS,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Return mu and logvar (B, Z) after `steps` natural-gradient steps; a falls from `rate` to 0 by a cosine schedule.

    All points share the samples eps, so that the result for one point does not depend on the others. The result has no
    gradient.

    Args:
        log_p: z (k, B, Z) -> log p(x | z) (k, B) nats, differentiable.
    """
    mu, S = mu.detach(), torch.exp(-logvar.detach())
    with torch.enable_grad(), full_precision(mu):
        for step in range(steps):
            a = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            eps, sigma = antithetic(pairs, mu[:1].shape, mu, generator), S.rsqrt()
            z = torch.addcmul(mu, sigma, eps).requires_grad_()
            (gradient,) = torch.autograd.grad(log_p(z).sum(), z)
            g, h = gradient.mean(0) - mu, 1 - (gradient * eps).mean(0) / sigma
            u = (PRECISION_RATE * a * (h / S - 1)).clamp(max=MAX_U)
            mu = mu + (a * g / S).clamp(-MAX_MU_STEP, MAX_MU_STEP)
            S = S * (1 + u + 0.5 * u**2)
    return mu, -S.log()


@torch.no_grad()
def optimize(
    x: Tensor,
    log_likelihood: LogLikelihood,
    mu: Tensor,
    logvar: Tensor,
    tolerance: float,
    max_steps: int,
) -> Optimum:
    """Return the best q of each x (B, *shape), starting at mu and logvar (B, Z); it depends on that point alone.

    Optimization runs in rounds of 40 steps, each with half the rate of the previous one. After a round, a point takes
    the new q if its ELBO is higher, estimated by the same 64 samples every time; so by these samples no point ends
    below its start. A point is finished when a round changes its ELBO by less than `tolerance` nats, or after
    `max_steps`.
    """
    generator = torch.Generator().manual_seed(0)
    eps = antithetic(ELBO_PAIRS, mu[:1].shape, mu, generator)
    mu, logvar = mu.clone(), logvar.clone()
    best = elbo(partial(log_likelihood, x), mu, logvar, eps)
    gain, steps_taken = torch.full_like(best, math.inf), torch.zeros(len(x), dtype=torch.long, device=x.device)
    active, rate = torch.arange(len(x), device=x.device), 1.0
    for first in range(0, max_steps, ROUND_STEPS):
        steps, log_p = min(ROUND_STEPS, max_steps - first), partial(log_likelihood, x[active])
        new = ascend(log_p, mu[active], logvar[active], steps, rate, generator=generator)
        new_elbo = elbo(log_p, *new, eps)
        change = new_elbo - best[active]
        better = active[change > 0]
        for old, value in ((mu, new[0]), (logvar, new[1]), (best, new_elbo)):
            old[better] = value[change > 0]
        gain[active], steps_taken[active] = change.clamp(min=0), first + steps
        active, rate = active[~(change.abs() <= tolerance)], rate / 2
        if not len(active):
            break
    return Optimum(mu, logvar, gain, steps_taken)
