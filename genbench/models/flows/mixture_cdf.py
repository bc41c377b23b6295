"""The distribution function of a mixture of logistics, its inverse, and a map of entries made of them.

Used one dimension at a time (Gaussianization, 2000) and in couplings (Flow++, 2019, section 3.2). Components are the
first dimension of every tensor that has some, so that sums over them run along the entries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from genbench.fastpath import accelerated
from genbench.models.flows.elementwise import Elementwise, parameters_first
from genbench.nets.precision import at_least_float32

LOG_SIGMA_LIMIT, LOG_SCALE_LIMIT = 6.0, 3.0  # bounds on how far a network can move log sigma, and s


class LogisticMixture(NamedTuple):
    """F(x) = sum_k w_k sigmoid((x - mu_k) / sigma_k), a distribution function for each entry.

    log_w (normalized), mu and log_sigma (K, ...) broadcast with x.
    """

    log_w: Tensor
    mu: Tensor
    log_sigma: Tensor

    def log_terms(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logarithms of each component's terms in F, 1 - F and F', (K, ...)."""
        z = (x - self.mu) * (-self.log_sigma).exp()
        log_sigmoid = logsigmoid(z)
        lower = self.log_w + log_sigmoid
        upper = self.log_w + (log_sigmoid - z)  # log sigmoid(-z); far below, where log sigmoid(z) = z, it is exactly 0
        return lower, upper, upper + log_sigmoid - self.log_sigma

    @accelerated
    def log_cdf(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log F(x), log(1 - F(x)) and log F'(x), as x; both tails are accurate in the logarithm."""
        lower, upper, density = self.log_terms(x)
        return lower.logsumexp(0), upper.logsumexp(0), density.logsumexp(0)

    @torch.no_grad()
    def quantile(self, logit: Tensor, *, max_iterations: int = 100) -> Tensor:
        """Return x with log F(x) - log(1 - F(x)) = logit, as logit.

        Newton's method on logit F, which is linear in either tail. The quantile of a mixture lies between those of its
        components: this interval is bisected where a Newton step would leave it, and every fourth time.
        """
        ends = self.mu + self.log_sigma.exp() * logit
        low, high = ends.amin(0), ends.amax(0)
        x, eps = (self.log_w.exp() * ends).sum(0).clamp(low, high), 4 * torch.finfo(logit.dtype).eps
        done = torch.zeros_like(x, dtype=torch.bool)
        for i in range(max_iterations):
            lower, upper, density = self.log_cdf(x)
            excess = lower - upper - logit
            low, high = torch.where(excess > 0, low, x), torch.where(excess > 0, x, high)
            newton, tolerance = x - excess * (lower + upper - density).exp(), eps * (1 + x.abs())
            inside = (low <= newton) & (newton <= high)
            small_step = ((newton - x).abs() <= tolerance) | (high - low <= tolerance)
            converged = (excess.abs() <= eps * (1 + logit.abs())) | small_step
            middle = torch.where(converged, x, (low + high) / 2)
            x = torch.where(done, x, torch.where(inside & (converged | (i % 4 < 3)), newton, middle))
            done |= converged
            if done.all():
                break
        return x


@dataclass(frozen=True)
class MixtureLogit(Elementwise):
    """y = e^s logit F(x) + t with F a mixture of K logistics (Flow++, 2019, eq. 12-14)."""

    K: int

    @property
    def parameters(self) -> int:
        return 3 * self.K + 2

    @property
    def start_log_sigma(self) -> float:
        """Log sigma of the components where the parameters are zero; mu is then spread evenly over [-2, 2].

        Few components are wide enough to keep logit F near x; many are as wide as their distance, since narrow
        components learn sharp edges sooner.
        """
        return math.log(min(0.75, 4 / self.K)) if self.K > 1 else 0.0

    def unpack(self, p: Tensor) -> tuple[LogisticMixture, Tensor, Tensor]:
        """Return the mixture (K, N), s (N,) and t (N,) of the parameters p (3K + 2, N) of N entries."""
        K = self.K
        logits, mu, log_sigma, affine = p.split((K, K, K, 2))
        start_mu = torch.linspace(-2, 2, K, dtype=p.dtype, device=p.device) if K > 1 else p.new_zeros(1)
        log_sigma = soft_clamp(log_sigma, LOG_SIGMA_LIMIT) + self.start_log_sigma
        mixture = LogisticMixture(logits.log_softmax(0), mu + start_mu.unsqueeze(1), log_sigma)
        return mixture, soft_clamp(affine[0], LOG_SCALE_LIMIT), affine[1]

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        x, params = at_least_float32(x), at_least_float32(params)
        mixture, s, t = self.unpack(parameters_first(params, self.parameters))
        lower, upper, density = mixture.log_cdf(x.reshape(-1))
        y, log_slope = s.exp() * (lower - upper) + t, s + density - lower - upper
        return y.view_as(x), log_slope.view_as(x).flatten(1).sum(1)

    def inverse(self, y: Tensor, params: Tensor) -> Tensor:
        y, params = at_least_float32(y), at_least_float32(params)
        mixture, s, t = self.unpack(parameters_first(params, self.parameters))
        return mixture.quantile((y.reshape(-1) - t) * (-s).exp()).view_as(y)


def soft_clamp(v: Tensor, limit: float) -> Tensor:
    """Return v smoothly bounded by +-limit; near 0 it is v."""
    return limit * torch.tanh(v / limit)
