"""Probabilities of cells under Gaussians: the exact probability of integers under a density of reals.

The cell of an integer is an interval in each dimension. With Sigma^-1 = U U^T, U upper triangular, and z = (x - mu) U,
which is N(0, I), a cell is a product of intervals of z if Sigma is diagonal. In two dimensions, with
gamma = U_12 / U_11,

    P = int_A^B phi(t) [Phi(beta + gamma t) - Phi(alpha + gamma t)] dt,

[A, B] and [alpha, beta] the intervals of x_1 and x_2 minus mu, times U_11 and U_22. The integrand is log-concave: the
panels of Gauss-Legendre quadrature get finer towards its mode and towards both steps of Phi, whatever their scales.
Beyond two dimensions quadrature is too expensive (Numerical Computation of Multivariate Normal Probabilities, 1992).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.special import log_ndtr

INFINITY = 1e6  # a finite stand-in, in units of the range of integers
REACH = 9.0  # distance from the mode beyond which the integrand is below e^-40 of its maximum
PANELS, NODES = 12, 8  # panels on each side of the mode, and nodes per panel
STEP_EDGES = torch.tensor([-8.0, -4, -2, -1, 0, 1, 2, 4, 8], dtype=torch.float64)  # panel edges around a step of Phi


def cell_bounds(k: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Return lower and upper ends of the cells of integers k, in units of their range, float64; shapes as k.

    The outermost cells extend to infinity.
    """
    low, high = k.double() / levels, (k.double() + 1) / levels
    return low.masked_fill(k == 0, -INFINITY), high.masked_fill(k == levels - 1, INFINITY)


def log_interval(low: Tensor, high: Tensor) -> Tensor:
    """Return log(Phi(high) - Phi(low)), low < high, accurate in both tails: positive intervals are mirrored."""
    right = low > 0
    low, high = torch.where(right, -high, low), torch.where(right, -low, high)
    above: Tensor = log_ndtr(high)
    return above + torch.log(-torch.expm1(log_ndtr(low) - above))


def log_boxes(low: Tensor, high: Tensor, mu: Tensor, U: Tensor, diagonal: bool) -> Tensor:
    """Return log P(low < x < high) under each N(mu, (U U^T)^-1), low, high (B, D), mu (K, D), U (K, D, D) -> (K, B).

    All U must be diagonal, with `diagonal` true, or D at most 2.
    """
    rates = U.diagonal(dim1=1, dim2=2)[:, None]
    a, b = ((end - mu[:, None]) * rates for end in (low, high))  # (K, B, D)
    if diagonal or a.shape[2] == 1:
        return log_interval(a, b).sum(2)
    gamma = (U[:, 0, 1] / U[:, 0, 0])[:, None].expand(a.shape[:2])
    return log_rectangle(a[..., 0], b[..., 0], a[..., 1], b[..., 1], gamma)


def log_rectangle(A: Tensor, B: Tensor, alpha: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
    """Return the log of the integral P in the module docstring; all arguments have one shape."""

    def log_integrand(t: Tensor) -> Tensor:
        shift = gamma.unsqueeze(-1) * t
        mass = log_interval(alpha.unsqueeze(-1) + shift, beta.unsqueeze(-1) + shift)
        return mass - 0.5 * (t**2 + math.log(2 * math.pi))

    x, w = (torch.from_numpy(a).to(A) for a in np.polynomial.legendre.leggauss(NODES))
    with torch.no_grad():
        edges = panel_edges(A, B, alpha, beta, gamma)
    edges = torch.minimum(torch.maximum(edges, A.unsqueeze(-1)), B.unsqueeze(-1))  # with gradients to A and B
    half = edges.diff(dim=-1).unsqueeze(-1) / 2
    t = (edges[..., :-1].unsqueeze(-1) + half * (1 + x)).flatten(-2)
    values, weights = log_integrand(t), (half * w).flatten(-2)
    largest = values.detach().amax(-1, keepdim=True)
    return largest.squeeze(-1) + (weights * (values - largest).exp()).sum(-1).log()


def panel_edges(A: Tensor, B: Tensor, alpha: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
    """Return sorted edges of panels (..., P) around the mode and the steps at -alpha / gamma and -beta / gamma."""
    mode, slope = find_mode(A, B, alpha, beta, gamma)
    finest = 0.1 / (2 + slope.abs())
    fraction = torch.arange(PANELS + 1, device=A.device) / PANELS
    distances = REACH * (finest / REACH).unsqueeze(-1) ** fraction
    steep = torch.where(gamma.abs() < 1e-9, 1e-9, gamma).unsqueeze(-1)
    steps = [(STEP_EDGES.to(A) - end.unsqueeze(-1)) / steep for end in (alpha, beta)]
    center = mode.unsqueeze(-1)
    edges = torch.cat((center - distances, center, center + distances, *steps), -1)
    return torch.minimum(torch.maximum(edges, center - REACH), center + REACH).sort(-1).values


def find_mode(A: Tensor, B: Tensor, alpha: Tensor, beta: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the integrand is largest in [A, B], by bisection, and the slope of its logarithm at that point."""

    def slope(t: Tensor) -> Tensor:
        low, high = alpha + gamma * t, beta + gamma * t
        log_norm = log_interval(low, high) + 0.5 * math.log(2 * math.pi)
        return gamma * ((-0.5 * high**2 - log_norm).exp() - (-0.5 * low**2 - log_norm).exp()) - t

    nearest = torch.zeros_like(A).clamp(A, B)
    mass = log_interval(alpha + gamma * nearest, beta + gamma * nearest)
    reach = (nearest**2 - 2 * mass).sqrt()  # the integrand is at least as large at the mode as at `nearest`
    left, right = torch.maximum(A, -reach), torch.minimum(B, reach)
    for _ in range(60):
        middle = (left + right) / 2
        rises = slope(middle) > 0
        left, right = torch.where(rises, middle, left), torch.where(rises, right, middle)
    mode = (left + right) / 2
    return mode, slope(mode)
