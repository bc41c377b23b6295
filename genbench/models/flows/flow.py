"""A normalizing flow: a bijection from data to a base density, after dequantization of integers.

Variational Inference with Normalizing Flows (2015); NICE (2015), eq. 1: log p(x) = log p(z) + log|det dz/dx|,
z = f(x). The models of the family differ only in their lists of bijections; the rest is here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from genbench.dataset import Space
from genbench.model import Model
from genbench.models.dequantization import Dequantization, DequantizationName, UniformDequantization
from genbench.models.flows.bijection import Bijection, Chain
from genbench.models.flows.densities import BASES, BaseName
from genbench.models.flows.monotone import MixtureCDF
from genbench.models.flows.normalization import Standardize
from genbench.models.flows.variational import VariationalDequantization

DEQUANTIZATIONS: dict[DequantizationName, Callable[[Space], Dequantization]] = {
    "uniform": UniformDequantization,
    "variational": VariationalDequantization,
}


class Logit(Bijection):
    """y = logit(a + (1 - 2a) x) of x in [0, 1] (Density estimation using Real NVP, 2017, section 4.1)."""

    def __init__(self, a: float = 0.05) -> None:
        super().__init__()
        self.a = a

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.logit(self.a + (1 - 2 * self.a) * x)
        return y, (math.log(1 - 2 * self.a) + softplus(y) + softplus(-y)).flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        return (torch.sigmoid(y) - self.a) / (1 - 2 * self.a)


class Flow(Model):
    """A density p(x) = p(z) |det dz/dx|, z = f(x), of real data; a lower bound for integers, by dequantization.

    Reals are standardized. Integers become reals in [0, 1] by dequantization, and the logit maps these to the line.

    Args:
        bijections: first to last, (B, *space.shape) -> (B, D).
        base: the density of each dimension of z.
        marginals: components of a monotone map that first makes each dimension normal on its own, the first step of
            Gaussianization (2000); 0 for no such map.
        dequantization: the distribution of the noise added to integers.
        alpha: of the logit, in [0, 1/2).
    """

    likelihood: Literal["exact", "bound", "estimate"] | None = "exact"

    def __init__(
        self,
        space: Space,
        bijections: Iterable[Bijection],
        base: BaseName = "normal",
        /,
        *,
        marginals: int = 0,
        dequantization: DequantizationName = "uniform",
        alpha: float = 0.05,
    ) -> None:
        super().__init__(space)
        self.base = BASES[base]
        first = Logit(alpha) if space.levels else Standardize(space)
        normalize = [MixtureCDF(space.shape, marginals)] if marginals else []
        self.bijection = Chain([first, *normalize, *bijections])
        if space.levels:
            self.likelihood = "bound"
            self.dequantization = DEQUANTIZATIONS[dequantization](space)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) in nats, x (B, *shape) -> (B,); for integers the lower bound log p(x + u) - log q(u | x)."""
        return self.bound(x)

    def log_weights(self, x: Tensor, k: int, first: int = 0) -> Tensor:
        """Return `k` such bounds with different u, x (B, *shape) -> (k, B) nats; for reals log p(x), (1, B)."""
        return torch.stack([self.bound(x, first + i) for i in range(k if self.space.levels else 1)])

    def bound(self, x: Tensor, draw: int = 0) -> Tensor:
        """Return log p(x), x (B, *shape) -> (B,); for integers log p(x + u) - log q(u | x), u of number `draw`."""
        x, log_q = self.dequantization(x, draw) if self.space.levels else (x, 0.0)
        z, logdet = self.bijection(x)
        log_p: Tensor = self.base.log_prob(z).flatten(1).sum(1) + logdet - log_q
        return log_p

    def sample(self, n: int) -> Tensor:
        """Return n samples (n, *shape), decoded from the base; integers where `space.levels` is set."""
        return self.decode(self.prior(n))

    @property
    def latent(self) -> int:
        """D, the dimension of z."""
        return self.space.dims

    def prior(self, n: int) -> Tensor:
        """Return n samples z (n, D) of the base."""
        return self.base.sample((n, self.space.dims)).to(self.device)

    def encode(self, x: Tensor) -> Tensor:
        """Return z = f(x), x (B, *shape) -> (B, D)."""
        z: Tensor = self.bijection(self.dequantization(x)[0] if self.space.levels else x)[0]
        return z

    def decode(self, z: Tensor) -> Tensor:
        """Return the inverse of f in data space, z (B, D) -> (B, *shape)."""
        x = self.bijection.inverse(z)
        return self.dequantization.inverse(x) if self.space.levels else x
