"""The base of all models with a decoder: p(x | z), a bound of two terms, and initialization from the first batch."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from genbench.dataset import Space
from genbench.models.observations import Observation
from genbench.models.standardized import Standardized
from genbench.nets.precision import at_least_float32
from genbench.suite import Kind


class DecoderModel(Standardized):
    """A latent-variable model with a decoder and a bound on log p(x), -(rate + distortion).

    The distortion is -E_q log p(x | z), the rate is the KL (Fixing a Broken ELBO, 2018, eq. 2 and 3).

    On the first training batch, the bias of the decoder's last layer is set so that the decoder fits the batch without
    latents (Importance Weighted Autoencoders, 2016, appendix D: the logit of the mean). Inputs are centered and scaled,
    and so is the output of the decoder in a Gaussian observation model.

    Attributes:
        decoder: z (B, Z) to the parameters of `observation` (B, parameters * D); its last layer has a bias. Set by
            subclasses.
    """

    likelihood: Kind | None = "bound"
    decoder: nn.Sequential

    def __init__(self, space: Space, observation: Observation) -> None:
        super().__init__(space, observation.standardization)
        self.observation = observation

    def initialize(self, x: Tensor) -> None:
        """Set the decoder's last bias, and the center and scale of integers, from the first batch x (B, *shape)."""
        super().initialize(x)
        self.last_bias.copy_(self.observation.initial_theta(x.flatten(1)).flatten())

    @property
    def last_bias(self) -> Tensor:
        """The bias of the decoder's last layer, (parameters * D,)."""
        last = self.decoder[-1]
        assert isinstance(last.bias, Tensor)
        return last.bias

    def theta(self, z: Tensor) -> Tensor:
        """Return the parameters of p(x | z), z (..., Z) -> (..., parameters, D)."""
        theta = at_least_float32(self.decoder(z.reshape(-1, z.shape[-1])))
        return theta.view(*z.shape[:-1], self.observation.parameters, self.space.dims)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x | z) in nats, x (B, *shape), z (..., B, Z) -> (..., B)."""
        theta = self.theta(z)
        return self.observation.log_prob(theta, x.flatten(1).to(theta.dtype)).sum(-1)

    @abstractmethod
    def rate_and_distortion(self, x: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return rate and distortion in nats, averaged over k samples of z, x (B, *shape) -> (B,), (B,)."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the bound on log p(x) in nats with one sample of z, x (B, *shape) -> (B,)."""
        rate, distortion = self.rate_and_distortion(x)
        return -rate - distortion

    def sample_x(self, z: Tensor) -> Tensor:
        """Return one sample of p(x | z) for each z (B, Z) -> (B, *shape), in the data's dtype."""
        return self.observation.sample(self.theta(z)).view(-1, *self.space.shape)

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Return the latents z of x, the mean of q(z | x) if z is random, x (B, *shape) -> (B, Z)."""

    def decode(self, z: Tensor) -> Tensor:
        """Return E[x | z] in data units, z (B, Z) -> (B, *shape) float."""
        return self.observation.mean(self.theta(z)).view(-1, *self.space.shape)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return E[x | z] at z = encode(x), in data units, x (B, *shape) -> (B, *shape) float."""
        return self.decode(self.encode(x))
