"""Implicit models: samples x = G(z), z ~ N(0, I), without a tractable density."""

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


class ImplicitModel(Model):
    """A generator G(z) and a critic v(x).

    Both networks see integers 0..K-1 scaled to [-1, 1], the range of G's tanh, and standardized reals. A sample of
    integers is the level nearest to G(z).

    With averaged weights (`optimizer.ema`, which also averages the critic's, without effect) the averages generate, and
    `fit_closed_form` recomputes the statistics of batch normalization, which are not parameters, for them.

    Args:
        latent: dimension of z.
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

    @property
    def network_dtype(self) -> torch.dtype:
        """The dtype of the networks' parameters."""
        return next(self.parameters()).dtype

    def prior(self, n: int) -> Tensor:
        """Return n samples of z ~ N(0, I), (n, latent)."""
        return torch.randn(n, self.latent, device=self.device, dtype=self.network_dtype)

    def generate(self, z: Tensor) -> Tensor:
        """Return G(z) in the critic's units, z (B, latent) -> (B, *shape)."""
        x: Tensor = self.generator(z)
        return x if self.space.levels is None else x.tanh()

    def scaled(self, x: Tensor) -> Tensor:
        """Return x (B, *shape), in data units, in the critic's units."""
        x = x.to(self.network_dtype)
        if self.standardization is not None:
            y: Tensor = self.standardization(x)
            return y
        assert self.space.levels is not None
        return x * (2 / (self.space.levels - 1)) - 1

    def decode(self, z: Tensor) -> Tensor:
        """Return G(z) in data units, z (B, latent) -> (B, *shape) float."""
        x = self.generate(z)
        if self.standardization is not None:
            return self.standardization.inverse(x)
        assert self.space.levels is not None
        return (x + 1) * ((self.space.levels - 1) / 2)

    def sample(self, n: int) -> Tensor:
        """Return n samples (n, *shape)."""
        return self.space.to_levels(self.decode(self.prior(n)))

    def critic_score(self, x: Tensor) -> Tensor:
        """Return v(x), higher for points more like the data, x (B, *shape) in data units -> (B,)."""
        v: Tensor = self.critic(self.scaled(x))
        return v.squeeze(1)

    def fit_closed_form(self, x: Tensor) -> None:
        """Recompute the statistics of batch normalization from 16 batches of z."""
        update_bn((self.prior(512) for _ in range(16)), self.generator)
