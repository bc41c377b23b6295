"""Flows of zuko as genbench models: an example of using another library (`pip install 'genbench[peers]'`).

A suite refers to them by import path, ``peers.zuko_flows:NSF``, relative to the working directory; no registration is
needed. A model is a `genbench.model.Model` with `sample` and `log_prob`. A flow only needs its map from data to base as
a `Bijection`; `Flow` adds dequantization, logit, base density and sampling. The keyword arguments of a class, with
their types and defaults, are the options that a suite may set.
"""

from __future__ import annotations

import zuko
from torch import Tensor

from genbench.dataset import Space
from genbench.models.dequantization import DequantizationName
from genbench.models.flows.bijection import Bijection
from genbench.models.flows.flow import Flow
from genbench.models.flows.reshaping import Flatten


class TransformBijection(Bijection):
    """A zuko transform from data (B, D) to base (B, D)."""

    def __init__(self, transform: zuko.lazy.LazyTransform) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.transform().call_and_ladj(x)

    def inverse(self, y: Tensor) -> Tensor:
        return self.transform().inv(y)


class Zuko(Flow):
    """A zuko flow on vectors; the base of both zuko and `Flow` is the standard normal."""

    def __init__(self, space: Space, flow: zuko.lazy.Flow, dequantization: DequantizationName, alpha: float) -> None:
        bijections = [Flatten(space.shape), TransformBijection(flow.transform)]
        super().__init__(space, bijections, dequantization=dequantization, alpha=alpha)


class NICE(Zuko):
    """NICE of zuko: couplings of alternately the even and the odd dimensions, affine as in Real NVP, or additive."""

    def __init__(
        self,
        space: Space,
        *,
        transforms: int = 8,
        hidden: tuple[int, ...] = (256, 256),
        additive: bool = False,
        dequantization: DequantizationName = "uniform",
        alpha: float = 0.05,
    ) -> None:
        map = {"univariate": zuko.transforms.AdditiveTransform, "shapes": [()]} if additive else {}
        flow = zuko.flows.NICE(space.dims, transforms=transforms, hidden_features=hidden, **map)
        super().__init__(space, flow, dequantization, alpha)


class MAF(Zuko):
    """Masked autoregressive flow of zuko; each transform reverses the order of the dimensions."""

    def __init__(
        self,
        space: Space,
        *,
        transforms: int = 5,
        hidden: tuple[int, ...] = (256, 256),
        dequantization: DequantizationName = "uniform",
        alpha: float = 0.05,
    ) -> None:
        flow = zuko.flows.MAF(space.dims, transforms=transforms, hidden_features=hidden)
        super().__init__(space, flow, dequantization, alpha)


class NSF(Zuko):
    """Neural spline flow of zuko, autoregressive (or, with `passes` = 2, of couplings), with splines on [-5, 5]."""

    def __init__(
        self,
        space: Space,
        *,
        transforms: int = 4,
        hidden: tuple[int, ...] = (256, 256),
        bins: int = 8,
        passes: int | None = None,
        dequantization: DequantizationName = "uniform",
        alpha: float = 0.05,
    ) -> None:
        flow = zuko.flows.NSF(space.dims, transforms=transforms, hidden_features=hidden, bins=bins, passes=passes)
        super().__init__(space, flow, dequantization, alpha)
