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
from genbench.nets.transformer import KVCache, Transformer

__all__ = ["TarFlow"]

# Standard deviation of position embeddings, as large as the tokens. With 0.02, attention takes hundreds of steps to
# learn to use positions: until then each patch depends only on the one before it, and rows of an image do not match.
POSITION_STD = 1.0


@dataclass(frozen=True)
class MeanScale(Elementwise):
    """z = (x - mu) e^-alpha, params (alpha, mu)."""

    parameters = 2

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return affine_coupling(x, params, layout="interleave", inverse=True)

    def inverse(self, y: Tensor, params: Tensor) -> Tensor:
        return affine_coupling(y, params, layout="interleave")[0]


def patches(shape: Shape, side: int) -> Tensor:
    """Return the order (T, P) of the entries of `shape` in T tokens: squares of an image row by row, or single entries.

    Raises:
        ValueError: `side` does not divide the sides of an image.
    """
    indices = torch.arange(torch.Size(shape).numel()).view(shape)
    if len(shape) != 3:
        return indices.view(-1, 1)
    if any(n % side for n in shape[1:]):
        raise ValueError(f"patch={side} must divide the sides of {shape[1]}x{shape[2]}")
    return indices.unfold(1, side, side).unfold(2, side, side).permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)


def strided(shape: Shape, side: int) -> Tensor:
    """Return tokens of the same size as `patches`, each with pixels that are as far apart as possible."""
    if len(shape) != 3:
        return patches(shape, side)
    C, H, W = shape
    T, P = patches(shape, side).shape
    indices = torch.arange(T * P).view(C, side, H // side, side, W // side)
    return indices.permute(2, 4, 0, 1, 3).reshape(T, P)


Grid = Literal["patches", "strided"]
GRIDS: dict[Grid, Callable[[Shape, int], Tensor]] = {"patches": patches, "strided": strided}


class TokenAutoregressive(Bijection):
    """z_t = f(x_t; net(x_1 .. x_(t-1))) for tokens t, f a monotone map of each entry; x (B, T P).

    Forward, all tokens are computed at once; the inverse computes them one by one, with cached keys and values.
    """

    def __init__(self, net: Transformer, tokens: int, map: Elementwise) -> None:
        super().__init__()
        self.net, self.tokens, self.map = net, tokens, map

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        params = self.net(x.unflatten(1, (self.tokens, -1)))
        return self.map(x, params.flatten(1))

    def inverse(self, y: Tensor) -> Tensor:
        cache: KVCache = {}
        x: list[Tensor] = []
        for t, z in enumerate(y.unflatten(1, (self.tokens, -1)).unbind(1)):
            x.append(self.map.inverse(z, self.net.step(x[-1] if x else z, t, cache)))
        return torch.cat(x, 1)


def in_order(order: Tensor, f: Bijection) -> list[Bijection]:
    """Return a bijection of tokens, with the permutations to the `order` (T, P) of its tokens and back."""
    return [Permutation(order.flatten()), f, Permutation(order.flatten().argsort())]


class TarFlow(Flow):
    """Autoregressive transformers over patches of an image, alternately in forward and reverse order.

    The paper writes [P-Ch-T-K] for patch, channels, blocks and layers. Its noise augmentation with denoising of
    samples, and its guidance, are left out: they improve how samples look, not likelihood. With its affine map, on
    pixels with uniform noise, most of training goes into the scale of that noise; with `marginals` images become
    coherent much sooner. `grids` and `components` are not in the paper.

    Args:
        patch: P, the side of a patch (images); of a vector each dimension is a token.
        channels, heads: Ch, the width of the transformers, and the number of attention heads.
        blocks: T, the number of flows.
        layers: K, the number of attention layers in each.
        grids: the tokens of the flows, cyclically: patches, or as many pixels far apart. With patches only, as in the
            paper, the pixels of a patch depend on one another only through other patches.
        components: of a mixture of logistics, whose distribution function transforms each entry (as in Flow++, 2019);
            0 for the paper's affine map.
        dropout: in the transformers.
        **options: see `Flow`.

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
                position_std=POSITION_STD,
            )
            bijections += in_order(order.flip(0) if i % 2 else order, TokenAutoregressive(net, T, map))
        super().__init__(space, bijections, **options)
