"""Variational autoencoders trained on the ELBO, with a weight on the rate, or for a given distortion."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genbench.dataset import Space
from genbench.models.vaes.latent import Warmup
from genbench.models.vaes.single_layer import EncoderVAE

__all__ = ["GECO", "VAE"]


class VAE(EncoderVAE):
    """The variational autoencoder, and beta-VAE.

    Auto-Encoding Variational Bayes (2014), eq. 10; beta-VAE (2017), eq. 4: the loss is distortion + beta * rate.
    In the first `warmup` steps beta rises from 0, to avoid posterior collapse. The likelihood is the ELBO for any beta.
    """

    def __init__(self, space: Space, *, beta: float = 1.0, draws: int = 1, warmup: int = 0, **options: Any) -> None:
        super().__init__(space, **options)
        self.beta, self.draws = beta, draws
        self.warmup = Warmup(warmup) if warmup else None

    def loss(self, x: Tensor) -> Tensor:
        """Return distortion + beta * rate in nats, averaged over `draws` samples of z, x (B, *shape) -> ()."""
        rate, distortion = self.rate_and_distortion(x, self.draws)
        beta = self.beta if self.warmup is None else self.beta * self.warmup()
        return (distortion + beta * rate).mean()


class GECO(EncoderVAE):
    """The VAE of lowest rate at a target distortion in nats: beta-VAE with a Lagrange multiplier.

    Taming VAEs (2018), eq. 3 and algorithm 1: loss = rate + lambda (distortion - target). At each step the multiplier
    lambda is scaled by e^(speed C), C a moving average of (distortion - target) / max(|target|, 1). At the fixed
    point lambda is 1 / beta. Unlike in the paper, the loss is divided by max(1, lambda), so that a large multiplier
    does not mean large steps.
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
        """Return (rate + lambda (distortion - target)) / max(1, lambda), x (B, *shape) -> (); training adapts it."""
        rate, distortion = (value.mean() for value in self.rate_and_distortion(x))
        excess = distortion - self.distortion
        if self.training:
            self.adapt_lambda(excess.detach())
        weight = self.log_lambda.exp()
        return (rate + weight * excess) / weight.clamp(min=1)

    def adapt_lambda(self, excess: Tensor) -> None:
        """Raise lambda if the distortion is above the target (excess > 0), else lower it; excess () in nats."""
        self.constraint.lerp_(excess / max(abs(self.distortion), 1.0), 1 - self.memory)
        self.log_lambda.add_(self.speed * self.constraint).clamp_(-7, 7)
