"""Density estimation using Real NVP (2017)."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from genbench.dataset import Space
from genbench.models.flows.bijection import Bijection, Chain, Shape
from genbench.models.flows.checkerboard import DIAGONAL_FIRST, rows_from_checkerboard
from genbench.models.flows.coupling import MakeCoupling, Net, affine_couplings, alternating_couplings
from genbench.models.flows.flow import Flow
from genbench.models.flows.normalization import NORMS, Norm
from genbench.models.flows.reshaping import Flatten, MultiScale, Permutation, Squeeze, alternating, divisible
from genbench.nets.activations import Activation
from genbench.nets.mlp import mlp
from genbench.nets.resnet import resnet

__all__ = ["RealNVP"]


def checkerboard_multi_scale(
    shape: Shape, scales: int, n: int, make_coupling: MakeCoupling, norm: Norm
) -> list[Bijection]:
    """Return, scale by scale, checkerboard couplings, channel couplings and the split of half the channels.

    Section 3.6. The checkerboard is a half of the channels of the squeezed image, so nothing masked is computed.
    """
    C, H, W = shape
    squeezed = (4 * C, H // 2, W // 2)
    on_checkerboard, swapped = (n + 1) // 2, bool((n + 1) // 2 % 2)
    steps = [
        Squeeze(DIAGONAL_FIRST),
        *alternating_couplings(squeezed, on_checkerboard, make_coupling, NORMS[norm]),
        Permutation(rows_from_checkerboard(C, swapped)),
        *alternating_couplings(squeezed, n - on_checkerboard, make_coupling, NORMS[norm]),
    ]
    if scales == 1:
        return [*steps, Flatten(squeezed)]
    rest = checkerboard_multi_scale((2 * C, H // 2, W // 2), scales - 1, n, make_coupling, norm)
    return [*steps, MultiScale(squeezed, Chain(rest))]


class RealNVP(Flow):
    """Affine couplings of alternate halves, s = gain tanh; on images checkerboard and channel masks, multi-scale.

    Args:
        couplings: number of couplings; on images at each scale, half with either mask.
        norm: before each coupling: ActNorm, or the paper's batch norm on running averages.
        hidden: widths of a coupling's MLP (vectors).
        scales, channels, blocks: of the multi-scale architecture and its residual networks (images).
        network: "mlp" treats an image as a vector.
        **options: see `Flow`.

    Raises:
        ValueError: the sides of an image cannot be halved `scales` times.
    """

    def __init__(
        self,
        space: Space,
        *,
        couplings: int = 8,
        norm: Norm = "act",
        hidden: tuple[int, ...] = (256, 256),
        scales: int = 2,
        channels: int = 32,
        blocks: int = 2,
        network: Literal["auto", "mlp"] = "auto",
        activation: Activation = "relu",
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        net: Net
        if space.is_image and network == "auto":
            net = partial(resnet, channels=channels, blocks=blocks, activation=activation, dropout=dropout, zero=True)
            shape = divisible(space.shape, scales=scales)
            bijections = checkerboard_multi_scale(shape, scales, couplings, affine_couplings(net), norm)
        else:
            net = partial(mlp, hidden=hidden, activation=activation, dropout=dropout, zero=True)
            bijections = [Flatten(space.shape), Permutation(alternating(space.shape))]
            bijections += alternating_couplings((space.dims,), couplings, affine_couplings(net), NORMS[norm])
        super().__init__(space, bijections, **options)
