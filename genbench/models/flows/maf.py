"""Masked Autoregressive Flow for Density Estimation (2017)."""

from __future__ import annotations

from typing import Literal

from genbench.dataset import Space
from genbench.models.dequantization import Dequantization
from genbench.models.flows.autoregressive import MaskedAutoregressive, affine, orders
from genbench.models.flows.bijection import Bijection
from genbench.models.flows.flow import Flow
from genbench.models.flows.monotone import marginals_of
from genbench.models.flows.normalization import NORMS, Norm
from genbench.models.flows.reshaping import Flatten
from genbench.nets.activations import Activation
from genbench.nets.masked import MADE

__all__ = ["MAF"]


class MAF(Flow):
    """Affine maps of each dimension as those before it say, z_i = e^s x_i + t, in an order that turns with each layer.

    Args:
        layers: how many.
        hidden: widths of each layer's MADE.
        norm: before each layer: the paper's batch norm on running averages, or ActNorm.
        scale: what is made of the network's s: 3 tanh s, s itself (the paper), or log sigmoid(s + 2).
        residual: skip connections between hidden layers.
        marginals: components of a monotone map of each dimension that comes first (as in the 1-D flow); 0: none.
    """

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
        marginals: int = 0,
        dequantization: Dequantization = "uniform",
        alpha: float = 0.05,
    ) -> None:
        D = space.dims
        bijections: list[Bijection] = [*marginals_of(space.shape, marginals), Flatten(space.shape)]
        for order in orders(D, layers):
            net = MADE(D, 2, hidden, order=order, activation=activation, dropout=dropout, residual=residual, zero=True)
            bijections += [*NORMS[norm]((D,)), MaskedAutoregressive(net, affine(scale))]
        super().__init__(space, bijections, dequantization=dequantization, alpha=alpha)
