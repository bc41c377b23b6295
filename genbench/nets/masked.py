"""Masked MLPs, in which the outputs for a dimension depend only on the dimensions before it (MADE, 2015)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from genbench.fastpath import accelerated
from genbench.nets.activations import ACTIVATIONS, Activation, zeroed
from genbench.nets.dropout import dropout
from genbench.nets.linear import linear

Weight = tuple[Tensor, Tensor]  # W, b


class MaskedLinear(nn.Linear):
    """y = (mask * W) x + b, x (B, inputs) -> (B, outputs); mask (outputs, inputs) is 1 for weights that are used."""

    mask: Tensor
    bias: nn.Parameter

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """Return y (B, outputs)."""
        return linear(input, self.weight * self.mask, self.bias)


def spread_degrees(units: int, D: int) -> Tensor:
    """Return degrees 1 to D - 1 spread evenly over `units`, ascending, (units,)."""
    return torch.arange(units) * (D - 1) // units + 1


class MaskedMLP(nn.Module):
    """An autoregressive MLP: `outputs` numbers for each of D dimensions, which depend on those before it in `order`.

    MADE: Masked Autoencoder for Distribution Estimation (2015), eq. 8-9: hidden units have degrees 1 to D - 1 and see
    units of the same degree or lower; dimension number d of the order sees units of lower degree. Degrees ascend, so
    the masks are triangular.

    Args:
        outputs: how many numbers for each dimension.
        hidden: widths of the layers; with D - 1 units or more in each, every dimension depends on all before it.
        order: the D dimensions, first to last; by default 0, 1, ..., D - 1.
        residual: h + f(h) instead of f(h), between layers of equal width.
        zero: start as the zero function.
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
        self.activation, self.dropout_p = ACTIVATIONS[activation](), dropout
        self.skips = [residual and a == b for a, b in pairwise((None, *hidden))]
        dimensions = torch.tensor(self.order).argsort() + 1
        degrees = [dimensions, *(spread_degrees(units, D) for units in hidden)]
        last = MaskedLinear(dimensions.repeat_interleave(outputs)[:, None] > degrees[-1])
        self.inner = nn.ModuleList(MaskedLinear(b[:, None] >= a) for a, b in pairwise(degrees))
        self.last = last
        if zero:
            zeroed(last)
        self.groups = [torch.bincount(d, minlength=D)[1:].tolist() for d in degrees[1:]]  # units of each degree

    @property
    def layers(self) -> list[MaskedLinear]:
        """The linear layers, first to last."""
        return [f for f in (*self.inner, self.last) if isinstance(f, MaskedLinear)]

    @accelerated
    def forward(self, x: Tensor) -> Tensor:
        """Return y (B, D * outputs), x (B, D); the outputs for dimension i at i * outputs, i * outputs + 1, ..."""
        h = x
        for layer, skip in zip(self.inner, self.skips, strict=True):
            h = self.activate(layer(h), h if skip else None)
        y: Tensor = self.last(h)
        return y

    def activate(self, a: Tensor, skipped: Tensor | None) -> Tensor:
        """Return the hidden units with input a, plus the skip connection if there is one."""
        h: Tensor = self.activation(a)
        h = dropout(h, self.dropout_p, self.training) if self.dropout_p else h
        return h if skipped is None else skipped + h

    def unroll(self, n: int, choose: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Return x (n, D), one dimension after another: x_i = choose(i, y_i), with y_i (n, outputs) the outputs for i.

        Each unit is computed once, as soon as the dimensions it depends on are known, so the D short steps multiply as
        much as one `forward`. Gradients pass through.
        """
        layers, heads = self.split_by_degree()
        known = [self.last.weight.new_zeros(n, 0)] * (len(layers) + 1)  # units of each layer so far, by degree
        for d, i in enumerate(self.order):
            new = choose(i, first_inputs_linear(*heads[d], known[-1]))
            known[0] = torch.cat((known[0], new), 1)
            for k, layer in enumerate(layers if d + 1 < len(self.order) else []):
                new = self.activate(first_inputs_linear(*layer[d], known[k]), new if self.skips[k] else None)
                known[k + 1] = torch.cat((known[k + 1], new), 1)
        return known[0][:, torch.tensor(self.order).argsort()]

    def split_by_degree(self) -> tuple[list[list[Weight]], list[Weight]]:
        """Return the weights of the hidden units of each degree, layer by layer, and of each dimension, in order."""
        layers = [(f.weight, f.bias) for f in self.layers]
        layers[0] = layers[0][0][:, self.order], layers[0][1]
        *inner, last = layers
        W, b = (v.unflatten(0, (-1, self.outputs))[self.order] for v in last)
        groups = zip(inner, self.groups, strict=True)
        by_degree = [list(zip(W.split(sizes), b.split(sizes), strict=True)) for (W, b), sizes in groups]
        return by_degree, list(zip(W, b, strict=True))


def first_inputs_linear(W: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """Return W x + b, where x (B, n) are the first n inputs and the weights of the others are masked."""
    return linear(x, W[:, : x.shape[1]], b)
