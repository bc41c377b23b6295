"""Annealed importance sampling of p(x) = E p(x | z), z ~ N(0, I), from the prior to the posterior and back.

Annealed Importance Sampling (2001): a chain z_1, ..., z_T starts at the prior and makes one transition of Hamiltonian
Monte Carlo at each of f_t(z) = N(z; 0, I) p(x | z)^beta_t, 0 = beta_0 < beta_1 < ... < beta_T = 1. Its weight

    log w = sum_t (beta_t - beta_(t-1)) log p(x | z_t),    z_1 ~ N(0, I), z_(t+1) from z_t leaving f_t invariant,

satisfies E w = p(x), so that log w, and the log of the mean of several weights, is below log p(x) in expectation. For
the same chain backwards, starting at z_T from the posterior, E 1/w = 1/p(x), and the estimate is above log p(x)
(Sandwiching the marginal likelihood using bidirectional Monte Carlo, 2015). Schedules and transitions follow On the
Quantitative Analysis of Decoder-Based Generative Models (2017), and most constants below are from its code.

Both bounds need transitions that do not depend on the chain itself, so step sizes are tuned by separate chains.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

LogLikelihood = Callable[[Tensor], Tensor]  # z (C, B, Z) -> log p(x | z) (C, B) in nats, of B points x
Schedule = Literal["sigmoid", "linear"]

LEAPFROG_STEPS = 10  # per transition
TARGET_ACCEPTANCE = 0.65
FIRST_STEP, MIN_STEP, MAX_STEP = 0.5, 1e-4, 1.0  # step sizes of the leapfrog
CHANGE, MEMORY = 1.02, 0.9  # per transition among 1,000 temperatures: of the step size, and of the mean acceptance


class State(NamedTuple):
    """The state of the chains: z (C, B, Z), log p(x | z) (C, B), and its gradient with respect to z (C, B, Z)."""

    z: Tensor
    log_p: Tensor
    gradient: Tensor


def schedule(temperatures: int, name: Schedule = "sigmoid") -> Tensor:
    """Return beta_0 = 0, ..., beta_T = 1 (T + 1,) float64: linear, or a sigmoid of even steps from -4 to 4."""
    if name == "linear":
        return torch.linspace(0, 1, temperatures + 1, dtype=torch.float64)
    gamma = torch.linspace(-4, 4, temperatures + 1, dtype=torch.float64).sigmoid()
    return (gamma - gamma[0]) / (gamma[-1] - gamma[0])


def state_at(z: Tensor, log_likelihood: LogLikelihood) -> State:
    """Return the state of chains at z (C, B, Z)."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        log_p = log_likelihood(z)
        (gradient,) = torch.autograd.grad(log_p.sum(), z)
    return State(z.detach(), log_p.detach(), gradient)


def hmc_transition(state: State, beta: float, step_size: Tensor, log_likelihood: LogLikelihood) -> tuple[State, Tensor]:
    """Return the state after a transition that leaves N(z; 0, I) p(x | z)^beta invariant, and its acceptance (C, B).

    Hamiltonian Monte Carlo (MCMC using Hamiltonian dynamics, 2011) with leapfrog steps of `step_size` (B,).
    """
    step, proposal = step_size.to(state.z.dtype)[:, None], state
    start = v = torch.randn_like(state.z)
    for _ in range(LEAPFROG_STEPS):
        v = v + 0.5 * step * (beta * proposal.gradient - proposal.z)
        proposal = state_at(proposal.z + step * v, log_likelihood)
        v = v + 0.5 * step * (beta * proposal.gradient - proposal.z)
    acceptance = torch.exp(log_density(proposal, v, beta) - log_density(state, start, beta)).nan_to_num(0).clamp(max=1)
    accepted = torch.rand_like(acceptance) < acceptance
    accepted_z = accepted.unsqueeze(-1)
    return State(*map(torch.where, (accepted_z, accepted, accepted_z), proposal, state)), acceptance


def log_density(state: State, v: Tensor, beta: float) -> Tensor:
    """Return log N(z; 0, I) N(v; 0, I) p(x | z)^beta up to a constant, v (C, B, Z) -> (C, B) nats, float64."""
    return beta * state.log_p.double() - 0.5 * (state.z.double() ** 2 + v.double() ** 2).sum(-1)


def tune_step_sizes(z: Tensor, betas: Tensor, log_likelihood: LogLikelihood) -> Tensor:
    """Return step sizes for each inner temperature and point (T - 1, B), from chains starting at z (C, B, Z) ~ N(0, I).

    After a transition the step size grows by a factor if the running mean of the acceptance is above 65 %, and shrinks
    by it otherwise. With fewer temperatures the factor is larger.
    """
    state, step_sizes = state_at(z, log_likelihood), list[Tensor]()
    step_size, mean = (
        torch.full(z.shape[1:2], value, dtype=torch.float64, device=z.device)
        for value in (FIRST_STEP, TARGET_ACCEPTANCE)
    )
    speedup = min(1000 / len(betas), 10)
    change, memory = CHANGE**speedup, MEMORY**speedup
    for beta in betas[1:-1].tolist():
        step_sizes.append(step_size)
        state, acceptance = hmc_transition(state, beta, step_size, log_likelihood)
        mean = memory * mean + (1 - memory) * acceptance.mean(0)
        step_size = (step_size * change ** (mean - TARGET_ACCEPTANCE).sign()).clamp(MIN_STEP, MAX_STEP)
    return torch.stack(step_sizes) if step_sizes else step_size.new_zeros(0, len(step_size))


def log_weights(
    z: Tensor, betas: Tensor, step_sizes: Tensor, log_likelihood: LogLikelihood, *, backwards: bool = False
) -> Tensor:
    """Return log w (C, B) float64 nats of chains starting at z (C, B, Z) from the prior; `backwards`: the posterior.

    Args:
        betas: beta_0, ..., beta_T.
        step_sizes: of the transitions at those between, (T - 1, B), tuned by other chains.
    """
    differences, inner = betas.diff(), betas[1:-1]
    if backwards:
        differences, inner, step_sizes = differences.flip(0), inner.flip(0), step_sizes.flip(0)
    state = state_at(z, log_likelihood)
    log_w = differences[0].item() * state.log_p.double()
    for difference, beta, step_size in zip(differences[1:].tolist(), inner.tolist(), step_sizes, strict=True):
        state, _ = hmc_transition(state, beta, step_size, log_likelihood)
        log_w += difference * state.log_p.double()
    return log_w


def lower_bound(log_w: Tensor) -> Tensor:
    """Return the log of the mean of forward weights, log_w (C, B) -> (B,) nats; at most log p(x) in expectation."""
    return log_w.logsumexp(0) - math.log(len(log_w))


def upper_bound(log_w: Tensor) -> Tensor:
    """Return minus the log of the mean inverse of reverse weights, (C, B) -> (B,); at least log p(x) in expectation."""
    return -lower_bound(-log_w)
