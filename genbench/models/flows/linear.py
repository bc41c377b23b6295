"""The linear flow: a normal density of any covariance, as the flow z = W (e^s x + t)."""

from __future__ import annotations

from typing import Any

from genbench.dataset import Space
from genbench.models.flows.flow import Flow
from genbench.models.flows.lu import LULinear
from genbench.models.flows.normalization import ActNorm
from genbench.models.flows.reshaping import Flatten

__all__ = ["Linear"]


class Linear(Flow):
    """Full-matrix affine flow, LU parametrised: the best it can do is the Gaussian with the data's moments."""

    def __init__(self, space: Space, **options: Any) -> None:
        D = space.dims
        bijections = [Flatten(space.shape), ActNorm((D,)), LULinear((D,), start="identity")]
        super().__init__(space, bijections, **options)
