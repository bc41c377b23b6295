"""Variational autoencoders: the ELBO, beta times the rate, and the least rate at a distortion that is asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genbench.dataset import Space
from genbench.models.vaes.coded import Amortised
from genbench.models.vaes.latent import Warmup

__all__ = ["GECO", "VAE"]


class VAE(Amortised):
    """The variational autoencoder, and beta-VAE.

    Auto-Encoding Variational Bayes (2014), eq. 10; beta-VAE (2017), eq. 4: the loss is distortion + beta * rate.
    beta rises from 0 in the first `warmup` steps, lest latents go unused. Whatever beta, the likelihood is the ELBO.
    """

    def __init__(self, space: Space, *, beta: float = 1.0, draws: int = 1, warmup: int = 0, **options: Any) -> None:
        super().__init__(space, **options)
        self.beta, self.draws = beta, draws
        self.warmup = Warmup(warmup) if warmup else None

    def loss(self, x: Tensor) -> Tensor:
        """Return distortion + beta * rate by `draws` draws, x (B, *shape) -> () nats."""
        rate, distortion = self.rate_and_distortion(x, self.draws)
        beta = self.beta if self.warmup is None else self.beta * self.warmup()
        return (distortion + beta * rate).mean()


class GECO(Amortised):
    """The least rate at which the distortion is `distortion` nats: beta-VAE in its lambda form.

    Taming VAEs (2018), eq. 3 and algorithm 1: loss = rate + lambda (distortion - asked), with a multiplier lambda that
    grows by e^(speed C) at each step, C a moving average of the constraint relative to what is asked. At its fixed
    point lambda is 1 / beta. Beside it, the loss is divided by max(1, lambda), so that steps do not grow with it.
    """

    log_lambda: Tensor
    constraint: Tensor

    def __init__(
        self, space: Space, *, distortion: float, speed: float = 0.1, memory: float = 0.9, **options: Any
    ) -> None:
        super().__init__(space, **options)
        self.distortion, self.speed, self.memory = distortion, speed, memory
        self.register_buffer("log_lambda", torch.zeros(()))
        self.register_buffer("constraint", torch.zeros(()))

    def loss(self, x: Tensor) -> Tensor:
        """Return (rate + lambda (distortion - asked)) / max(1, lambda), x (B, *shape) -> (); training moves lambda."""
        rate, distortion = (value.mean() for value in self.rate_and_distortion(x))
        excess = distortion - self.distortion
        if self.training:
            self.adapt(excess.detach())
        weight = self.log_lambda.exp()
        return (rate + weight * excess) / weight.clamp(min=1)

    def adapt(self, excess: Tensor) -> None:
        """Move lambda up where the distortion exceeds what is asked for, by `excess` (), and down where it does not."""
        self.constraint.lerp_(excess / max(abs(self.distortion), 1.0), 1 - self.memory)
        self.log_lambda.add_(self.speed * self.constraint).clamp_(-7, 7)
