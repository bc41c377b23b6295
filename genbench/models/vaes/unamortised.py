"""A VAE without an encoder: each point's q(z | x) is found by climbing its own ELBO, at training and at test alike.

Stochastic Variational Inference (2013); Semi-Amortized Variational Autoencoders (2018), section 2, where it is "SVI".
"""

from __future__ import annotations

import torch
from torch import Tensor

from genbench.dataset import Space
from genbench.models.observations import ObservationName, observation_of
from genbench.models.vaes.latent import DiagonalGaussian
from genbench.nets.activations import Activation
from genbench.nets.coders import NetworkName, Networks

__all__ = ["UnamortisedVAE"]


class UnamortisedVAE(DiagonalGaussian):
    """The VAE with variational parameters of each example: `climbs` steps of Adam at `rate` from one start for all.

    The decoder then takes its step with q held still. The start has mean zero and the average log-variance of the q
    found in former batches; nothing is kept of a point, so those of the test split are treated as those trained on.
    """

    start_logvar: Tensor

    def __init__(
        self,
        space: Space,
        *,
        climbs: int = 20,
        rate: float = 0.2,
        latent: int = 16,
        observation: ObservationName = "auto",
        sigma: float | None = None,
        network: NetworkName = "mlp",
        hidden: tuple[int, ...] = (256, 256),
        channels: int = 32,
        activation: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        networks = Networks(network, hidden, channels, activation, dropout)
        p_x = observation_of(space, observation, sigma)
        super().__init__(space, latent, p_x, networks.decoder(space, latent, p_x.parameters))
        self.climbs, self.rate = climbs, rate
        self.register_buffer("start_logvar", torch.zeros(latent))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and logvar of the q found for each x (B, *shape) -> (B, Z), (B, Z); they carry no gradient."""
        mu = self.inputs(x).new_zeros(len(x), self.latent)
        mu, logvar = self.refined(x, mu, self.start_logvar.expand_as(mu), self.climbs, self.rate)
        if self.training:
            self.start_logvar.lerp_(logvar.mean(0), 0.1)
        return mu, logvar
