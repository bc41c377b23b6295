"""The masked MLP of ReLUs in two autograd steps with hand-written gradients: the masks, and the MLP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genbench.nets.fastpath.linear import is_plain_float32
from genbench.nets.fastpath.mlp import MLPFunction
from genbench.nets.masked import MaskedMLP


class MaskedWeights(NamedTuple):
    """The mask, W and b of each layer."""

    masks: Sequence[Tensor]
    W: Sequence[Tensor]
    b: Sequence[Tensor]


def masked_relu_weights(net: MaskedMLP, x: Tensor) -> MaskedWeights | None:
    """Return masks and weights of a net of ReLUs without skips that takes x in float32 on a CPU; else None."""
    layers = net.layers
    if not isinstance(net.activation, nn.ReLU) or any(net.skips) or x.ndim != 2:
        return None
    if not is_plain_float32(x, layers[0].weight):
        return None
    return MaskedWeights([f.mask for f in layers], [f.weight for f in layers], [f.bias for f in layers])


def current_dropout_p(net: MaskedMLP) -> float:
    """Return the probability with which a unit is dropped now: 0 in evaluation."""
    return net.dropout_p if net.training else 0.0


def masked_forward(net: MaskedMLP, x: Tensor) -> Tensor | None:
    """Return y (B, D * outputs), x (B, D)."""
    weights = masked_relu_weights(net, x)
    if weights is None:
        return None
    masked = MaskFunction.apply(*weights.masks, *weights.W)
    y: Tensor = MLPFunction.apply(x, current_dropout_p(net), *alternate(masked, weights.b))
    return y


def alternate(W: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    """Return W_1, b_1, W_2, b_2, ..."""
    return [p for pair in zip(W, b, strict=True) for p in pair]


class MaskFunction(torch.autograd.Function):
    """masks, weights (as many) -> mask * W of each layer."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        masks, weights = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]
        ctx.save_for_backward(*masks)
        return tuple(torch._foreach_mul(weights, masks))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        masks = ctx.saved_tensors
        return *(None for _ in masks), *(g * mask for g, mask in zip(cotangents, masks, strict=True))


FAST = {MaskedMLP: masked_forward}
