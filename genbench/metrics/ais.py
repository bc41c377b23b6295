"""Annealed importance sampling: log p(x) of any decoder of z ~ N(0, I), between two bounds.

On the Quantitative Analysis of Decoder-Based Generative Models (2017). `ais` takes 100 test points, 16 chains and 1,000
temperatures: minutes; `ais:quick` what a core does in seconds. The chains know nothing of q(z | x), so that a q that is
wrong does not matter as to L_k, and `ais_gap_nats` says how much they can miss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.special import log_ndtr

from genbench.annealing import lower, schedule, steps, upper, weights
from genbench.dataset import Space
from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.metrics.likelihood import mean
from genbench.model import Model

__all__ = ["ais", "quick"]

ROWS = 2048  # chains run at a time
PILOTS = 2  # chains of a point that find the sizes of leaps
SIGMA = 0.1  # of the noise of a generator that has none, in units of the range of integers, or of reals


@runtime_checkable
class Decoder(Protocol):
    """A model of z ~ N(0, I), z (..., B, latent), with p(x | z) and draws of it."""

    @property
    def latent(self) -> int: ...
    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor: ...
    def observed(self, z: Tensor) -> Tensor: ...


@runtime_checkable
class Generator(Protocol):
    """A model that only has x = G(z), z ~ N(0, I), z (B, latent), in the data's own units."""

    space: Space

    @property
    def latent(self) -> int: ...
    def generate(self, z: Tensor) -> Tensor: ...
    def decode(self, z: Tensor) -> Tensor: ...


@dataclass
class Noisy:
    """G(z) + sigma eps, eps ~ N(0, I): a density of reals; rounded to the nearest integer of 0..K-1, a probability.

    The mass of an integer is that of the interval of length 1 around it, the edges taking the tails: it is on the axis
    of every other log p of integers. Sigma is in the data's own units.
    """

    generator: Generator
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

    def observed(self, z: Tensor) -> Tensor:
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


@dataclass
class Chains:
    """Chains of a decoder at temperatures beta_0, ..., beta_T, `number` of them for each point."""

    decoder: Decoder
    betas: Tensor
    number: int
    dtype: torch.dtype

    def prior(self, *size: int) -> Tensor:
        """Return z (*size, latent) of N(0, I)."""
        return torch.randn(*size, self.decoder.latent, dtype=self.dtype, device=self.betas.device)

    def below(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return lower bounds on log p(x), x (B, *shape) -> (B,) nats, and the sizes of leaps (T - 1, B)."""
        log_p = partial(self.decoder.log_likelihood, x)
        leaps = steps(self.prior(PILOTS, len(x)), self.betas, log_p)
        return lower(weights(self.prior(self.number, len(x)), self.betas, leaps, log_p)), leaps

    def gap(self, n: int) -> Tensor:
        """Return upper less lower bounds on log p of n points that the decoder draws, (n,) nats."""
        z = self.prior(n)
        x = self.decoder.observed(z)
        low, leaps = self.below(x)
        back = z.expand(self.number, -1, -1)
        return upper(weights(back, self.betas, leaps, partial(self.decoder.log_likelihood, x), backwards=True)) - low


def measure(
    evaluation: Evaluation, points: int, drawn: int, chains: int, temperatures: int, sigma: float = SIGMA
) -> dict[str, Measurement]:
    """Return bounds on log p by chains from the prior to the posterior; nothing for a model without such a decoder.

    - ais_nats: of a test point, -log of the mean weight of its chains; at least -log p(x) in expectation.
    - ais_bpd: the same in bits/dim, where data are integers.
    - ais_gap_nats: of a point that the model draws with a z that is then known, the upper bound on log p(x) by chains
      back from that z, less the lower bound. In expectation neither bound is further than that from log p(x).

    A generator has no density of its own. Its numbers are those of G(z) with noise of `sigma`, in units of the range of
    integers or of reals, as `impl` says; they are an estimate, for its samples have no such noise.

    Raises:
        ArithmeticError: the bounds are not finite.
    """
    decoder, noise = decoder_of(evaluation.model, sigma)
    if decoder is None:
        return {}
    dtype = next(p.dtype for p in evaluation.model.parameters() if p.is_floating_point())
    each = Chains(decoder, schedule(temperatures).to(evaluation.device), chains, dtype)
    x, size, space = evaluation.dataset.test[:points], ROWS // chains, evaluation.dataset.space
    with torch.no_grad():
        log_p = torch.cat([each.below(batch)[0] for batch in evaluation.batches(x, size)]).cpu()
        gap = torch.cat([each.gap(len(part)) for part in torch.arange(drawn).split(size)]).cpu()
    impl = f"ais 1, {chains} chains, {temperatures} temperatures{noise}"
    said = partial(mean, kind="estimate" if noise else "bound", impl=impl)
    found = {"ais_nats": said(-log_p, unit="nats"), "ais_gap_nats": said(gap, unit="nats")}
    if space.levels is not None:
        found["ais_bpd"] = said(-log_p / math.log(2) / space.dims, unit="bits/dim")
    return found


def decoder_of(model: Model, sigma: float) -> tuple[Decoder | None, str]:
    """Return the model as a decoder, or None, and what is to be said of noise: nothing where it is the model's own."""
    if isinstance(model, Decoder):
        return model, ""
    if isinstance(model, Generator):
        return Noisy(model, sigma * ((model.space.levels or 2) - 1)), f", sigma {sigma:g}"
    return None, ""


ais = Metric(partial(measure, points=200, drawn=100, chains=16, temperatures=1000))
quick = Metric(partial(measure, points=200, drawn=32, chains=2, temperatures=150))
