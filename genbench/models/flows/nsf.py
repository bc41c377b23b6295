"""Neural Spline Flows (2019): monotone rational-quadratic splines in couplings, or autoregressive."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch

from genbench.dataset import Space
from genbench.models.flows.autoregressive import MaskedAutoregressive, alternating_orders
from genbench.models.flows.bijection import Bijection, Shape
from genbench.models.flows.coupling import Net, alternating_couplings, elementwise_couplings
from genbench.models.flows.flow import Flow
from genbench.models.flows.lu import LULinear
from genbench.models.flows.normalization import NORMS, Norm
from genbench.models.flows.reshaping import Flatten, Permutation, divisible, multi_scale
from genbench.models.flows.spline import Spline
from genbench.nets.activations import Activation
from genbench.nets.masked import MaskedMLP
from genbench.nets.mlp import mlp
from genbench.nets.resnet import resnet

__all__ = ["NSF", "AutoregressiveNSF"]

LinearName = Literal["lu", "permutation", "none"]

LINEARS: dict[LinearName, Callable[[Shape], list[Bijection]]] = {
    "lu": lambda shape: [Permutation(torch.randperm(shape[0])), LULinear(shape, start="identity")],
    "permutation": lambda shape: [Permutation(torch.randperm(shape[0]))],
    "none": lambda shape: [],
}


class NSF(Flow):
    """Couplings by rational-quadratic splines, with a linear map of the channels before each; multi-scale on images.

    Args:
        couplings: number of couplings; on images at each level.
        bins, bound: K bins on [-bound, bound]; outside, the spline is the identity.
        linear: "lu": a full matrix by its LU factors (a 1x1 convolution on images), which starts as a random
            permutation, so that splines first act on single dimensions of the data; "permutation": only that
            permutation; "none": each coupling transforms the half that the one before did not.
        norm: before each coupling: ActNorm, or batch norm on running averages.
        hidden: widths of a coupling's MLP (vectors).
        levels, channels, blocks: of the multi-scale architecture and its residual networks (images).
        network: "mlp" treats an image as a vector.
        **options: see `Flow`.

    Raises:
        ValueError: the sides of an image cannot be halved `levels` times, or there are less than two bins.
    """

    def __init__(
        self,
        space: Space,
        *,
        couplings: int = 4,
        bins: int = 8,
        bound: float = 4.0,
        linear: LinearName = "lu",
        norm: Norm = "act",
        hidden: tuple[int, ...] = (256, 256),
        levels: int = 2,
        channels: int = 32,
        blocks: int = 1,
        network: Literal["auto", "mlp"] = "auto",
        activation: Activation = "relu",
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        map, before = Spline(bins, bound), (NORMS[norm], LINEARS[linear])
        net: Net
        if space.is_image and network == "auto":
            net = partial(resnet, channels=channels, blocks=blocks, activation=activation, dropout=dropout, zero=True)
            bijections = multi_scale(
                divisible(space.shape, levels=levels),
                levels,
                lambda shape: alternating_couplings(shape, couplings, elementwise_couplings(map, net), *before),
            )
        else:
            net = partial(mlp, hidden=hidden, activation=activation, dropout=dropout, zero=True)
            bijections = [Flatten(space.shape)]
            bijections += alternating_couplings((space.dims,), couplings, elementwise_couplings(map, net), *before)
        super().__init__(space, bijections, **options)


class AutoregressiveNSF(Flow):
    """Splines of each dimension, conditioned on those before it, in an order that is reversed with each layer.

    Args:
        layers: number of layers.
        bins, bound: K bins on [-bound, bound]; outside, the spline is the identity.
        linear: before each layer, see `NSF`.
        norm: before each layer: ActNorm, or batch norm on running averages.
        hidden: widths of each layer's masked MLP.
        residual: skip connections between hidden layers.
        **options: see `Flow`.

    Raises:
        ValueError: there are less than two bins.
    """

    def __init__(
        self,
        space: Space,
        *,
        layers: int = 3,
        bins: int = 8,
        bound: float = 4.0,
        linear: LinearName = "none",
        norm: Norm = "act",
        hidden: tuple[int, ...] = (256, 256),
        residual: bool = False,
        activation: Activation = "relu",
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        D, map = space.dims, Spline(bins, bound)
        made = partial(MaskedMLP, D, map.parameters, hidden, activation=activation, dropout=dropout, residual=residual)
        bijections: list[Bijection] = [Flatten(space.shape)]
        for order in alternating_orders(D, layers):
            layer = MaskedAutoregressive(made(order=order, zero=True), map)
            bijections += [*NORMS[norm]((D,)), *LINEARS[linear]((D,)), layer]
        super().__init__(space, bijections, **options)
