"""Multilayer perceptrons for vectors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from genbench.nets.activations import ACTIVATIONS, Activation, zeroed
from genbench.nets.dropout import Dropout
from genbench.nets.dropout import dropout as dropped
from genbench.nets.linear import Linear, input_gradient, plain, product, weight_gradient


def mlp(
    inputs: int,
    outputs: int,
    hidden: Sequence[int] = (256, 256),
    *,
    activation: Activation = "relu",
    dropout: float = 0.0,
    zero: bool = False,
) -> nn.Sequential:
    """Return a perceptron (B, inputs) -> (B, outputs); with `zero` it is the zero function until it is trained."""
    layers: list[nn.Module] = []
    for a, b in pairwise((inputs, *hidden)):
        layers += [Linear(a, b), ACTIVATIONS[activation]()]
        layers += [Dropout(dropout)] if dropout else []
    last = Linear((inputs, *hidden)[-1], outputs)
    net = Perceptron(*layers, zeroed(last) if zero else last)
    net.dropout = dropout if activation == "relu" else None
    return net


class Perceptron(nn.Sequential):
    """Linear layers with one nonlinearity, which is one step for autograd where it can be: in half as many calls.

    Attributes:
        dropout: after each nonlinearity, where that is ReLU; None: any layers, to be taken one by one.
    """

    dropout: float | None = None

    def closed(self, x: Tensor) -> list[Tensor] | None:
        """Return W_1, b_1, W_2, b_2, ... where `rectified`, with its gradient in closed form, does for x; else None."""
        if self.dropout is None or x.ndim != 2:
            return None
        weights = [p for layer in self if isinstance(layer, nn.Linear) for p in (layer.weight, layer.bias)]
        return weights if plain(x, weights[0]) else None

    def rate(self) -> float:
        """Return the share of units that is dropped."""
        return (self.dropout or 0.0) if self.training else 0.0

    def forward(self, input: Tensor) -> Tensor:
        """Return y (B, outputs), input (B, inputs)."""
        weights = self.closed(input)
        y: Tensor
        if weights is None or input.shape[1] != weights[0].shape[1]:
            y = nn.Sequential.forward(self, input)  # type: ignore[no-untyped-call]
        else:
            y = Rectified.apply(input, self.rate(), *weights)
        return y


class Rectified(torch.autograd.Function):
    """x, dropout, W_1, b_1, W_2, b_2, ... -> y of `rectified`, with its gradient in closed form."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dropout: float, *parameters: Tensor) -> Tensor:
        *h, y = rectified(x, dropout, parameters)
        ctx.save_for_backward(*h, *parameters)
        ctx.layers, ctx.dropout = len(h), dropout
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,), h, parameters = gradients, ctx.saved_tensors[: ctx.layers], ctx.saved_tensors[ctx.layers :]
        if torch.is_grad_enabled():
            with torch.enable_grad():
                y = replayed(h, ctx.dropout, parameters)
            return anew((y,), (g,), (h[0], None, *parameters), ctx.needs_input_grad)
        gx, found = backpropagated(g, h, ctx.dropout, parameters, wanted=ctx.needs_input_grad[0])
        return gx, None, *found


def rectified(x: Tensor, dropout: float, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return x and what each layer of a perceptron of ReLUs makes of it, y last; autograd does not see it.

    With h_0 = x, h_i = r_i (W_i h_i-1 + b_i), where r_i is 1 / (1 - dropout) for units that are positive and not
    dropped, and else 0; y = W h + b of the last.
    """
    *inner, (W, b) = zip(parameters[0::2], parameters[1::2], strict=True)
    h = [x]
    for W_i, b_i in inner:
        h.append(product(h[-1], W_i, b_i, relu=True))
        if dropout:
            h[-1] = dropped(h[-1], dropout)
    return [*h, product(h[-1], W, b)]


def backpropagated(
    g: Tensor, h: Sequence[Tensor], dropout: float, parameters: Sequence[Tensor], *, wanted: bool = True
) -> tuple[Tensor | None, list[Tensor]]:
    """Return the gradients by x, where `wanted`, and by the parameters, from g (B, outputs), that by y."""
    found: list[Tensor] = []
    for i in reversed(range(len(h))):
        found += [g.sum(0), weight_gradient(g, h[i])]
        if i or wanted:
            g = input_gradient(g, parameters[2 * i])
        if i:
            g = torch.ops.aten.threshold_backward(g, h[i], 0)
            g = g.mul_(gain_of(dropout)) if dropout else g
    return g if wanted else None, found[::-1]


def replayed(h: Sequence[Tensor], dropout: float, parameters: Sequence[Tensor]) -> Tensor:
    """Return y again, in differentiable torch, with every r_i as it was: for given r the perceptron is linear."""
    y = h[0]
    for i, (W, b) in enumerate(zip(parameters[0::2], parameters[1::2], strict=True), 1):
        y = linear(y, W, b)
        y = y * (gain_of(dropout) * (h[i] > 0)) if i < len(h) else y
    return y


def gain_of(dropout: float) -> float:
    """Return what the units that are not dropped are multiplied by."""
    return 1 / (1 - dropout) if dropout < 1 else 0.0


def anew(
    outputs: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    inputs: Sequence[Any],
    wanted: Sequence[bool],
    *,
    twice: bool = True,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the outputs by the inputs that are wanted, None for others; `twice`: with a graph."""
    asked = [v for v, w in zip(inputs, wanted, strict=True) if w]
    moved = [(y, g) for y, g in zip(outputs, cotangents, strict=True) if y.requires_grad]
    found = iter(torch.autograd.grad([y for y, _ in moved], asked, [g for _, g in moved], create_graph=twice))
    return tuple(next(found) if w else None for w in wanted)
