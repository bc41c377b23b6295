"""normflows' flows as models of genbench, built of its layers; see zuko_flows.py beside it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import normflows as nf
import torch
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


class SplineNet(nn.Module):
    """normflows' perceptron as its spline couplings call it."""

    def __init__(self, inputs: int, outputs: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.net = nf.nets.MLP([inputs, *hidden, outputs], init_zeros=True)
        self.hidden_features = hidden[-1]  # by whose root they divide what it gives

    def forward(self, x: Tensor, context: None = None) -> Tensor:
        """Return the parameters of the splines."""
        return self.net(x)


class SplineCoupling(nf.flows.Flow):
    """normflows' rational-quadratic spline coupling; `turn` says whether the even or the odd dimensions are moved."""

    def __init__(self, D: int, hidden: tuple[int, ...], bins: int, bound: float, turn: int) -> None:
        super().__init__()
        make = nf.flows.neural_spline.coupling.PiecewiseRationalQuadraticCoupling
        mask, net = torch.arange(D) % 2 == turn % 2, partial(SplineNet, hidden=hidden)
        self.coupling = make(mask, net, num_bins=bins, tails="linear", tail_bound=bound)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and the log-determinant, which of this class of theirs is the forward direction."""
        return self.coupling(x)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and the log-determinant."""
        return self.coupling.inverse(z)


class NSF(Normflows):
    """normflows' neural spline flow: spline couplings, a permutation and an LU-factored matrix before each."""

    def __init__(
        self,
        space: Space,
        *,
        couplings: int = 4,
        hidden: tuple[int, ...] = (256, 256),
        bins: int = 8,
        bound: float = 5.0,
        dequantization: Dequantization = "uniform",
        alpha: float = 0.05,
    ) -> None:
        D, layers = space.dims, list[nf.flows.Flow]()
        for i in range(couplings):
            layers += [nf.flows.LULinearPermute(D), SplineCoupling(D, hidden, bins, bound, turn=i)]
        super().__init__(space, layers, dequantization, alpha)
