"""The distribution function of a mixture of logistics, and its inverse.

Used one dimension at a time (Gaussianization, 2000) and in couplings (Flow++, 2019, section 3.2).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def log_cdf(x: Tensor, log_w: Tensor, mu: Tensor, log_sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log F(x), log(1 - F(x)) and log F'(x), as x.

    F(x) = sum_k w_k sigmoid((x - mu_k) / sigma_k). The components are the last dimension of log_w (normalised), mu
    and log_sigma (..., K), which broadcast with x (..., 1). Both tails are exact in the logarithm.
    """
    z = (x.unsqueeze(-1) - mu) * (-log_sigma).exp()
    below = logsigmoid(z)
    above = below - z  # log sigmoid(-z)
    parts = (log_w + below, log_w + above, log_w + below + above - log_sigma)
    lower, upper, density = (part.logsumexp(-1) for part in parts)
    return lower, upper, density


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
