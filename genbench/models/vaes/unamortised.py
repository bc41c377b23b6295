"""A VAE without an encoder: each point's q(z | x) is found by climbing its own ELBO, at training and at test alike.

Stochastic Variational Inference (2013); Semi-Amortized Variational Autoencoders (2018), section 2, where it is "SVI".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genbench.dataset import Space
from genbench.models.vaes.coded import Decoded

__all__ = ["UnamortisedVAE"]


class UnamortisedVAE(Decoded):
    """The VAE with variational parameters of each example: `climbs` steps of Adam at `rate` from one start for all.

    The decoder then takes its step with q held still. The start has mean zero and the average log-variance of the q
    found in former batches; nothing is kept of a point, so those of the test split are treated as those trained on.
    """

    start_logvar: Tensor

    def __init__(self, space: Space, *, climbs: int = 20, rate: float = 0.2, **options: Any) -> None:
        super().__init__(space, **options)
        self.climbs, self.rate = climbs, rate
        self.register_buffer("start_logvar", torch.zeros(self.latent))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and logvar of the q found for each x (B, *shape) -> (B, Z), (B, Z); they carry no gradient."""
        mu = self.scaled(x).new_zeros(len(x), self.latent)
        mu, logvar = self.refined(x, mu, self.start_logvar.expand_as(mu), self.climbs, self.rate)
        if self.training:
            self.start_logvar.lerp_(logvar.mean(0), 0.1)
        return mu, logvar
