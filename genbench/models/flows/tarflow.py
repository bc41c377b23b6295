"""TarFlow: Normalizing Flows are Capable Generative Models (2024)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from genbench_kernels.affine_coupling import affine_coupling
from torch import Tensor

from genbench.dataset import Space
from genbench.models.flows.bijection import Bijection, Shape
from genbench.models.flows.elementwise import Elementwise
from genbench.models.flows.flow import Flow
from genbench.models.flows.mixture_cdf import MixtureLogit
from genbench.models.flows.reshaping import Flatten, Permutation
from genbench.nets.transformer import Past, Transformer

__all__ = ["TarFlow"]

# Standard deviation of embeddings of positions, as large as tokens are. With 0.02 attention does not learn to look at
# a place for hundreds of steps: each patch follows the one before it alone, and rows of an image do not fit together.
POSITIONS = 1.0


@dataclass(frozen=True)
class MeanScale(Elementwise):
    """z = (x - mu) e^-alpha, params (alpha, mu): the paper's map."""

    parameters = 2

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return affine_coupling(x, params, layout="interleave", inverse=True)

    def inverse(self, y: Tensor, params: Tensor) -> Tensor:
        return affine_coupling(y, params, layout="interleave")[0]


def patches(shape: Shape, side: int) -> Tensor:
    """Return the order (T, P) of the entries of `shape` in T tokens: squares of an image row by row, or each entry.

    Raises:
        ValueError: `side` does not divide the sides of an image.
    """
    places = torch.arange(torch.Size(shape).numel()).view(shape)
    if len(shape) != 3:
        return places.view(-1, 1)
    if any(n % side for n in shape[1:]):
        raise ValueError(f"patch={side} must divide the sides of {shape[1]}x{shape[2]}")
    return places.unfold(1, side, side).unfold(2, side, side).permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)


def strided(shape: Shape, side: int) -> Tensor:
    """Return `patches` of as many tokens, each of pixels as far apart as `side` by `side` of them can be."""
    if len(shape) != 3:
        return patches(shape, side)
    C, H, W = shape
    T, P = patches(shape, side).shape
    places = torch.arange(T * P).view(C, side, H // side, side, W // side)
    return places.permute(2, 4, 0, 1, 3).reshape(T, P)


Grid = Literal["patches", "strided"]
GRIDS: dict[Grid, Callable[[Shape, int], Tensor]] = {"patches": patches, "strided": strided}


class Autoregressive(Bijection):
    """z_t = f(x_t; net(x_1 .. x_(t-1))) of tokens t, f a monotone map of each entry; x (B, T P).

    All at once forward; the inverse goes token by token, with the keys and values of those done.
    """

    def __init__(self, net: Transformer, tokens: int, map: Elementwise) -> None:
        super().__init__()
        self.net, self.tokens, self.map = net, tokens, map

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        params = self.net(x.unflatten(1, (self.tokens, -1)))
        return self.map(x, params.flatten(1))

    def inverse(self, y: Tensor) -> Tensor:
        past: Past = {}
        x: list[Tensor] = []
        for t, z in enumerate(y.unflatten(1, (self.tokens, -1)).unbind(1)):
            x.append(self.map.inverse(z, self.net.step(x[-1] if x else z, t, past)))
        return torch.cat(x, 1)


def in_order(order: Tensor, flow: Bijection) -> list[Bijection]:
    """Return a flow of tokens (T, P) between the dimensions and the `order` (T, P) in which it takes them."""
    return [Permutation(order.flatten()), flow, Permutation(order.flatten().argsort())]


class TarFlow(Flow):
    """Autoregressive transformers over patches of an image, forwards and backwards in turn.

    The paper writes [P-Ch-T-K] for patch, channels, blocks and layers. Not here: its noise augmentation with the
    denoising of samples, and its guidance, which make samples look better, not likelihood. Its own affine map on
    pixels with uniform noise spends most of training on the scale of that noise; with `marginals` images come out
    whole much sooner. `grids` and `components` are not its own.

    Args:
        patch: P, the side of a patch (images); of a vector each dimension is a token.
        channels, heads: Ch, the width of the transformers, and how many heads their attention has.
        blocks: T, how many flows.
        layers: K, how many layers of attention in each.
        grids: what the flows take as tokens, in turn: patches, or as many pixels far apart. The paper's are all
            patches, and then the pixels of a patch tell of one another only by way of other patches.
        components: of a mixture of logistics, whose distribution function moves each entry (as in Flow++, 2019); 0: the
            paper's affine map.
        dropout: in the transformers.
        **options: as `Flow` takes them.

    Raises:
        ValueError: `patch` does not divide the sides of an image, or `heads` the channels.
    """

    def __init__(
        self,
        space: Space,
        *,
        patch: int = 2,
        channels: int = 64,
        heads: int = 4,
        blocks: int = 4,
        layers: int = 2,
        grids: tuple[Grid, ...] = ("patches",),
        components: int = 0,
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        map = MixtureLogit(components) if components else MeanScale()
        bijections: list[Bijection] = [Flatten(space.shape)]
        for i in range(blocks):
            order = GRIDS[grids[i % len(grids)]](space.shape, patch)
            T, P = order.shape
            net = Transformer(
                P,
                map.parameters * P,
                T,
                width=channels,
                depth=layers,
                heads=heads,
                dropout=dropout,
                zero=True,
                positions=POSITIONS,
            )
            bijections += in_order(order.flip(0) if i % 2 else order, Autoregressive(net, T, map))
        super().__init__(space, bijections, **options)
