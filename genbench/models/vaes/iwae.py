"""Importance weighted autoencoders: the loss is the bound L_k, and so is the likelihood."""

from __future__ import annotations

import math

from torch import Tensor

from genbench.dataset import Space
from genbench.models.observations import ObservationName, observation_of
from genbench.models.vaes.latent import DiagonalGaussian
from genbench.nets.activations import Activation
from genbench.nets.coders import NetworkName, Networks

__all__ = ["IWAE"]


class IWAE(DiagonalGaussian):
    """The importance weighted autoencoder: log p(x) >= L_k = E log 1/k sum_i w_i with k draws.

    Importance Weighted Autoencoders (2016), eq. 8; its gradient, eq. 14, is that of log-sum-exp itself.
    """

    def __init__(
        self,
        space: Space,
        *,
        k: int = 8,
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
        self.encoder, self.k = networks.encoder(space, 2 * latent), k

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and logvar of q(z | x), x (B, *shape) -> (B, Z), (B, Z)."""
        mu, logvar = self.encoder(self.inputs(x)).chunk(2, -1)
        return mu, logvar

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log 1/k sum_i w_i, x (B, *shape) -> (B,) nats."""
        return self.log_weights(x, self.k).logsumexp(0) - math.log(self.k)
