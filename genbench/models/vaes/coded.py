"""VAEs of one layer of latents, by the networks that their options say."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from genbench.dataset import Space
from genbench.models.observations import ObservationName, observation_of
from genbench.models.vaes.latent import DiagonalGaussian
from genbench.nets.activations import Activation
from genbench.nets.coders import NetworkName, Networks
from genbench.nets.precision import at_least_float32


class Decoded(DiagonalGaussian):
    """A model whose decoder is of these options.

    Args:
        latent: numbers in z.
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
        p_x, networks = (
            observation_of(space, observation, sigma),
            Networks(network, hidden, channels, activation, dropout),
        )
        super().__init__(space, latent, p_x, networks.decoder(space, latent, p_x.parameters))
        self.networks = networks


class Amortised(Decoded):
    """A model whose q(z | x) an encoder gives."""

    def __init__(self, space: Space, **options: Any) -> None:
        super().__init__(space, **options)
        self.encoder = self.networks.encoder(space, 2 * self.latent)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and logvar of q(z | x), x (B, *shape) -> (B, Z), (B, Z)."""
        mu, logvar = at_least_float32(self.encoder(self.scaled(x))).chunk(2, -1)
        return mu, logvar
