"""The MLP of ReLUs as one autograd step with a hand-written gradient: half the calls of its layers one by one.

On small networks autograd's bookkeeping for each layer costs as much as the matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from genbench.nets.dropout import dropout
from genbench.nets.fastpath.gradients import differentiable_grad
from genbench.nets.fastpath.linear import input_gradient, is_plain_float32, linear_forward, weight_gradient
from genbench.nets.mlp import MLP


def relu_weights(net: nn.Module, x: Tensor) -> list[Tensor] | None:
    """Return W_1, b_1, W_2, b_2, ... of an MLP of ReLUs that takes vectors like x in float32 on a CPU; else None."""
    if not isinstance(net, MLP) or net.activation != "relu" or x.ndim != 2:
        return None
    weights = [p for layer in net if isinstance(layer, nn.Linear) for p in (layer.weight, layer.bias)]
    return weights if is_plain_float32(x, weights[0]) else None


def current_dropout_p(net: MLP) -> float:
    """Return the probability with which a unit is dropped now: 0 in evaluation."""
    return net.dropout_p if net.training else 0.0


def mlp_forward(net: MLP, x: Tensor) -> Tensor | None:
    """Return y (B, outputs) in one autograd step, x (B, inputs)."""
    weights = relu_weights(net, x)
    if weights is None or x.shape[1] != weights[0].shape[1]:
        return None
    y: Tensor = MLPFunction.apply(x, current_dropout_p(net), *weights)
    return y


class MLPFunction(torch.autograd.Function):
    """x, dropout_p, W_1, b_1, W_2, b_2, ... -> y, the last of `hidden_layers`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dropout_p: float, *weights: Tensor) -> Tensor:
        *h, y = hidden_layers(x, dropout_p, weights)
        ctx.save_for_backward(*h, *weights)
        ctx.layers, ctx.dropout_p = len(h), dropout_p
        return y

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (g,), h, weights = cotangents, ctx.saved_tensors[: ctx.layers], ctx.saved_tensors[ctx.layers :]
        if torch.is_grad_enabled():
            y = recomputed(h, ctx.dropout_p, weights)
            return differentiable_grad((y,), (g,), (h[0], None, *weights), ctx.needs_input_grad)
        gx, by_weights = backpropagate(g, h, ctx.dropout_p, weights, needs_gx=ctx.needs_input_grad[0])
        return gx, None, *by_weights


def hidden_layers(x: Tensor, dropout_p: float, weights: Sequence[Tensor]) -> list[Tensor]:
    """Return x, the outputs of the hidden layers and y of an MLP of ReLUs; autograd does not record it.

    With h_0 = x, h_i = r_i (W_i h_i-1 + b_i), where r_i is 1 / (1 - dropout_p) for units that are positive and not
    dropped, else 0; y = W h + b in the last layer.
    """
    *inner, (W, b) = zip(weights[0::2], weights[1::2], strict=True)
    h = [x]
    for W_i, b_i in inner:
        h.append(linear_forward(h[-1], W_i, b_i, relu=True))
        if dropout_p:
            h[-1] = dropout(h[-1], dropout_p)
    return [*h, linear_forward(h[-1], W, b)]


def backpropagate(
    g: Tensor, h: Sequence[Tensor], dropout_p: float, weights: Sequence[Tensor], *, needs_gx: bool = True
) -> tuple[Tensor | None, list[Tensor]]:
    """Return the gradients by x, where needed, and by the weights, from g (B, outputs), the gradient by y."""
    by_weights: list[Tensor] = []
    for i in reversed(range(len(h))):
        by_weights += [g.sum(0), weight_gradient(g, h[i])]
        if i or needs_gx:
            g = input_gradient(g, weights[2 * i])
        if i:
            g = torch.ops.aten.threshold_backward(g, h[i], 0)
            g = g.mul_(dropout_gain(dropout_p)) if dropout_p else g
    return g if needs_gx else None, by_weights[::-1]


def recomputed(h: Sequence[Tensor], dropout_p: float, weights: Sequence[Tensor]) -> Tensor:
    """Return y in differentiable torch, with every r_i as it was: for given r the MLP is linear."""
    y = h[0]
    for i, (W, b) in enumerate(zip(weights[0::2], weights[1::2], strict=True), 1):
        y = linear(y, W, b)
        y = y * (dropout_gain(dropout_p) * (h[i] > 0)) if i < len(h) else y
    return y


def dropout_gain(dropout_p: float) -> float:
    """Return the factor on units that are not dropped."""
    return 1 / (1 - dropout_p) if dropout_p < 1 else 0.0


FAST = {MLP: mlp_forward}
