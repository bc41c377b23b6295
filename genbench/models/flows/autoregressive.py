"""Autoregressive bijections: each dimension is transformed with parameters computed from the dimensions before it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from genbench.dataset import Space
from genbench.models.flows.bijection import Bijection
from genbench.models.flows.elementwise import Affine, Elementwise
from genbench.models.flows.flow import Flow
from genbench.models.flows.normalization import NORMS, Norm
from genbench.models.flows.reshaping import Flatten
from genbench.nets.activations import Activation
from genbench.nets.masked import MaskedMLP


class MaskedAutoregressive(Bijection):
    """y_i = f(x_i; net(x_1 ... x_i-1)), f a monotone map of each entry (Masked Autoregressive Flow, 2017, eq. 3-5).

    `net` gives map.parameters numbers for each dimension. The forward direction, which gives densities, is one pass of
    the network; the inverse computes the D dimensions one after another.
    """

    def __init__(self, net: MaskedMLP, map: Elementwise) -> None:
        super().__init__()
        self.net, self.map = net, map

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.map(x, self.net(x))

    def inverse(self, y: Tensor) -> Tensor:
        return self.net.unroll(len(y), lambda i, params: self.map.inverse(y[:, i : i + 1], params))


class InverseAutoregressive(Bijection):
    """y_i = f(x_i; net(y_1 ... y_i-1)): conditioned on outputs (Inverse Autoregressive Flow, 2016, eq. 9-11).

    The inverse direction, which samples, is one pass of the network. The forward direction, which gives densities and
    is trained by maximum likelihood, computes the D dimensions one after another, with gradients through all of them:
    as many multiplications as one pass, in D times as many calls, so that at D = 64 a training step takes a dozen
    times as long as with `MaskedAutoregressive`.
    """

    def __init__(self, net: MaskedMLP, map: Elementwise) -> None:
        super().__init__()
        self.net, self.map = net, map

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logdets = []

        def entry(i: int, params: Tensor) -> Tensor:
            y, logdet = self.map(x[:, i : i + 1], params)
            logdets.append(logdet)
            return y

        return self.net.unroll(len(x), entry), torch.stack(logdets).sum(0)

    def inverse(self, y: Tensor) -> Tensor:
        return self.map.inverse(y, self.net(y))


def alternating_orders(D: int, layers: int) -> list[list[int]]:
    """Return an order of D dimensions for each layer: ascending and descending alternately (MAF, 2017, section 3.1)."""
    return [list(range(D))[:: (-1) ** i] for i in range(layers)]


class AffineAutoregressive(Flow):
    """Affine maps of each dimension, conditioned on the others in an order that is reversed with each layer.

    Args:
        layers: number of layers.
        hidden: widths of each layer's masked MLP.
        norm: before each layer: ActNorm, or batch norm on running averages.
        scale: s as a function of the network's output: 3 tanh(output), the output, or log sigmoid(output + 2).
        residual: skip connections between hidden layers.
        **options: see `Flow`.
    """

    layer: ClassVar[type[MaskedAutoregressive] | type[InverseAutoregressive]]

    def __init__(
        self,
        space: Space,
        *,
        layers: int = 5,
        hidden: tuple[int, ...] = (256, 256),
        norm: Norm = "act",
        scale: Literal["tanh", "exp", "sigmoid"] = "tanh",
        residual: bool = False,
        activation: Activation = "relu",
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        D, map = space.dims, Affine(scale)
        bijections: list[Bijection] = [Flatten(space.shape)]
        for order in alternating_orders(D, layers):
            net = MaskedMLP(
                D,
                map.parameters,
                hidden,
                order=order,
                activation=activation,
                dropout=dropout,
                residual=residual,
                zero=True,
            )
            bijections += [*NORMS[norm]((D,)), self.layer(net, map)]
        super().__init__(space, bijections, **options)
