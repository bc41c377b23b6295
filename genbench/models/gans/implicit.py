"""A generator and its samples: x = G(z), z ~ N(0, I), of which no density is known."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from genbench.dataset import Space
from genbench.model import Model
from genbench.nets.activations import Activation
from genbench.nets.adversaries import Adversaries, AdversaryName
from genbench.nets.dcgan import Norm
from genbench.standardization import Standardization


class Implicit(Model):
    """G(z), and a critic v(x).

    Integers 0..K-1 are numbers from -1 to 1 to both, where G's tanh keeps to; reals are standardized. A sample of
    integers is the level nearest to G(z).

    With averaged weights (`optimizer.ema`; the critic's are averaged too, to no harm) it is those that generate, and
    `fit_closed_form` takes the statistics of batch normalisation, which are no parameters, anew for them.

    Args:
        latent: numbers in z.
        network, hidden, critic_hidden, activation, channels, norm: as in `Adversaries`.
    """

    def __init__(
        self,
        space: Space,
        *,
        latent: int = 16,
        network: AdversaryName = "mlp",
        hidden: tuple[int, ...] = (256, 256),
        critic_hidden: tuple[int, ...] | None = None,
        activation: Activation = "relu",
        channels: int = 32,
        norm: Norm = "batch",
    ) -> None:
        super().__init__(space)
        self.standardization = None if space.levels else Standardization(space)
        networks = Adversaries(network, hidden, critic_hidden, activation, channels, norm)
        self.latent = latent
        self.generator = networks.generator(latent, space.shape)
        self.critic = networks.critic(space.shape)

    def prior(self, n: int) -> Tensor:
        """Return z (n, latent) of N(0, I)."""
        like = next(self.generator.parameters())
        return torch.randn(n, self.latent, device=like.device, dtype=like.dtype)

    def generate(self, z: Tensor) -> Tensor:
        """Return G(z) as a critic sees it, z (B, latent) -> (B, *shape)."""
        x: Tensor = self.generator(z)
        return x if self.space.levels is None else x.tanh()

    def scaled(self, x: Tensor) -> Tensor:
        """Return x (B, *shape) in the data's own units as a critic sees it."""
        x = x.to(next(self.critic.parameters()).dtype)
        if self.standardization is not None:
            y: Tensor = self.standardization(x)
            return y
        assert self.space.levels is not None
        return x * (2 / (self.space.levels - 1)) - 1

    def decode(self, z: Tensor) -> Tensor:
        """Return G(z) in the data's own units, z (B, latent) -> (B, *shape) float."""
        x = self.generate(z)
        if self.standardization is not None:
            return self.standardization.inverse(x)
        assert self.space.levels is not None
        return (x + 1) * ((self.space.levels - 1) / 2)

    def sample(self, n: int) -> Tensor:
        """Return n samples (n, *shape)."""
        x = self.decode(self.prior(n))
        if self.space.levels is None:
            return x
        return x.round().to(torch.uint8 if self.space.levels <= 256 else torch.int64)

    def critic_score(self, x: Tensor) -> Tensor:
        """Return v(x), the higher the more x (B, *shape), in the data's own units, seems of the data, (B,)."""
        v: Tensor = self.critic(self.scaled(x))
        return v.squeeze(1)

    def fit_closed_form(self, x: Tensor) -> None:
        """Take the statistics of batch normalisation from 16 batches of z."""
        update_bn((self.prior(512) for _ in range(16)), self.generator)
