"""The linear flow z = W (e^s x + t): a normal density with full covariance."""

from __future__ import annotations

from typing import Any

from genbench.dataset import Space
from genbench.models.flows.flow import Flow
from genbench.models.flows.lu import LULinear
from genbench.models.flows.normalization import ActNorm
from genbench.models.flows.reshaping import Flatten

__all__ = ["Linear"]


class Linear(Flow):
    """Affine flow with a full matrix in LU form; its optimum is the Gaussian with mean and covariance of the data."""

    def __init__(self, space: Space, **options: Any) -> None:
        D = space.dims
        bijections = [Flatten(space.shape), ActNorm((D,)), LULinear((D,), start="identity")]
        super().__init__(space, bijections, **options)
