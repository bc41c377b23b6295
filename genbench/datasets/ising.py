"""The Ising model on a small torus: images with exactly known probabilities and entropy.

Crystal statistics I (Onsager, 1944); Statistical mechanics of the two-dimensional Ising model by the transfer matrix
of Kramers and Wannier (1941). Spins s = +-1 on L x L sites, each with four neighbors, periodic at the edges, have

    p(s) = exp(beta sum_<ij> s_i s_j) / Z,    Z = tr T^L,    T[r, r'] = exp(beta (E(r) + s_r . s_r'))

r and r' the 2^L states of two successive rows, E(r) the sum of s_j s_j+1 around row r.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Generator, Tensor

from genbench.dataset import Dataset, Space

__all__ = ["ising"]

SIDE = 8
CRITICAL = math.log(1 + math.sqrt(2)) / 2  # critical beta of the infinite lattice, where correlations are longest
SPLIT_SIZES = [50_000, 5_000, 5_000]  # train, validation, test
SEED = 0


@functools.cache
def ising() -> Dataset:
    """The Ising model on an 8x8 torus at the critical temperature, black and white, with exactly known entropy.

    All images are exact, independent samples. x (N, 1, 8, 8) uint8, 1 where the spin is up.
    """
    x = sample(sum(SPLIT_SIZES), SIDE, CRITICAL, torch.Generator().manual_seed(SEED))
    train, validation, test = torch.split(x, SPLIT_SIZES)
    truth = functools.partial(log_prob, beta=CRITICAL, log_z=log_partition(SIDE, CRITICAL))
    space = Space((1, SIDE, SIDE), levels=2)
    return Dataset(space, train, validation, test, log_prob=truth, entropy=entropy(SIDE, CRITICAL))


def log_prob(x: Tensor, *, beta: float, log_z: float) -> Tensor:
    """Return log p(x) in nats, x (B, 1, L, L) of 0 and 1 -> (B,) float64."""
    s = 2 * x.double() - 1
    bonds = s * (s.roll(1, -1) + s.roll(1, -2))
    return beta * bonds.flatten(1).sum(1) - log_z


def rows(side: int) -> Tensor:
    """Return the spins of all states of a row, (2^L, L) float64."""
    states = torch.arange(2**side)
    return 2.0 * (states[:, None] >> torch.arange(side) & 1).double() - 1


def transfer_matrix(side: int, beta: Tensor | float) -> Tensor:
    """Return the transfer matrix T (2^L, 2^L)."""
    s = rows(side)
    return (beta * ((s * s.roll(1, 1)).sum(1, keepdim=True) + s @ s.T)).exp()


def log_partition(side: int, beta: float) -> float:
    """Return log Z in nats."""
    return float(torch.linalg.matrix_power(transfer_matrix(side, beta), side).trace().log())


def entropy(side: int, beta: float) -> float:
    """Return the entropy in nats: log Z - beta d log Z / d beta."""
    b = torch.tensor(beta, dtype=torch.float64, requires_grad=True)
    log_z = torch.linalg.matrix_power(transfer_matrix(side, b), side).trace().log()
    (bonds,) = torch.autograd.grad(log_z, b)
    return float(log_z.detach() - beta * bonds)


def sample(n: int, side: int, beta: float, generator: Generator) -> Tensor:
    """Return n independent samples (n, 1, L, L) uint8, generated row by row.

    The first row r has probability (T^L)[r, r] / Z. The probability of row k + 1 given row k is proportional to
    T[row k, .] (T^(L-k))[., first row], which closes the torus.
    """
    T = transfer_matrix(side, beta)
    powers = [torch.linalg.matrix_power(T, k) for k in range(side + 1)]
    first = sample_indices(powers[side].diagonal().expand(n, -1), generator)
    states = [first]
    for k in range(1, side):
        states.append(sample_indices(T[states[-1]] * powers[side - k].T[first], generator))
    return (rows(side)[torch.stack(states, 1)] > 0).to(torch.uint8).unsqueeze(1)


def sample_indices(weights: Tensor, generator: Generator) -> Tensor:
    """Return a random index for each row of `weights` (n, K), with probability proportional to them, (n,)."""
    total = weights.cumsum(1)
    u = torch.rand(len(weights), 1, dtype=torch.float64, generator=generator) * total[:, -1:]
    return torch.searchsorted(total, u).squeeze(1).clamp(max=weights.shape[1] - 1)
