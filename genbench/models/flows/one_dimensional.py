"""The 1-D flow: each dimension is mapped to a base density on its own, through its distribution function."""

from __future__ import annotations

from typing import Any, Literal

from genbench.dataset import Space
from genbench.models.flows.flow import Flow
from genbench.models.flows.monotone import MixtureCDF
from genbench.models.flows.reshaping import Flatten

__all__ = ["OneDimensional"]


class OneDimensional(Flow):
    """A monotone map of each dimension on its own: it fits the marginals and models the dimensions as independent.

    Args:
        components: K, the number of logistics in the mixture of each dimension.
        base: U(0, 1), Beta(5, 5) or N(0, 1), the distribution to which each dimension is mapped.
        **options: see `Flow`.
    """

    def __init__(
        self,
        space: Space,
        *,
        components: int = 16,
        base: Literal["uniform", "beta", "normal"] = "normal",
        **options: Any,
    ) -> None:
        bijections = [Flatten(space.shape), MixtureCDF((space.dims,), components, base)]
        super().__init__(space, bijections, base, **options)
