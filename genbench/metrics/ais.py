"""Annealed importance sampling: log p(x) of any decoder of z ~ N(0, I), between two bounds.

On the Quantitative Analysis of Decoder-Based Generative Models (2017). `ais` takes the first 200 test points, 16 chains
and 1,000 temperatures: a minute of a GPU, more than ten of a core; `ais:quick`, with 2 chains and 150 temperatures, ten
seconds of a core for small images. Unlike those of L_k, the draws are not of q(z | x), and need not be good to begin
with; `ais_gap_nats` says how much the chains miss. To compare the two bounds take both of the same points:
`likelihood:L1000_first200` beside `ais`, or any L_k where a test split has no more than 200.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from genbench.capabilities import HasDecoder
from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.metrics.annealing import lower, schedule, steps, upper, weights
from genbench.metrics.decoders import decoder_of
from genbench.metrics.likelihood import FIRST, mean, verdict
from genbench.suite import Kind

__all__ = ["ais", "quick"]

ROWS = 2048  # chains run at a time
PILOTS = 2  # chains of a point that find the sizes of leaps
SIGMA = 0.25  # of the noise of a generator that has none, in units of the range of integers, or of reals


@dataclass
class Chains:
    """Chains of a decoder at temperatures beta_0, ..., beta_T, `number` of them for each point."""

    decoder: HasDecoder
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
        x = self.decoder.sample_x(z)
        low, leaps = self.below(x)
        back = z.expand(self.number, -1, -1)
        return upper(weights(back, self.betas, leaps, partial(self.decoder.log_likelihood, x), backwards=True)) - low


def measure(
    evaluation: Evaluation, points: int, drawn: int, chains: int, temperatures: int, sigma: float = SIGMA
) -> dict[str, Measurement]:
    """Return bounds on log p by chains from the prior to the posterior; nothing for a model without such a decoder.

    - ais_nats: of a test point, -log of the mean weight of its chains; at least -log p(x) in expectation.
    - ais_bpd: the same in bits/dim, where data are integers.
    - ais_excess_nats: the mean of log p*(x) less that bound, of the same points, where the true density p* is known.
    - ais_gap_nats: of a point that the model draws with a z that is then known, the upper bound on log p(x) by chains
      back from that z, less the lower bound. In expectation neither bound is further than that from log p(x).

    A generator has no density of its own. Its numbers are those of G(z) with noise of `sigma`, in units of the range of
    integers or of reals, as `impl` says; they are an estimate, for its samples have no such noise.

    Raises:
        Diverged: the bounds are not finite.
    """
    decoder, noise = decoder_of(evaluation.model, sigma)
    if decoder is None:
        return {}
    dtype = next(p.dtype for p in evaluation.model.parameters() if p.is_floating_point())
    each = Chains(decoder, schedule(temperatures).to(evaluation.device), chains, dtype)
    x, size, space = evaluation.dataset.test[:points], ROWS // chains, evaluation.dataset.space
    truth = None if (known := evaluation.true_log_prob) is None else known[:points]
    with torch.no_grad():
        log_p = torch.cat([each.below(batch)[0] for batch in evaluation.batches(x, size)]).cpu()
        gap = torch.cat([each.gap(len(part)) for part in torch.arange(drawn).split(size)]).cpu()
    impl = f"ais 2, first {points} points, {chains} chains, {temperatures} temperatures{noise}"
    kind: Kind = "estimate" if noise else "bound"
    make_measurement = partial(mean, kind=kind, impl=impl)
    gaps = {"ais_gap_nats": make_measurement(gap, unit="nats")}
    make_measurement = partial(make_measurement, verdict=verdict(log_p.double(), kind, evaluation.dataset, truth))
    measurements = {"ais_nats": make_measurement(-log_p, unit="nats"), **gaps}
    if space.levels is not None:
        measurements["ais_bpd"] = make_measurement(-log_p / math.log(2) / space.dims, unit="bits/dim")
    if truth is not None:
        measurements["ais_excess_nats"] = make_measurement(truth - log_p.double(), unit="nats")
    return measurements


NAMES = ("ais_nats", "ais_bpd", "ais_excess_nats", "ais_gap_nats")
ais = Metric(partial(measure, points=FIRST, drawn=100, chains=16, temperatures=1000), names=NAMES)
quick = Metric(partial(measure, points=FIRST, drawn=32, chains=2, temperatures=150), names=NAMES)
