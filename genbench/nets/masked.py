"""Masked perceptrons whose outputs for a dimension see the dimensions before it alone (MADE, 2015)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genbench.nets.activations import ACTIVATIONS, Activation, zeroed
from genbench.nets.dropout import dropout
from genbench.nets.linear import linear, plain
from genbench.nets.mlp import Rectified

Weight = tuple[Tensor, Tensor]  # W, b


class MaskedLinear(nn.Linear):
    """y = (mask * W) x + b, x (B, inputs) -> (B, outputs); mask (outputs, inputs) is 1 where the weight is."""

    mask: Tensor
    bias: nn.Parameter

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return y (B, outputs)."""
        return linear(x, self.weight * self.mask, self.bias)


class MaskedWeights(NamedTuple):
    """Of each layer its mask, W and b."""

    masks: Sequence[Tensor]
    W: Sequence[Tensor]
    b: Sequence[Tensor]


def by_turns(W: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    """Return W_1, b_1, W_2, b_2, ..."""
    return [p for pair in zip(W, b, strict=True) for p in pair]


class Masked(torch.autograd.Function):
    """Masks and as many weights -> mask * W of each, in one step for autograd."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        masks, weights = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]
        ctx.save_for_backward(*masks)
        return tuple(torch._foreach_mul(weights, masks))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        masks = ctx.saved_tensors
        return *(None for _ in masks), *(g * mask for g, mask in zip(gradients, masks, strict=True))


def degrees_of(units: int, D: int) -> Tensor:
    """Return degrees 1 to D - 1 spread evenly over `units`, ascending, (units,)."""
    return torch.arange(units) * (D - 1) // units + 1


class MADE(nn.Module):
    """An autoregressive perceptron: for each of D dimensions, numbers that depend on those before it in `order` alone.

    MADE: Masked Autoencoder for Distribution Estimation (2015), eq. 8-9: hidden units have degrees 1 to D - 1, and see
    units of no greater degree; dimension number d of the order sees units of lesser degree. The degrees ascend, so
    that the masks are triangles.

    Args:
        outputs: how many numbers for each dimension.
        hidden: widths of the layers; with D - 1 units or more in each, every dimension is seen by all after it.
        order: the D dimensions, first to last; None: as they come.
        residual: h + f(h) in place of f(h), between layers of equal width.
        zero: it is the zero function until it is trained.
    """

    def __init__(
        self,
        D: int,
        outputs: int,
        hidden: Sequence[int] = (256, 256),
        *,
        order: Sequence[int] | None = None,
        activation: Activation = "relu",
        dropout: float = 0.0,
        residual: bool = False,
        zero: bool = False,
    ) -> None:
        super().__init__()
        self.outputs, self.order = outputs, list(range(D) if order is None else order)
        self.activation, self.dropout = ACTIVATIONS[activation](), dropout
        self.is_closed = activation == "relu" and not residual
        self.skips = [residual and a == b for a, b in pairwise((None, *hidden))]
        dimensions = torch.tensor(self.order).argsort() + 1
        degrees = [dimensions, *(degrees_of(units, D) for units in hidden)]
        last = MaskedLinear(dimensions.repeat_interleave(outputs)[:, None] > degrees[-1])
        self.inner = nn.ModuleList(MaskedLinear(b[:, None] >= a) for a, b in pairwise(degrees))
        self.last = last
        if zero:
            zeroed(last)
        self.groups = [torch.bincount(d, minlength=D)[1:].tolist() for d in degrees[1:]]  # units of each degree

    def closed(self, x: Tensor) -> MaskedWeights | None:
        """Return the masks and weights where `rectified`, with its gradient in closed form, does for x; else None."""
        layers = [f for f in (*self.inner, self.last) if isinstance(f, MaskedLinear)]
        if not self.is_closed or x.ndim != 2 or not plain(x, layers[0].weight):
            return None
        return MaskedWeights([f.mask for f in layers], [f.weight for f in layers], [f.bias for f in layers])

    def rate(self) -> float:
        """Return the share of units that is dropped."""
        return self.dropout if self.training else 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Return y (B, D * outputs), x (B, D); those of dimension i at i * outputs, i * outputs + 1, ..."""
        if weights := self.closed(x):
            return self.in_two(x, weights)
        h = x
        for layer, skip in zip(self.inner, self.skips, strict=True):
            h = self.units(layer(h), h if skip else None)
        y: Tensor = self.last(h)
        return y

    def in_two(self, x: Tensor, weights: MaskedWeights) -> Tensor:
        """Return y in two steps for autograd: the masks, and the perceptron of ReLUs."""
        masked = Masked.apply(*weights.masks, *weights.W)
        y: Tensor = Rectified.apply(x, self.rate(), *by_turns(masked, weights.b))
        return y

    def units(self, a: Tensor, skipped: Tensor | None) -> Tensor:
        """Return what hidden units of input a give."""
        h: Tensor = self.activation(a)
        h = dropout(h, self.dropout, self.training) if self.dropout else h
        return h if skipped is None else skipped + h

    def unroll(self, n: int, choose: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Return x (n, D), one dimension after another: x_i (n, 1) = choose(i, y_i), where y_i (n, outputs) is for i.

        A unit is computed once, as soon as the dimensions it sees are known: D short steps multiply as much as one
        `forward` does. Gradients pass.
        """
        layers, heads = self.pieces()
        seen = [self.last.weight.new_zeros(n, 0)] * (len(layers) + 1)  # by each layer, in the order of degrees
        for d, i in enumerate(self.order):
            new = choose(i, known(*heads[d], seen[-1]))
            seen[0] = torch.cat((seen[0], new), 1)
            for k, layer in enumerate(layers if d + 1 < len(self.order) else []):
                new = self.units(known(*layer[d], seen[k]), new if self.skips[k] else None)
                seen[k + 1] = torch.cat((seen[k + 1], new), 1)
        return seen[0][:, torch.tensor(self.order).argsort()]

    def pieces(self) -> tuple[list[list[Weight]], list[Weight]]:
        """Return the weights of the units of each degree, layer by layer, and those of each dimension, in order."""
        layers = [(f.weight, f.bias) for f in (*self.inner, self.last) if isinstance(f, MaskedLinear)]
        layers[0] = layers[0][0][:, self.order], layers[0][1]
        *inner, last = layers
        W, b = (v.unflatten(0, (-1, self.outputs))[self.order] for v in last)
        groups = zip(inner, self.groups, strict=True)
        by_degree = [list(zip(W.split(sizes), b.split(sizes), strict=True)) for (W, b), sizes in groups]
        return by_degree, list(zip(W, b, strict=True))


def known(W: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """Return W x + b where x (B, n) are the first inputs alone, and the weights of the others are masked."""
    return linear(x, W[:, : x.shape[1]], b)
