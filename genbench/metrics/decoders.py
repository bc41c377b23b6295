"""What log p(x) = log E p(x | z), z ~ N(0, I), takes of a model: p(x | z), or a generator and noise of stated size."""

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
    """G(z) + sigma eps, eps ~ N(0, I): a density of reals; rounded to the nearest integer of 0..K-1, a probability.

    The mass of an integer is that of the interval of length 1 around it, the edges taking the tails: it is on the axis
    of every other log p of integers. Sigma is in the data's own units.
    """

    generator: HasGenerator
    sigma: float

    @property
    def latent(self) -> int:
        """Numbers in z."""
        return self.generator.latent

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x | z) in nats, x (B, *shape), z (..., B, latent) -> (..., B)."""
        centre = self.generator.decode(z.flatten(0, -2)).view(*z.shape[:-1], -1)
        distance = (x.flatten(1) - centre) / self.sigma
        levels = self.generator.space.levels
        if levels is None:
            return -0.5 * (distance**2 + math.log(2 * math.pi * self.sigma**2)).sum(-1)
        first, last = (x.flatten(1) == edge for edge in (0, levels - 1))
        return log_mass(distance, 0.5 / self.sigma, first, last).sum(-1)

    def sample_x(self, z: Tensor) -> Tensor:
        """Return a draw of p(x | z) for each z (B, latent) -> (B, *shape) in the data's own type."""
        x = self.generator.decode(z)
        x = x + self.sigma * torch.randn_like(x)
        levels = self.generator.space.levels
        if levels is None:
            return x
        return x.round().clamp(0, levels - 1).to(torch.uint8 if levels <= 256 else torch.int64)


def log_mass(d: Tensor, half: float, first: Tensor, last: Tensor) -> Tensor:
    """Return log of Phi(d + half) - Phi(d - half), without the lower end where `first` and the upper where `last`.

    By symmetry it is taken on the left, where neither is near 1.
    """
    sign = torch.where(d > 0, -1.0, 1.0)
    d, low, high = sign * d, torch.where(d > 0, last, first), torch.where(d > 0, first, last)
    above: Tensor = log_ndtr(d + half).masked_fill(high, 0)
    below = log_ndtr(d - half).masked_fill(low, -math.inf)
    return above + torch.log(-torch.expm1(below - above))


def decoder_of(model: Model, sigma: float) -> tuple[HasDecoder | None, str]:
    """Return the model as a decoder, or None, and what is to be said of noise: nothing where it is the model's own."""
    if isinstance(model, HasDecoder):
        return model, ""
    if isinstance(model, HasGenerator):
        return NoisyGenerator(model, sigma * ((model.space.levels or 2) - 1)), f", sigma {sigma:g}"
    return None, ""
