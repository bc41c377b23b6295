"""A VAE without an encoder: the ELBO of each point is optimized over its own q(z | x), in training and evaluation.

Stochastic Variational Inference (2013); Semi-Amortized Variational Autoencoders (2018), section 2, "SVI".
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from genbench.dataset import Space
from genbench.models.vaes.single_layer import DecoderVAE
from genbench.models.vaes.svi import ascend

__all__ = ["UnamortisedVAE"]


class UnamortisedVAE(DecoderVAE):
    """A VAE that optimizes mu and logvar of each example by natural gradients, from the same start for all.

    The start has mean zero and the average log-variance of the q of previous batches. Nothing is stored per point, so
    training and test points are treated alike. In training, q takes `svi_steps` steps before each step of the decoder.
    In evaluation, q is optimized until a round of 40 steps changes the point's ELBO by less than `svi_tolerance` nats,
    or for `svi_max_steps`; the metric `latents:amortisation` measures the remaining gap.
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
            raise ValueError(f"steps must be 1 or more and the tolerance above 0 nats, got {given}")
        self.svi_steps, self.svi_tolerance, self.svi_max_steps = svi_steps, svi_tolerance, svi_max_steps
        self.register_buffer("start_logvar", torch.zeros(self.latent))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and logvar of the optimized q of each x (B, *shape) -> (B, Z), (B, Z), without gradient."""
        mu = self.scaled(x).new_zeros(len(x), self.latent)
        start = self.start_logvar.expand_as(mu)
        if not self.training:
            return self.optimize_posterior(x, mu, start, self.svi_tolerance, self.svi_max_steps)[:2]
        mu, logvar = ascend(partial(self.log_likelihood, x), mu, start, self.svi_steps, pairs=1)
        self.start_logvar.lerp_(logvar.mean(0), 0.1)
        return mu, logvar
