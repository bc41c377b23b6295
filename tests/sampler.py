"""A model for tests of metrics: its samples come from a function."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from genbench.dataset import Space
from genbench.model import Model


class Sampler(Model):
    """A model that samples with `draw`: n -> (n, *shape)."""

    def __init__(self, space: Space, draw: Callable[[int], Tensor]) -> None:
        super().__init__(space)
        self.draw = draw

    def sample(self, n: int) -> Tensor:
        return self.draw(n)
