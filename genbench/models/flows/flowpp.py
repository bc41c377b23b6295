"""Flow++: Improving Flow-Based Generative Models with Variational Dequantization and Architecture Design (2019)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch import nn

from genbench.dataset import Space
from genbench.models.dequantization import DequantizationName
from genbench.models.flows.bijection import Bijection, Shape
from genbench.models.flows.checkerboard import DIAGONAL_FIRST, rows_from_checkerboard
from genbench.models.flows.coupling import alternating_couplings, elementwise_couplings
from genbench.models.flows.elementwise import Elementwise
from genbench.models.flows.flow import Flow
from genbench.models.flows.mixture_cdf import MixtureLogit
from genbench.models.flows.normalization import NORMS, Norm
from genbench.models.flows.reshaping import Flatten, Permutation, Squeeze, alternating
from genbench.nets.activations import Activation
from genbench.nets.attention import gated_attention
from genbench.nets.mlp import mlp

__all__ = ["FlowPP"]

Stages = tuple[int, int, int]


def image_stages(
    shape: Shape, stages: Stages, net: Callable[..., nn.Module], map: Elementwise, norm: Norm
) -> list[Bijection]:
    """Return couplings on the checkerboard, on channels of the squeezed image, and on the checkerboard at that size.

    The architecture for CIFAR-10 (in the paper's code 4, 2 and 3 couplings). A checkerboard is a half of the channels
    of the squeezed image, so its networks have half the height as well as half the width. Nothing is factored out.
    """
    C, H, W = shape
    first, second = (4 * C, H // 2, W // 2), (16 * C, H // 4, W // 4)
    at_half, at_quarter = (elementwise_couplings(map, partial(net, size=size)) for size in (first[1:], second[1:]))
    return [
        Squeeze(DIAGONAL_FIRST),
        *alternating_couplings(first, stages[0], at_half, NORMS[norm]),
        Permutation(rows_from_checkerboard(C, bool(stages[0] % 2))),
        *alternating_couplings(first, stages[1], at_half, NORMS[norm]),
        Squeeze(DIAGONAL_FIRST),
        *alternating_couplings(second, stages[2], at_quarter, NORMS[norm]),
        Flatten(second),
    ]


class FlowPP(Flow):
    """Couplings by distribution functions of mixtures of logistics, gated attention nets, variational dequantization.

    Args:
        couplings: number of couplings (vectors).
        components: K, the number of logistics in the mixture of each entry.
        norm: before each coupling.
        hidden: widths of a coupling's MLP (vectors).
        stages: numbers of couplings on the checkerboard, on channels, and on the checkerboard at half size (images).
        channels, blocks, heads: of the networks of gated convolutions and self-attention (images).
        network: "mlp" treats an image as a vector.
        **options: see `Flow`.

    Raises:
        ValueError: the sides of an image cannot be halved twice, or the heads do not divide the channels.
    """

    def __init__(
        self,
        space: Space,
        *,
        couplings: int = 8,
        components: int = 8,
        norm: Norm = "act",
        hidden: tuple[int, ...] = (64, 64),
        stages: Stages = (4, 2, 3),
        channels: int = 32,
        blocks: int = 2,
        heads: int = 4,
        network: Literal["auto", "mlp"] = "auto",
        activation: Activation = "relu",
        dropout: float = 0.0,
        dequantization: DequantizationName = "variational",
        **options: Any,
    ) -> None:
        map = MixtureLogit(components)
        if space.is_image and network == "auto":
            if any(side % 4 for side in space.shape[1:]):
                height, width = space.shape[1:]
                raise ValueError(f"sides are halved twice, so 4 must divide {height}x{width}; network: mlp takes any")
            net = partial(gated_attention, channels=channels, blocks=blocks, heads=heads, dropout=dropout, zero=True)
            bijections = image_stages(space.shape, stages, net, map, norm)
        else:
            flat = partial(mlp, hidden=hidden, activation=activation, dropout=dropout, zero=True)
            bijections = [Flatten(space.shape), Permutation(alternating(space.shape))]
            bijections += alternating_couplings((space.dims,), couplings, elementwise_couplings(map, flat), NORMS[norm])
        super().__init__(space, bijections, dequantization=dequantization, **options)
