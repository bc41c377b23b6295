"""Glow: Generative Flow with Invertible 1x1 Convolutions (2018)."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from genbench.dataset import Space
from genbench.models.flows.bijection import Bijection, Shape
from genbench.models.flows.coupling import AffineCoupling, Net
from genbench.models.flows.flow import Flow
from genbench.models.flows.lu import LULinear, Start
from genbench.models.flows.normalization import ActNorm
from genbench.models.flows.reshaping import Flatten, divisible, multi_scale
from genbench.nets.activations import Activation
from genbench.nets.convnet import convnet
from genbench.nets.mlp import mlp

__all__ = ["Glow"]


def step_of_flow(shape: Shape, net: Net, start: Start) -> list[Bijection]:
    """Return ActNorm, invertible 1x1 convolution, affine coupling (figure 2a)."""
    C, split = shape[0], (shape[0] + 1) // 2
    coupling = AffineCoupling(net(split, 2 * (C - split)), C, split, scale="sigmoid")
    return [ActNorm(shape), LULinear(shape, start=start), coupling]


def steps_of_flow(shape: Shape, n: int, net: Net, start: Start) -> list[Bijection]:
    """Return n steps."""
    return [bijection for _ in range(n) for bijection in step_of_flow(shape, net, start)]


class Glow(Flow):
    """Steps of ActNorm, an invertible 1x1 convolution and an affine coupling; multi-scale on images.

    Args:
        depth: K, the number of steps; on images at each level.
        hidden: widths of a coupling's MLP (vectors).
        levels, channels: L, and the width of a coupling's convolutions (images).
        network: "mlp" treats an image as a vector.
        start: of the 1x1 convolutions: the identity, or random rotations as in the paper (section 3.2).
        **options: see `Flow`.

    Raises:
        ValueError: the sides of an image cannot be halved `levels` times.
    """

    def __init__(
        self,
        space: Space,
        *,
        depth: int = 8,
        hidden: tuple[int, ...] = (256, 256),
        levels: int = 2,
        channels: int = 64,
        network: Literal["auto", "mlp"] = "auto",
        start: Start = "identity",
        activation: Activation = "relu",
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        net: Net
        if space.is_image and network == "auto":
            net = partial(convnet, channels=channels, activation=activation, dropout=dropout, zero=True)
            steps = partial(steps_of_flow, n=depth, net=net, start=start)
            bijections = multi_scale(divisible(space.shape, levels=levels), levels, steps)
        else:
            net = partial(mlp, hidden=hidden, activation=activation, dropout=dropout, zero=True)
            bijections = [Flatten(space.shape), *steps_of_flow((space.dims,), depth, net, start)]
        super().__init__(space, bijections, **options)
