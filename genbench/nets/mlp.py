"""Multilayer perceptrons for vectors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as dropped
from torch.nn.functional import linear

from genbench.nets.activations import ACTIVATIONS, Activation, zeroed
from genbench.nets.linear import Linear, plain, product


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
        layers += [nn.Dropout(dropout)] if dropout else []
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

    def forward(self, input: Tensor) -> Tensor:
        """Return y (B, outputs), input (B, inputs)."""
        parameters = [p for layer in self if isinstance(layer, nn.Linear) for p in (layer.weight, layer.bias)]
        y: Tensor
        if self.dropout is None or input.ndim != 2 or not plain(input, parameters[0]):
            y = nn.Sequential.forward(self, input)  # type: ignore[no-untyped-call]
        else:
            y = Rectified.apply(input, self.dropout if self.training else 0.0, *parameters)
        return y


class Rectified(torch.autograd.Function):
    """The perceptron of ReLUs, x, dropout, W_1, b_1, W_2, b_2, ... -> y, with its gradient in closed form.

    With h_0 = x, h_i = r_i (W_i h_i-1 + b_i), where r_i is 1 / (1 - dropout) for units that are positive and not
    dropped, and else 0; y = W h + b of the last. For given r it is linear: to be differentiated twice, it is computed
    anew with r as it was.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, dropout: float, *parameters: Tensor) -> Tensor:
        *inner, (W, b) = zip(parameters[0::2], parameters[1::2], strict=True)
        h = [x]
        for W_i, b_i in inner:
            h.append(product(h[-1], W_i, b_i).relu_())
            if dropout:
                h[-1] = dropped(h[-1], dropout)
        ctx.save_for_backward(*h, *parameters)
        ctx.layers, ctx.gain = len(h), 1 / (1 - dropout) if dropout < 1 else 0.0
        return product(h[-1], W, b)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,), h, parameters = gradients, ctx.saved_tensors[: ctx.layers], ctx.saved_tensors[ctx.layers :]
        if torch.is_grad_enabled():
            return again(g, h, parameters, ctx.gain, ctx.needs_input_grad)
        found: list[Tensor | None] = []
        for i in reversed(range(ctx.layers)):
            found += [g.sum(0), product(g.t(), h[i].t())]
            if i or ctx.needs_input_grad[0]:
                g = product(g, parameters[2 * i].t())
            if i:
                g = torch.ops.aten.threshold_backward(g, h[i], 0)
                g = g.mul_(ctx.gain) if ctx.gain != 1 else g
        return (g if ctx.needs_input_grad[0] else None, None, *reversed(found))


def again(
    g: Tensor, h: Sequence[Tensor], parameters: Sequence[Tensor], gain: float, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Return the gradients that `Rectified.backward` does, with a graph of their own."""
    with torch.enable_grad():
        y = x = h[0]
        for i, (W, b) in enumerate(zip(parameters[0::2], parameters[1::2], strict=True), 1):
            y = linear(y, W, b)
            y = y * (gain * (h[i] > 0)) if i < len(h) else y
        inputs = [x, None, *parameters]
        asked = [v for v, w in zip(inputs, wanted, strict=True) if w and v is not None]
        found = iter(torch.autograd.grad(y, asked, g, create_graph=True))
    return tuple(next(found) if w else None for w in wanted)
