"""VAEs with a single layer of latents, whose networks are chosen by options."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from genbench.dataset import Space
from genbench.models.observations import ObservationName, observation_of
from genbench.models.vaes.latent import DiagonalGaussian
from genbench.nets.activations import Activation
from genbench.nets.coders import NetworkName, Networks
from genbench.nets.precision import at_least_float32


class DecoderVAE(DiagonalGaussian):
    """A VAE with a decoder; subclasses define the posterior.

    Args:
        latent: dimension of z.
        observation, sigma: p(x | z), as in `observation_of`.
        network, hidden, channels, activation, dropout: as in `Networks`.
    """

    def __init__(
        self,
        space: Space,
        *,
        latent: int = 16,
        observation: ObservationName = "auto",
        sigma: float | None = None,
        network: NetworkName = "mlp",
        hidden: tuple[int, ...] = (256, 256),
        channels: int = 32,
        activation: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        p_x = observation_of(space, observation, sigma)
        networks = Networks(network, hidden, channels, activation, dropout)
        super().__init__(space, latent, p_x, networks.decoder(space, latent, p_x.parameters))
        self.networks = networks


class EncoderVAE(DecoderVAE):
    """A VAE with an encoder that computes q(z | x)."""

    def __init__(self, space: Space, **options: Any) -> None:
        super().__init__(space, **options)
        self.encoder = self.networks.encoder(space, 2 * self.latent)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and logvar of q(z | x), x (B, *shape) -> (B, Z), (B, Z)."""
        mu, logvar = at_least_float32(self.encoder(self.scaled(x))).chunk(2, -1)
        return mu, logvar
