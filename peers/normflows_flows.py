"""normflows' flows as models of genbench, each built as its documentation does; see zuko_flows.py beside it."""

from __future__ import annotations

from collections.abc import Iterable

import normflows as nf
from torch import Tensor, nn

from genbench.dataset import Space
from genbench.models.dequantization import Dequantization
from genbench.models.flows.bijection import Bijection
from genbench.models.flows.flow import Flow
from genbench.models.flows.reshaping import Flatten


class Inverted(Bijection):
    """A layer of normflows', which maps base to data: its inverse is what ours call forward."""

    def __init__(self, layer: nf.flows.Flow) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer.inverse(x)

    def inverse(self, y: Tensor) -> Tensor:
        return self.layer(y)[0]


class Normflows(Flow):
    """Layers of normflows' on vectors, the first of them next to the data."""

    def __init__(
        self, space: Space, layers: Iterable[nf.flows.Flow], dequantization: Dequantization, alpha: float
    ) -> None:
        bijections = [Flatten(space.shape), *map(Inverted, layers)]
        super().__init__(space, bijections, dequantization=dequantization, alpha=alpha)


def perceptron(D: int, hidden: tuple[int, ...]) -> nn.Module:
    """Return a network that starts at zero, from the first half of D dimensions to s and t of the second."""
    return nf.nets.MLP([(D + 1) // 2, *hidden, 2 * (D // 2)], init_zeros=True)


class RealNVP(Normflows):
    """normflows' affine couplings of two halves in turn, with ActNorm."""

    def __init__(
        self,
        space: Space,
        *,
        couplings: int = 8,
        hidden: tuple[int, ...] = (256, 256),
        dequantization: Dequantization = "uniform",
        alpha: float = 0.05,
    ) -> None:
        D, layers = space.dims, list[nf.flows.Flow]()
        for _ in range(couplings):
            coupling = nf.flows.AffineCouplingBlock(perceptron(D, hidden))
            layers += [nf.flows.ActNorm(D), nf.flows.Permute(D, mode="swap"), coupling]
        super().__init__(space, layers, dequantization, alpha)


class Glow(Normflows):
    """normflows' Glow for vectors: ActNorm, an invertible matrix by its LU factors, an affine coupling."""

    def __init__(
        self,
        space: Space,
        *,
        depth: int = 8,
        hidden: tuple[int, ...] = (256, 256),
        dequantization: Dequantization = "uniform",
        alpha: float = 0.05,
    ) -> None:
        D, layers = space.dims, list[nf.flows.Flow]()
        for _ in range(depth):
            coupling = nf.flows.AffineCouplingBlock(perceptron(D, hidden), scale_map="sigmoid")
            layers += [nf.flows.ActNorm(D), nf.flows.InvertibleAffine(D), coupling]
        super().__init__(space, layers, dequantization, alpha)


class NSF(Normflows):
    """normflows' neural spline flow: spline couplings with residual networks, each after a permutation and a matrix.

    Splines live on [-bound, bound].
    """

    def __init__(
        self,
        space: Space,
        *,
        couplings: int = 4,
        width: int = 256,
        blocks: int = 2,
        bins: int = 8,
        bound: float = 5.0,
        dequantization: Dequantization = "uniform",
        alpha: float = 0.05,
    ) -> None:
        D, layers = space.dims, list[nf.flows.Flow]()
        for _ in range(couplings):
            spline = nf.flows.CoupledRationalQuadraticSpline(D, blocks, width, num_bins=bins, tail_bound=bound)
            layers += [nf.flows.LULinearPermute(D), spline]
        super().__init__(space, layers, dequantization, alpha)
