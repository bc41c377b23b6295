"""Annealed importance sampling of p(x) = E p(x | z), z ~ N(0, I), from the prior to the posterior and back.

Annealed Importance Sampling (2001): a chain z_1, ..., z_T starts at the prior and takes one step of Hamiltonian Monte
Carlo at each of f_t(z) = N(z; 0, I) p(x | z)^beta_t, 0 = beta_0 < beta_1 < ... < beta_T = 1. Its weight

    log w = sum_t (beta_t - beta_(t-1)) log p(x | z_t),    z_1 ~ N(0, I), z_(t+1) ~ f_t-invariant from z_t,

has E w = p(x), so that log w, and the log of the mean of several, is below log p(x) in expectation. The same chain
backwards, from z_T of the posterior, has E 1/w = 1/p(x), and is above it (Sandwiching the marginal likelihood using
bidirectional Monte Carlo, 2015). Schedules and moves are those of On the Quantitative Analysis of Decoder-Based
Generative Models (2017), and most numbers below those of its code.

Both bounds need moves that do not depend on the chain that makes them: step sizes are found by chains of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

LogLikelihood = Callable[[Tensor], Tensor]  # z (C, B, Z) -> log p(x | z) (C, B) in nats, of B points x
Schedule = Literal["sigmoid", "linear"]

LEAPS = 10  # of the leapfrog in a move
TARGET = 0.65  # acceptance
STEP, SMALLEST, LARGEST = 0.5, 1e-4, 1.0  # size of a leap: the first, and where it ends
CHANGE, MEMORY = 1.02, 0.9  # of a leap, and of the mean acceptance, by a move among 1,000 temperatures


class State(NamedTuple):
    """Where chains are: z (C, B, Z), log p(x | z) (C, B), and its gradient in z (C, B, Z)."""

    z: Tensor
    log_p: Tensor
    gradient: Tensor


def schedule(temperatures: int, name: Schedule = "sigmoid") -> Tensor:
    """Return beta_0 = 0, ..., beta_T = 1 (T + 1,) float64: even, or a logistic function of even steps from -4 to 4."""
    if name == "linear":
        return torch.linspace(0, 1, temperatures + 1, dtype=torch.float64)
    gamma = torch.linspace(-4, 4, temperatures + 1, dtype=torch.float64).sigmoid()
    return (gamma - gamma[0]) / (gamma[-1] - gamma[0])


def at(z: Tensor, log_likelihood: LogLikelihood) -> State:
    """Return the state of chains at z (C, B, Z)."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        log_p = log_likelihood(z)
        (gradient,) = torch.autograd.grad(log_p.sum(), z)
    return State(z.detach(), log_p.detach(), gradient)


def move(state: State, beta: float, step: Tensor, log_likelihood: LogLikelihood) -> tuple[State, Tensor]:
    """Return the state after one move that leaves N(z; 0, I) p(x | z)^beta invariant, and its acceptance (C, B).

    Hamiltonian Monte Carlo (MCMC using Hamiltonian dynamics, 2011) with leaps of size `step` (B,).
    """
    leap, new = step.to(state.z.dtype)[:, None], state
    start = v = torch.randn_like(state.z)
    for _ in range(LEAPS):
        v = v + 0.5 * leap * (beta * new.gradient - new.z)
        new = at(new.z + leap * v, log_likelihood)
        v = v + 0.5 * leap * (beta * new.gradient - new.z)
    accept = torch.exp(log_density(new, v, beta) - log_density(state, start, beta)).nan_to_num(0).clamp(max=1)
    taken = torch.rand_like(accept) < accept
    wide = taken.unsqueeze(-1)
    kept = State(*map(torch.where, (wide, taken, wide), new, state))
    return kept, accept


def log_density(state: State, v: Tensor, beta: float) -> Tensor:
    """Return log N(z; 0, I) N(v; 0, I) p(x | z)^beta but for a constant, v (C, B, Z) -> (C, B) nats, float64."""
    return beta * state.log_p.double() - 0.5 * (state.z.double() ** 2 + v.double() ** 2).sum(-1)


def steps(z: Tensor, betas: Tensor, log_likelihood: LogLikelihood) -> Tensor:
    """Return sizes of leaps for each inner temperature and point (T - 1, B), by chains from z (C, B, Z) of the prior.

    A size grows by a factor after a move if the running mean of the acceptance is above 65 %, and shrinks by it if not;
    among fewer temperatures, in larger steps.
    """
    state, found = at(z, log_likelihood), list[Tensor]()
    step, mean = (torch.full(z.shape[1:2], value, dtype=torch.float64, device=z.device) for value in (STEP, TARGET))
    hurry = min(1000 / len(betas), 10)
    change, memory = CHANGE**hurry, MEMORY**hurry
    for beta in betas[1:-1].tolist():
        found.append(step)
        state, accept = move(state, beta, step, log_likelihood)
        mean = memory * mean + (1 - memory) * accept.mean(0)
        step = (step * change ** (mean - TARGET).sign()).clamp(SMALLEST, LARGEST)
    return torch.stack(found) if found else step.new_zeros(0, len(step))


def weights(
    z: Tensor, betas: Tensor, steps: Tensor, log_likelihood: LogLikelihood, *, backwards: bool = False
) -> Tensor:
    """Return log w of chains from z (C, B, Z) of the prior, or `backwards` of the posterior, (C, B) float64 nats.

    Args:
        betas: beta_0, ..., beta_T.
        steps: of the moves at those between, (T - 1, B), as found by other chains.
    """
    rises, inner = betas.diff(), betas[1:-1]
    if backwards:
        rises, inner, steps = rises.flip(0), inner.flip(0), steps.flip(0)
    state = at(z, log_likelihood)
    log_w = rises[0].item() * state.log_p.double()
    for rise, beta, step in zip(rises[1:].tolist(), inner.tolist(), steps, strict=True):
        state, _ = move(state, beta, step, log_likelihood)
        log_w += rise * state.log_p.double()
    return log_w


def lower(log_w: Tensor) -> Tensor:
    """Return the log of the mean of forward weights, log_w (C, B) -> (B,) nats; at most log p(x) in expectation."""
    return log_w.logsumexp(0) - math.log(len(log_w))


def upper(log_w: Tensor) -> Tensor:
    """Return minus the log of the mean inverse of reverse weights, (C, B) -> (B,); at least log p(x) in expectation."""
    return -lower(-log_w)
