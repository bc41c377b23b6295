"""A VAE without an encoder: each point's q(z | x) is found by climbing its own ELBO, at training and at test alike.

Stochastic Variational Inference (2013); Semi-Amortized Variational Autoencoders (2018), section 2, where it is "SVI".
"""

from __future__ import annotations

from torch import Tensor

from genbench.dataset import Space
from genbench.models.vaes.decoders import ObservationName, observation_of
from genbench.models.vaes.latent import DiagonalGaussian
from genbench.models.vaes.networks import NetworkName, Networks
from genbench.nets.activations import Activation

__all__ = ["UnamortisedVAE"]


class UnamortisedVAE(DiagonalGaussian):
    """The VAE with variational parameters of each example: `climbs` steps of Adam at `rate` from the prior.

    The decoder then takes its step with q held still. Nothing is kept from one epoch to the next, so points of the
    test split are treated as those trained on.
    """

    def __init__(
        self,
        space: Space,
        *,
        climbs: int = 10,
        rate: float = 0.5,
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

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and logvar of the q found for each x (B, *shape) -> (B, Z), (B, Z); they carry no gradient."""
        prior = self.inputs(x).new_zeros(len(x), self.latent)
        return self.refined(x, prior, prior, self.climbs, self.rate)
