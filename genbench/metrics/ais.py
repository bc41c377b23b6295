"""Annealed importance sampling: lower and upper bounds on log p(x) of any decoder of z ~ N(0, I).

On the Quantitative Analysis of Decoder-Based Generative Models (2017). `ais` takes the first 200 test points, 16 chains
and 1,000 temperatures: a minute on a GPU, more than ten on one core. `ais:quick`, with 2 chains and 150 temperatures,
takes ten seconds on one core for small images. Unlike the bounds L_k, AIS does not start from q(z | x), and so does not
depend on how good q is; `ais_gap_nats` bounds what the chains miss. To compare AIS and L_k, take both on the same
points: `likelihood:L1000_first200` beside `ais`, or any L_k where the test split has at most 200 points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from genbench.capabilities import HasDecoder
from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.metrics.annealing import log_weights, lower_bound, schedule, tune_step_sizes, upper_bound
from genbench.metrics.decoders import decoder_of
from genbench.metrics.likelihood import FIRST, mean, verdict
from genbench.suite import Kind

__all__ = ["ais", "quick"]

MAX_CHAINS = 2048  # in one batch
TUNING_CHAINS = 2  # per point, to tune step sizes
SIGMA = 0.25  # of the noise added to a generator, in units of the range of integers, or of reals


@dataclass
class Sampler:
    """AIS chains of a decoder at temperatures beta_0, ..., beta_T, `chains` of them for each point."""

    decoder: HasDecoder
    betas: Tensor
    chains: int
    dtype: torch.dtype

    def prior(self, *size: int) -> Tensor:
        """Return z (*size, latent) from N(0, I)."""
        return torch.randn(*size, self.decoder.latent, dtype=self.dtype, device=self.betas.device)

    def lower_bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return lower bounds on log p(x), x (B, *shape) -> (B,) nats, and the step sizes (T - 1, B)."""
        log_p = partial(self.decoder.log_likelihood, x)
        step_sizes = tune_step_sizes(self.prior(TUNING_CHAINS, len(x)), self.betas, log_p)
        return lower_bound(log_weights(self.prior(self.chains, len(x)), self.betas, step_sizes, log_p)), step_sizes

    def gap(self, n: int) -> Tensor:
        """Return the upper minus the lower bound on log p of n points sampled from the decoder, (n,) nats."""
        z = self.prior(n)
        x = self.decoder.sample_x(z)
        lower, step_sizes = self.lower_bounds(x)
        z, log_p = z.expand(self.chains, -1, -1), partial(self.decoder.log_likelihood, x)
        return upper_bound(log_weights(z, self.betas, step_sizes, log_p, backwards=True)) - lower


def measure(
    evaluation: Evaluation, points: int, simulated: int, chains: int, temperatures: int, sigma: float = SIGMA
) -> dict[str, Measurement]:
    """Return bounds on log p(x) from chains between prior and posterior; nothing for a model without such a decoder.

    - ais_nats: -log of the mean weight of a test point's chains; at least -log p(x) in expectation.
    - ais_bpd: the same in bits/dim, where data are integers.
    - ais_excess_nats: the mean of log p*(x) minus that bound, on the same points, where the true density p* is known.
    - ais_gap_nats: the upper minus the lower bound on log p(x) of points sampled from the model. Their z is known, so
      that chains can run back from it. In expectation neither bound is further than this from log p(x).

    A generator has no density of its own. Its numbers are for G(z) plus noise of scale `sigma`, in units of the range
    of integers or of reals, which `impl` states. They are an estimate, for its samples have no such noise.

    Args:
        points: how many test points are taken, from the first.
        simulated: how many points are sampled from the model for ais_gap_nats.
        chains, temperatures: per point, and per chain.

    Raises:
        Diverged: the bounds are not finite.
    """
    decoder, noise = decoder_of(evaluation.model, sigma)
    if decoder is None:
        return {}
    dtype = next(p.dtype for p in evaluation.model.parameters() if p.is_floating_point())
    sampler = Sampler(decoder, schedule(temperatures).to(evaluation.device), chains, dtype)
    x, size, space = evaluation.dataset.test[:points], MAX_CHAINS // chains, evaluation.dataset.space
    truth = None if (true_log_prob := evaluation.true_log_prob) is None else true_log_prob[:points]
    with torch.no_grad():
        log_p = torch.cat([sampler.lower_bounds(batch)[0] for batch in evaluation.batches(x, size)]).cpu()
        gap = torch.cat([sampler.gap(len(part)) for part in torch.arange(simulated).split(size)]).cpu()
    impl = f"ais 2, first {points} points, {chains} chains, {temperatures} temperatures{noise}"
    kind: Kind = "estimate" if noise else "bound"
    gap_nats = mean(gap, kind=kind, unit="nats", impl=impl)
    make_measurement = partial(
        mean, kind=kind, impl=impl, verdict=verdict(log_p.double(), kind, evaluation.dataset, truth)
    )
    measurements = {"ais_nats": make_measurement(-log_p, unit="nats"), "ais_gap_nats": gap_nats}
    if space.levels is not None:
        measurements["ais_bpd"] = make_measurement(-log_p / math.log(2) / space.dims, unit="bits/dim")
    if truth is not None:
        measurements["ais_excess_nats"] = make_measurement(truth - log_p.double(), unit="nats")
    return measurements


NAMES = ("ais_nats", "ais_bpd", "ais_excess_nats", "ais_gap_nats")
ais = Metric(partial(measure, points=FIRST, simulated=100, chains=16, temperatures=1000), names=NAMES)
quick = Metric(partial(measure, points=FIRST, simulated=32, chains=2, temperatures=150), names=NAMES)
