"""SimCLR: representations in which two augmented views of an image are similar and different images are not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genbench.dataset import Space
from genbench.model import Model
from genbench.models.contrastive.losses import nt_xent
from genbench.nets.augmentations import Augmentation
from genbench.nets.coders import Networks
from genbench.standardization import Standardization

__all__ = ["SimCLR"]


class SimCLR(Model):
    """A Simple Framework for Contrastive Learning of Visual Representations (2020), algorithm 1. It cannot generate.

    Without batch normalization, so that a representation does not depend on the batch, and only with augmentations that
    preserve digits: no mirroring, no changes of color.

    Args:
        latent: dimension of the representation h = f(x).
        projection: dimension of g(h), which the loss compares.
        channels: of the convolutions of f.
        tau: the temperature.
        shift, rotation, scale, noise, erasing: largest changes of a view, as in `Augmentation`.

    Raises:
        ValueError: the data are not images.
    """

    generative = False

    def __init__(
        self,
        space: Space,
        *,
        latent: int = 64,
        projection: int = 32,
        channels: int = 32,
        tau: float = 0.5,
        shift: float = 0.1,
        rotation: float = 15.0,
        scale: float = 0.15,
        noise: float = 0.1,
        erasing: float = 0.4,
    ) -> None:
        super().__init__(space)
        self.standardization = None if space.levels else Standardization(space)
        self.tau, self.augment = tau, Augmentation(shift, rotation, scale, noise, erasing)
        self.f = Networks("convnet", channels=channels).encoder(space, latent)
        self.g = nn.Sequential(nn.ReLU(), nn.Linear(latent, latent), nn.ReLU(), nn.Linear(latent, projection))

    def scaled(self, x: Tensor) -> Tensor:
        """Return x (B, *shape) as float: integers in [0, 1], reals standardized."""
        if self.standardization is not None:
            y: Tensor = self.standardization(x)
            return y
        assert self.space.levels is not None
        return x.float() / (self.space.levels - 1)

    def encode(self, x: Tensor) -> Tensor:
        """Return h = f(x), x (B, *shape) -> (B, latent)."""
        h: Tensor = self.f(self.scaled(x))
        return h

    def loss(self, x: Tensor) -> Tensor:
        """Return the NT-Xent loss () of g(f(.)) between two views of each point of x (B, *shape)."""
        x = self.scaled(x)
        a, b = self.g(self.f(torch.cat((self.augment(x), self.augment(x))))).chunk(2)
        return nt_xent(a, b, self.tau)
