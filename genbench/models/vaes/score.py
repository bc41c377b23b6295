"""A VAE trained by the log-derivative (the score function) instead of by reparameterisation, with or without baseline.

Simple statistical gradient-following algorithms (1992); Neural Variational Inference and Learning in Belief Networks
(2014), section 2.3: any b that does not depend on z may be taken from the signal f = log p(x | z).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from genbench.dataset import Space
from genbench.models.vaes.coded import Amortised
from genbench.nets.precision import at_least_float32

__all__ = ["ScoreVAE"]

BaselineName = Literal["none", "mean", "learned"]


class Running(nn.Module):
    """b: the mean of the signals of former batches, the last ten or so."""

    mean: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor, signal: Tensor) -> Tensor:
        """Return b (), and take the signal (B,) into the mean in training."""
        before = self.mean.clone()
        if self.training:
            self.count += 1
            self.mean += (signal.mean() - self.mean) * (1 / self.count).clamp(min=0.1)
        return before


class ScoreVAE(Amortised):
    """The VAE whose encoder learns by the log-derivative; the decoder's gradient and the KL are as ever.

    `baseline`: none; the running mean of log p(x | z); or that and a function of x, learned by least squares.
    """

    def __init__(self, space: Space, *, baseline: BaselineName = "learned", **options: Any) -> None:
        super().__init__(space, **options)
        self.running = None if baseline == "none" else Running()
        undropped = replace(self.networks, dropout=0.0)
        self.network = undropped.encoder(space, 1) if baseline == "learned" else None

    def baseline(self, x: Tensor, signal: Tensor) -> Tensor:
        """Return b for signals log p(x | z), x (B, *shape), signal (B,) -> () or (B,) nats."""
        b = signal.new_zeros(()) if self.running is None else self.running(x, signal)
        return b if self.network is None else b + at_least_float32(self.network(self.scaled(x))).squeeze(-1)

    def loss(self, x: Tensor) -> Tensor:
        """Return the negative ELBO (), with the gradient of the log-derivative and, of no value, the baseline's own."""
        errors = []

        def baseline(signal: Tensor) -> Tensor:
            b = self.baseline(x, signal)
            errors.append(((signal - b) ** 2).mean())
            return b.detach()

        loss = self.surrogate(x, baseline)
        return loss if self.network is None else loss + errors[0] - errors[0].detach()
