"""The density p(x | z) that AIS needs from a model: its own, or that of a generator with added noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.special import log_ndtr

from genbench.capabilities import HasDecoder, HasGenerator
from genbench.model import Model


@dataclass
class NoisyGenerator:
    """p(x | z) of G(z) + sigma eps, eps ~ N(0, I): a density of reals, or a probability of integers 0..K-1 by rounding.

    The probability of an integer is the mass of the interval of length 1 around it, and the first and the last integer
    take the tails, so that values are comparable with every other log p of integers. Sigma is in the data's own units.
    """

    generator: HasGenerator
    sigma: float

    @property
    def latent(self) -> int:
        """Z, the number of dimensions of z."""
        return self.generator.latent

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x | z) in nats, x (B, *shape), z (..., B, latent) -> (..., B)."""
        mean = self.generator.decode(z.flatten(0, -2)).view(*z.shape[:-1], -1)
        distance = (x.flatten(1) - mean) / self.sigma
        levels = self.generator.space.levels
        if levels is None:
            return -0.5 * (distance**2 + math.log(2 * math.pi * self.sigma**2)).sum(-1)
        first, last = (x.flatten(1) == edge for edge in (0, levels - 1))
        return log_mass(distance, 0.5 / self.sigma, first, last).sum(-1)

    def sample_x(self, z: Tensor) -> Tensor:
        """Return one draw from p(x | z) for each z (B, latent) -> (B, *shape), in the data's own type."""
        x = self.generator.decode(z)
        x = x + self.sigma * torch.randn_like(x)
        levels = self.generator.space.levels
        if levels is None:
            return x
        return x.round().clamp(0, levels - 1).to(torch.uint8 if levels <= 256 else torch.int64)


def log_mass(d: Tensor, half: float, first: Tensor, last: Tensor) -> Tensor:
    """Return log(Phi(d + half) - Phi(d - half)); Phi(d - half) is 0 where `first`, and Phi(d + half) is 1 where `last`.

    By symmetry it is computed on the left side of the normal, where neither term is near 1.
    """
    sign = torch.where(d > 0, -1.0, 1.0)
    d, low, high = sign * d, torch.where(d > 0, last, first), torch.where(d > 0, first, last)
    above: Tensor = log_ndtr(d + half).masked_fill(high, 0)
    below = log_ndtr(d - half).masked_fill(low, -math.inf)
    return above + torch.log(-torch.expm1(below - above))


def decoder_of(model: Model, sigma: float) -> tuple[HasDecoder | None, str]:
    """Return the model as a decoder, or None, and what `impl` states about added noise: "" if there is none."""
    if isinstance(model, HasDecoder):
        return model, ""
    if isinstance(model, HasGenerator):
        return NoisyGenerator(model, sigma * ((model.space.levels or 2) - 1)), f", sigma {sigma:g}"
    return None, ""
