"""What every model with a decoder shares: p(x | z), a bound in two parts, and what is taken from the first batch."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from genbench.dataset import Space
from genbench.models.centring import Centred
from genbench.models.observations import Observation
from genbench.nets.precision import at_least_float32
from genbench.suite import Kind


class DecoderModel(Centred):
    """A model of x by latents z, with a decoder, and a bound that is -(rate + distortion).

    -E_q log p(x | z) is called the distortion and the KL the rate (Fixing a Broken ELBO, 2018, eq. 2 and 3).

    On the first batch that it is trained on, the decoder's last bias becomes what fits that batch without latents
    (Importance Weighted Autoencoders, 2016, appendix D: the logit of the mean). Inputs are centred and scaled, and so
    is what a Gaussian observation model takes from the decoder.

    Attributes:
        decoder: z (B, Z) to the parameters of `observation` (B, parameters * D); its last layer has a bias. A subclass
            makes it.
    """

    likelihood: Kind | None = "bound"
    decoder: nn.Sequential

    def __init__(self, space: Space, observation: Observation) -> None:
        super().__init__(space, observation.standardization)
        self.observation = observation

    def start(self, x: Tensor) -> None:
        """Take the decoder's last bias, and of integers centre and scale, from the first batch x (B, *shape)."""
        super().start(x)
        self.last_bias.copy_(self.observation.start(x.flatten(1)).flatten())

    @property
    def last_bias(self) -> Tensor:
        """The decoder's last bias, (parameters * D,)."""
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
        """Return the two parts of the bound, by k draws of z where it is drawn, x (B, *shape) -> (B,), (B,) nats."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the bound, with one draw, x (B, *shape) -> (B,) nats."""
        rate, distortion = self.rate_and_distortion(x)
        return -rate - distortion

    def observed(self, z: Tensor) -> Tensor:
        """Return a draw of p(x | z) for each z (B, Z) -> (B, *shape) in the data's own type."""
        return self.observation.sample(self.theta(z)).view(-1, *self.space.shape)

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Return z of x, or its mean where it is drawn, x (B, *shape) -> (B, Z)."""

    def decode(self, z: Tensor) -> Tensor:
        """Return E[x | z] in the data's own units, z (B, Z) -> (B, *shape) float."""
        return self.observation.mean(self.theta(z)).view(-1, *self.space.shape)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return E[x | z] at encode(x), x (B, *shape) -> as x, float."""
        return self.decode(self.encode(x))
