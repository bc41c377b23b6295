"""zuko's flows as models of genbench: how a library is brought in (`pip install 'genbench[peers]'`).

A suite names them ``peers.zuko_flows:NSF``, found from the folder one calls from; nothing is registered. A model is a
`genbench.model.Model` with `sample` and `log_prob`. A flow needs less: its map from data to base as a `Bijection`,
which `Flow` makes a model of, with dequantisation, logit, base density and sampling. The keyword arguments of a class,
with their types and defaults, are the options that a suite may set.
"""

from __future__ import annotations

import zuko
from torch import Tensor

from genbench.dataset import Space
from genbench.models.dequantization import Dequantization
from genbench.models.flows.bijection import Bijection
from genbench.models.flows.flow import Flow
from genbench.models.flows.reshaping import Flatten


class Transformed(Bijection):
    """A transform of zuko's, which maps data (B, D) to base (B, D) as ours do."""

    def __init__(self, transform: zuko.lazy.LazyTransform) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.transform().call_and_ladj(x)

    def inverse(self, y: Tensor) -> Tensor:
        return self.transform().inv(y)


class Zuko(Flow):
    """A flow of zuko's on vectors; its base is the standard normal, and so is `Flow`'s."""

    def __init__(self, space: Space, flow: zuko.lazy.Flow, dequantization: Dequantization, alpha: float) -> None:
        bijections = [Flatten(space.shape), Transformed(flow.transform)]
        super().__init__(space, bijections, dequantization=dequantization, alpha=alpha)


class NICE(Zuko):
    """zuko's NICE: couplings of the even and the odd dimensions in turn, affine as Real NVP's, or additive."""

    def __init__(
        self,
        space: Space,
        *,
        transforms: int = 8,
        hidden: tuple[int, ...] = (256, 256),
        additive: bool = False,
        dequantization: Dequantization = "uniform",
        alpha: float = 0.05,
    ) -> None:
        map = {"univariate": zuko.transforms.AdditiveTransform, "shapes": [()]} if additive else {}
        flow = zuko.flows.NICE(space.dims, transforms=transforms, hidden_features=hidden, **map)
        super().__init__(space, flow, dequantization, alpha)


class MAF(Zuko):
    """zuko's masked autoregressive flow; the order of the dimensions is reversed from one transform to the next."""

    def __init__(
        self,
        space: Space,
        *,
        transforms: int = 5,
        hidden: tuple[int, ...] = (256, 256),
        dequantization: Dequantization = "uniform",
        alpha: float = 0.05,
    ) -> None:
        flow = zuko.flows.MAF(space.dims, transforms=transforms, hidden_features=hidden)
        super().__init__(space, flow, dequantization, alpha)


class NSF(Zuko):
    """zuko's neural spline flow, autoregressive (or, with `passes` = 2, of couplings); splines live on [-5, 5]."""

    def __init__(
        self,
        space: Space,
        *,
        transforms: int = 4,
        hidden: tuple[int, ...] = (256, 256),
        bins: int = 8,
        passes: int | None = None,
        dequantization: Dequantization = "uniform",
        alpha: float = 0.05,
    ) -> None:
        flow = zuko.flows.NSF(space.dims, transforms=transforms, hidden_features=hidden, bins=bins, passes=passes)
        super().__init__(space, flow, dequantization, alpha)
