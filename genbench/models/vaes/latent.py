"""Models with p(x, z) = N(z; 0, I) p(x | z) and an approximate posterior q(z | x), and the bounds of that pair.

Auto-Encoding Variational Bayes (2014), eq. 3, and Importance Weighted Autoencoders (2016), eq. 8:

    log p(x) >= E_q log p(x | z) - KL(q(z | x) || p(z)),    L_k = E log 1/k sum_i w_i,    w = p(x | z) p(z) / q(z | x).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from genbench_kernels.reparameterize import reparameterize
from torch import Tensor, nn

from genbench.dataset import Space
from genbench.models.observations import Observation
from genbench.models.vaes.decoder import DecoderModel
from genbench.models.vaes.svi import Optimum, optimize


class PosteriorSample(NamedTuple):
    """k samples z = mu + e^(logvar / 2) eps, (k, B, Z), and KL(N(mu, e^logvar), N(0, I)) in nats, (B,) or (k, B).

    eps is (k, B, Z); mu and logvar are (B, Z), or (k, B, Z) where they depend on the sample.
    """

    z: Tensor
    mu: Tensor
    logvar: Tensor
    eps: Tensor
    kl: Tensor

    @property
    def log_ratio(self) -> Tensor:
        """log p(z) - log q(z | x), (k, B) nats."""
        return 0.5 * (self.eps**2 + self.logvar - self.z**2).sum(-1)


def sample_posterior(mu: Tensor, logvar: Tensor, k: int = 1) -> PosteriorSample:
    """Return k reparameterized samples of N(mu, e^logvar), mu and logvar (B, Z).

    On a GPU by the fused kernel; on a CPU with torch's generator, which is four times faster there.
    """
    if mu.is_cuda:
        z, kl = reparameterize(mu, logvar, torch.randint(2**63 - 1, (1,), device=mu.device), samples=k)
        assert kl is not None
        return PosteriorSample(z, mu, logvar, ((z - mu) * torch.exp(-0.5 * logvar)).detach(), kl)
    eps = torch.randn(k, *mu.shape, dtype=mu.dtype, device=mu.device)
    kl = 0.5 * (mu**2 + (torch.expm1(logvar) - logvar)).sum(-1)
    return PosteriorSample(torch.addcmul(mu, torch.exp(0.5 * logvar), eps), mu, logvar, eps, kl)


def log_normal(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Return log N(z; mu, e^logvar) in nats, summed over the last dimension."""
    return -0.5 * ((z - mu) ** 2 * torch.exp(-logvar) + logvar + math.log(2 * math.pi)).sum(-1)


class Warmup(nn.Module):
    """The weight of the rate in the loss: it rises from 0 to 1 in the first steps (Ladder VAE, 2016, section 3)."""

    steps_done: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.register_buffer("steps_done", torch.tensor(0))

    def forward(self) -> Tensor:
        """Return the weight () at this step; in training mode each call counts as one step."""
        self.steps_done += int(self.training)
        return (self.steps_done / max(1, self.steps)).clamp(max=1)


class LatentModel(DecoderModel):
    """A decoder of z ~ N(0, I), z (B, latent), with an approximate posterior that can be sampled."""

    def __init__(self, space: Space, latent: int, observation: Observation, decoder: nn.Sequential) -> None:
        super().__init__(space, observation)
        self.latent, self.decoder = latent, decoder

    @abstractmethod
    def infer(self, x: Tensor, k: int = 1) -> PosteriorSample:
        """Return k samples of q(z | x), x (B, *shape)."""

    def log_weights(self, x: Tensor, k: int, first: int = 0) -> Tensor:
        """Return log p(x | z) p(z) / q(z | x) in nats for k samples of z, x (B, *shape) -> (k, B)."""
        samples = self.infer(x, k)
        return self.log_likelihood(x, samples.z) + samples.log_ratio

    def rate_and_distortion(self, x: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return the KL in closed form and -E_q log p(x | z) from k samples, in nats, x (B, *shape) -> (B,), (B,)."""
        samples = self.infer(x, k)
        rate = samples.kl if samples.kl.ndim == 1 else samples.kl.mean(0)
        return rate, -self.log_likelihood(x, samples.z).mean(0)

    def sample(self, n: int) -> Tensor:
        """Return n samples (n, *shape) of p(x | z), z from the prior."""
        return self.sample_x(self.prior(n))

    def prior(self, n: int) -> Tensor:
        """Return n samples of z ~ N(0, I), (n, latent)."""
        return torch.randn(n, self.latent, device=self.device, dtype=self.center.dtype)


class DiagonalGaussian(LatentModel):
    """A model with q(z | x) = N(mu(x), e^logvar(x)), a diagonal Gaussian."""

    @abstractmethod
    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and logvar of q(z | x), x (B, *shape) -> (B, Z), (B, Z)."""

    def infer(self, x: Tensor, k: int = 1) -> PosteriorSample:
        """Return k samples of q(z | x), x (B, *shape)."""
        return sample_posterior(*self.posterior(x), k)

    def encode(self, x: Tensor) -> Tensor:
        """Return the mean of q(z | x), x (B, *shape) -> (B, Z)."""
        return self.posterior(x)[0]

    def elbo_of(self, x: Tensor, mu: Tensor, logvar: Tensor, k: int = 1) -> Tensor:
        """Return the ELBO of q = N(mu, e^logvar) from k samples, in nats, x (B, *shape), mu, logvar (B, Z) -> (B,)."""
        samples = sample_posterior(mu, logvar, k)
        return self.log_likelihood(x, samples.z).mean(0) - samples.kl

    def optimize_posterior(self, x: Tensor, mu: Tensor, logvar: Tensor, tolerance: float, max_steps: int) -> Optimum:
        """Return the q of highest ELBO for each x (B, *shape), to `tolerance` nats, from a start mu, logvar (B, Z)."""
        return optimize(x, self.log_likelihood, mu, logvar, tolerance, max_steps)

    def surrogate(self, x: Tensor, baseline: Callable[[Tensor], Tensor] | float | None = None) -> Tensor:
        """Return a loss () with an unbiased gradient of the negative ELBO, averaged over x (B, *shape).

        If `baseline` is None, by reparameterization. Otherwise by the log-derivative, with the score of q,

            grad E_q f = E_q[(f - b) grad log q(z | x) + grad f],    f = log p(x | z),

        (Simple statistical gradient-following algorithms, 1992; Neural Variational Inference and Learning, 2014,
        eq. 4 and 8); the baseline b is a number, or a function of f (B,) that does not depend on these z. For real data
        f is the density of standardized x, so that the baseline need not learn the scale of the data. In both cases the
        value of the loss is the negative ELBO.
        """
        mu, logvar = self.posterior(x)
        samples = sample_posterior(mu, logvar)
        if baseline is None:
            return (samples.kl - self.log_likelihood(x, samples.z)[0]).mean()
        z = samples.z[0].detach()
        f = self.log_likelihood(x, z)
        signal = f.detach() if self.space.levels else f.detach() + self.standardization.log_scale
        b = baseline(signal) if callable(baseline) else baseline
        score = (signal - b) * log_normal(z, mu, logvar)
        return (samples.kl - f - (score - score.detach())).mean()
