"""Flows of normflows as genbench models; see also zuko_flows.py."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import normflows as nf
import torch
from torch import Tensor, nn

from genbench.dataset import Space
from genbench.models.dequantization import DequantizationName
from genbench.models.flows.bijection import Bijection
from genbench.models.flows.flow import Flow
from genbench.models.flows.reshaping import Flatten


class InverseLayer(Bijection):
    """A normflows layer as a bijection from data to base; the forward direction of normflows is from base to data."""

    def __init__(self, layer: nf.flows.Flow) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer.inverse(x)

    def inverse(self, y: Tensor) -> Tensor:
        return self.layer(y)[0]


class Normflows(Flow):
    """A flow of normflows layers on vectors; the first layer is next to the data."""

    def __init__(
        self, space: Space, layers: Iterable[nf.flows.Flow], dequantization: DequantizationName, alpha: float
    ) -> None:
        bijections = [Flatten(space.shape), *map(InverseLayer, layers)]
        super().__init__(space, bijections, dequantization=dequantization, alpha=alpha)


def coupling_network(D: int, hidden: tuple[int, ...]) -> nn.Module:
    """Return an MLP from the first half of D dimensions to s and t of the second, with zero output at first."""
    return nf.nets.MLP([(D + 1) // 2, *hidden, 2 * (D // 2)], init_zeros=True)


class RealNVP(Normflows):
    """RealNVP of normflows: affine couplings of alternating halves, with ActNorm."""

    def __init__(
        self,
        space: Space,
        *,
        couplings: int = 8,
        hidden: tuple[int, ...] = (256, 256),
        dequantization: DequantizationName = "uniform",
        alpha: float = 0.05,
    ) -> None:
        D, layers = space.dims, list[nf.flows.Flow]()
        for _ in range(couplings):
            coupling = nf.flows.AffineCouplingBlock(coupling_network(D, hidden))
            layers += [nf.flows.ActNorm(D), nf.flows.Permute(D, mode="swap"), coupling]
        super().__init__(space, layers, dequantization, alpha)


class Glow(Normflows):
    """Glow of normflows for vectors: ActNorm, an LU-factored matrix, an affine coupling."""

    def __init__(
        self,
        space: Space,
        *,
        depth: int = 8,
        hidden: tuple[int, ...] = (256, 256),
        dequantization: DequantizationName = "uniform",
        alpha: float = 0.05,
    ) -> None:
        D, layers = space.dims, list[nf.flows.Flow]()
        for _ in range(depth):
            coupling = nf.flows.AffineCouplingBlock(coupling_network(D, hidden), scale_map="sigmoid")
            layers += [nf.flows.ActNorm(D), nf.flows.InvertibleAffine(D), coupling]
        super().__init__(space, layers, dequantization, alpha)


class SplineNet(nn.Module):
    """An MLP of normflows with the interface that its spline couplings need."""

    def __init__(self, inputs: int, outputs: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.net = nf.nets.MLP([inputs, *hidden, outputs], init_zeros=True)
        self.hidden_features = hidden[-1]  # the couplings divide the output by its square root

    def forward(self, x: Tensor, context: None = None) -> Tensor:
        """Return the parameters of the splines."""
        return self.net(x)


class SplineCoupling(nf.flows.Flow):
    """Rational-quadratic spline coupling of normflows; it transforms dimensions i with (i - parity) even."""

    def __init__(self, D: int, hidden: tuple[int, ...], bins: int, bound: float, parity: int) -> None:
        super().__init__()
        make = nf.flows.neural_spline.coupling.PiecewiseRationalQuadraticCoupling
        mask, net = torch.arange(D) % 2 == parity % 2, partial(SplineNet, hidden=hidden)
        self.coupling = make(mask, net, num_bins=bins, tails="linear", tail_bound=bound)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and the log-determinant; this is the forward direction of the class in normflows."""
        return self.coupling(x)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and the log-determinant."""
        return self.coupling.inverse(z)


class NSF(Normflows):
    """Neural spline flow of normflows: spline couplings, each after a permutation and an LU-factored matrix."""

    def __init__(
        self,
        space: Space,
        *,
        couplings: int = 4,
        hidden: tuple[int, ...] = (256, 256),
        bins: int = 8,
        bound: float = 5.0,
        dequantization: DequantizationName = "uniform",
        alpha: float = 0.05,
    ) -> None:
        D, layers = space.dims, list[nf.flows.Flow]()
        for i in range(couplings):
            layers += [nf.flows.LULinearPermute(D), SplineCoupling(D, hidden, bins, bound, parity=i)]
        super().__init__(space, layers, dequantization, alpha)
