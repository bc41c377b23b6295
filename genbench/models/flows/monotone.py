"""Monotone maps of one dimension: the distribution function of a mixture, then the quantile function of a target."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.special import log_ndtr, ndtri

from genbench.models.flows.bijection import Bijection, Shape
from genbench.models.flows.densities import BASES
from genbench.models.flows.mixture_cdf import LogisticMixture
from genbench.nets.first_batch import FirstBatchInit


class Target(NamedTuple):
    """A symmetric density on the real line.

    Attributes:
        quantile: log p -> y with mass p below it, for p <= 1/2.
        log_cdf: y -> log p.
        mirror: y -> its reflection at the center.
    """

    quantile: Callable[[Tensor], Tensor]
    log_cdf: Callable[[Tensor], Tensor]
    mirror: Callable[[Tensor], Tensor]


def normal_quantile(log_p: Tensor) -> Tensor:
    """Return y with log Phi(y) = log_p <= log 1/2; by Newton's method on log Phi where p underflows in float32."""
    y: Tensor = ndtri(log_p.exp())
    far = log_p <= -80
    if far.any():
        y[far] = far_quantile(log_p[far])
    return y


def far_quantile(log_p: Tensor) -> Tensor:
    """Return y with log Phi(y) = log_p far below log 1/2."""
    y = -(-2 * log_p).clamp(min=1).sqrt()
    for _ in range(5):
        log_F = log_ndtr(y)
        y = y - (log_F - log_p) * (log_F + 0.5 * (y * y + math.log(2 * math.pi))).exp()
    return y


def beta_log_cdf(y: Tensor) -> Tensor:
    """Return log I_y(5, 5) = log y^5 (126 - 420 y + 540 y^2 - 315 y^3 + 70 y^4)."""
    return 5 * y.log() + (126 + y * (-420 + y * (540 + y * (-315 + y * 70)))).log()


def beta_quantile(log_p: Tensor) -> Tensor:
    """Return y with log I_y(5, 5) = log_p <= log 1/2; in log y it is concave: Newton's method converges."""
    v = (log_p - math.log(126)) / 5
    for _ in range(8):
        y = v.exp()
        f = beta_log_cdf(y) - log_p
        v = v - f * (beta_log_cdf(y) - math.log(630) - 5 * v - 4 * torch.log1p(-y)).exp()
    return v.exp()


TARGETS: dict[str, Target] = {
    "uniform": Target(torch.exp, torch.log, lambda y: 1 - y),
    "beta": Target(beta_quantile, beta_log_cdf, lambda y: 1 - y),
    "normal": Target(normal_quantile, log_ndtr, lambda y: -y),
}


def dimensions_first(x: Tensor) -> Tensor:
    """Return x (B, *shape) as (D, B): a row for each dimension, along which the mixture is the same."""
    return x.flatten(1).T.contiguous()


class MixtureCDF(FirstBatchInit, Bijection):
    """y = Q(F(x)) in each dimension: F a mixture of logistics, Q the quantile function of `base`.

    log dy/dx = log F'(x) - log p(y). The components start at quantiles of the first batch.
    """

    def __init__(self, shape: Shape, components: int, base: Literal["uniform", "beta", "normal"] = "normal") -> None:
        super().__init__()
        self.target, self.log_p = TARGETS[base], BASES[base].log_prob
        self.bounded = base != "normal"
        D = math.prod(shape)
        self.logits = nn.Parameter(torch.zeros(components, D))
        self.mu = nn.Parameter(torch.linspace(-1, 1, components).unsqueeze(1).repeat(1, D))
        self.log_sigma = nn.Parameter(torch.zeros(components, D))

    @property
    def mixture(self) -> LogisticMixture:
        """The mixture of each dimension, its tensors (K, D, 1)."""
        log_w, mu, log_sigma = self.logits.log_softmax(0), self.mu, self.log_sigma
        return LogisticMixture(log_w.unsqueeze(2), mu.unsqueeze(2), log_sigma.unsqueeze(2))

    def initialize(self, x: Tensor) -> None:
        """Place the components at evenly spaced quantiles of x (B, *shape)."""
        x, K = x.flatten(1), len(self.mu)
        levels = (torch.arange(K, dtype=x.dtype, device=x.device) + 0.5) / K
        self.mu.copy_(x.quantile(levels, dim=0))
        self.log_sigma.copy_((x.std(0, correction=0) / K + 1e-6).log().expand_as(self.mu))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.initialize_once(x)
        lower, upper, density = self.mixture.log_cdf(dimensions_first(x))
        y = self.target_quantile(lower, upper)
        return y.T.reshape(x.shape), (density - self.log_p(y)).sum(0)

    def target_quantile(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return y with mass e^lower below and e^upper above it, with the gradient dy = dF / p(y)."""
        left, tail = lower < upper, torch.minimum(lower, upper)
        with torch.no_grad():
            half = self.clamped(self.target.quantile(tail))
            y = torch.where(left, half, self.target.mirror(half))
            slope = torch.where(left, 1.0, -1.0) * (tail - self.log_p(half)).exp()
        return y + slope * (tail - tail.detach())

    def clamped(self, y: Tensor) -> Tensor:
        """Return y, moved off the ends of a bounded base, to which float32 may round it."""
        eps = torch.finfo(y.dtype).eps
        return y.clamp(eps, 1 - eps) if self.bounded else y

    def inverse(self, y: Tensor) -> Tensor:
        shape, y = y.shape, self.clamped(dimensions_first(y))
        mirrored = self.target.mirror(y)
        tail = self.target.log_cdf(torch.minimum(y, mirrored))
        complement = torch.log1p(-tail.exp())
        logit = torch.where(y < mirrored, tail - complement, complement - tail)
        return self.mixture.quantile(logit).T.reshape(shape)
