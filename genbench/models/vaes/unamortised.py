"""A VAE without an encoder: each point's q(z | x) is found by optimizing its own ELBO, at training and at test alike.

Stochastic Variational Inference (2013); Semi-Amortized Variational Autoencoders (2018), section 2, where it is "SVI".
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from genbench.dataset import Space
from genbench.models.vaes.coded import Decoded
from genbench.models.vaes.svi import ascend

__all__ = ["UnamortisedVAE"]


class UnamortisedVAE(Decoded):
    """The VAE with variational parameters of each example, by natural gradients from one start for all.

    The start has mean zero and the average log-variance of the q of former batches; nothing is stored for a point, so
    those of the test split are treated as those trained on. In training, `svi_steps` steps lead to the q by which the
    decoder takes its own step. In evaluation q is optimized until a round of 40 steps changes the point's ELBO by less
    than `svi_tolerance` nats, or for `svi_max_steps`; the metric `latents:amortisation` measures what is left.
    """

    start_logvar: Tensor

    def __init__(
        self,
        space: Space,
        *,
        svi_steps: int = 10,
        svi_tolerance: float = 0.1,
        svi_max_steps: int = 400,
        **options: Any,
    ) -> None:
        super().__init__(space, **options)
        if svi_steps < 1 or svi_max_steps < 1 or svi_tolerance <= 0:
            given = f"svi_steps={svi_steps}, svi_max_steps={svi_max_steps}, svi_tolerance={svi_tolerance}"
            raise ValueError(f"steps must be 1 or more and the tolerance above 0 nats; got {given}")
        self.svi_steps, self.svi_tolerance, self.svi_max_steps = svi_steps, svi_tolerance, svi_max_steps
        self.register_buffer("start_logvar", torch.zeros(self.latent))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and logvar of the best q of each x (B, *shape) -> (B, Z), (B, Z); they carry no gradient."""
        mu = self.scaled(x).new_zeros(len(x), self.latent)
        start = self.start_logvar.expand_as(mu)
        if not self.training:
            return self.optimized(x, mu, start, self.svi_tolerance, self.svi_max_steps)[:2]
        mu, logvar = ascend(partial(self.log_likelihood, x), mu, start, self.svi_steps, pairs=1)
        self.start_logvar.lerp_(logvar.mean(0), 0.1)
        return mu, logvar
