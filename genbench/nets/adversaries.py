"""Generators z (B, Z) -> (B, *shape) and critics x (B, *shape) -> (B, 1), by kind."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn

from genbench.nets import dcgan, resampling
from genbench.nets.activations import Activation
from genbench.nets.dcgan import Norm, Shape
from genbench.nets.mlp import mlp

AdversaryName = Literal["mlp", "dcgan", "resnet"]


@dataclass(frozen=True)
class Adversaries:
    """The architecture of generator and critic.

    Attributes:
        network: MLPs, or, for images, the convolutions of DCGAN or the residual networks of SN-GAN.
        hidden, activation: hidden widths and activation of the MLPs.
        critic_hidden: hidden widths of the critic's MLP; by default those of the generator.
        channels: width of the convolutions at full resolution.
        norm: normalization in the convolutional generator; critics have none.
    """

    network: AdversaryName = "mlp"
    hidden: tuple[int, ...] = (256, 256)
    critic_hidden: tuple[int, ...] | None = None
    activation: Activation = "relu"
    channels: int = 32
    norm: Norm = "batch"

    def generator(self, latent: int, shape: Shape) -> nn.Module:
        """Return a network z (B, latent) -> (B, *shape)."""
        if self.network == "mlp":
            net = mlp(latent, math.prod(shape), self.hidden, activation=self.activation)
            return nn.Sequential(net, nn.Unflatten(1, shape))
        convolutional = dcgan.generator if self.network == "dcgan" else resampling.generator
        return convolutional(latent, shape, self.channels, self.norm)

    def critic(self, shape: Shape) -> nn.Module:
        """Return a network x (B, *shape) -> (B, 1)."""
        if self.network == "mlp":
            hidden = self.hidden if self.critic_hidden is None else self.critic_hidden
            return nn.Sequential(nn.Flatten(), mlp(math.prod(shape), 1, hidden, activation=self.activation))
        convolutional = dcgan.critic if self.network == "dcgan" else resampling.critic
        return convolutional(shape, self.channels)
