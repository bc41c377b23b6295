"""Data centred and scaled for networks, as the first batch says."""

from __future__ import annotations

import torch
from torch import Tensor

from genbench.dataset import Space
from genbench.model import Model


class Centred(Model):
    """A model whose networks see data centred and scaled by the first batch that it is trained on."""

    ready: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        self.register_buffer("ready", torch.tensor(False))
        self.register_buffer("centre", torch.zeros(space.shape))
        self.register_buffer("scale", torch.ones(()))
        self.waits = True  # `ready` is looked at once: reading it from a GPU would wait for it

    def start(self, x: Tensor) -> None:
        """Take centre and scale from the first batch x (B, *shape); a subclass may take more."""
        self.centre.copy_(x.mean(0)), self.scale.copy_(x.std(correction=0).clamp(min=1e-6))

    def scaled(self, x: Tensor) -> Tensor:
        """Return x (B, *shape) centred and scaled; the first x in training says how."""
        if self.waits and self.training:
            self.waits = False
            if not self.ready:
                with torch.no_grad():
                    self.start(x.to(self.centre.dtype))
                self.ready.fill_(True)
        return (x - self.centre) / self.scale
