"""A VAE trained by the log-derivative (score function) estimator instead of reparameterization.

Simple statistical gradient-following algorithms (1992); Neural Variational Inference and Learning in Belief Networks
(2014), section 2.3: any baseline b that does not depend on z may be subtracted from the signal f = log p(x | z).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from genbench.dataset import Space
from genbench.models.vaes.single_layer import EncoderVAE
from genbench.nets.precision import at_least_float32

__all__ = ["ScoreVAE"]

BaselineName = Literal["none", "mean", "learned"]


class RunningMean(nn.Module):
    """The mean of the signals of previous batches: of all at first, later exponential with weight 0.1."""

    mean: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, signal: Tensor) -> Tensor:
        """Return the mean () before this batch; in training, then include signal (B,)."""
        before = self.mean.clone()
        if self.training:
            self.count += 1
            self.mean += (signal.mean() - self.mean) * (1 / self.count).clamp(min=0.1)
        return before


class ScoreVAE(EncoderVAE):
    """A VAE whose encoder is trained by the log-derivative estimator; decoder and KL have their usual gradients.

    `baseline`: "none"; "mean", the running mean of log p(x | z); "learned", that plus a network of x fitted by least
    squares.
    """

    def __init__(self, space: Space, *, baseline: BaselineName = "learned", **options: Any) -> None:
        super().__init__(space, **options)
        self.running_mean = None if baseline == "none" else RunningMean()
        without_dropout = replace(self.networks, dropout=0.0)
        self.network = without_dropout.encoder(space, 1) if baseline == "learned" else None

    def baseline(self, x: Tensor, signal: Tensor) -> Tensor:
        """Return the baseline of signals log p(x | z) in nats, x (B, *shape), signal (B,) -> () or (B,)."""
        b = signal.new_zeros(()) if self.running_mean is None else self.running_mean(signal)
        return b if self.network is None else b + at_least_float32(self.network(self.scaled(x))).squeeze(-1)

    def loss(self, x: Tensor) -> Tensor:
        """Return the negative ELBO (), x (B, *shape); its gradient includes that of the baseline's squared error."""
        errors = []

        def baseline(signal: Tensor) -> Tensor:
            b = self.baseline(x, signal)
            errors.append(((signal - b) ** 2).mean())
            return b.detach()

        loss = self.surrogate(x, baseline)
        return loss if self.network is None else loss + errors[0] - errors[0].detach()
