"""The masked autoregressive layer of ReLUs as one autograd step: masks, MLP and map, with hand-written gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genbench.models.flows.autoregressive import MaskedAutoregressive
from genbench.models.flows.elementwise import Elementwise
from genbench.models.flows.fastpath.bijection import Step
from genbench.models.flows.fastpath.elementwise import AnalyticVJP, vjp_of
from genbench.nets.fastpath.gradients import differentiable_grad
from genbench.nets.fastpath.masked import alternate, current_dropout_p, masked_relu_weights
from genbench.nets.fastpath.mlp import backpropagate, hidden_layers, recomputed


def masked_autoregressive_step(f: MaskedAutoregressive, x: Tensor) -> Step | None:
    """Return the layer as a step, if map and network have closed-form gradients for x."""
    vjp, weights = vjp_of(f.map), masked_relu_weights(f.net, x)
    if vjp is None or weights is None:
        return None
    dropout_p = current_dropout_p(f.net)
    tensors = *weights.masks, *weights.W, *weights.b
    return Step(MaskedAutoregressiveFunction, (f.map, vjp, dropout_p), tensors, random=dropout_p > 0)


class MaskedAutoregressiveFunction(torch.autograd.Function):
    """x, (map, vjp, dropout_p), masks, all W, all b -> y, logdet."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, options: tuple[Elementwise, AnalyticVJP, float], *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.map, ctx.vjp, ctx.dropout_p = _, vjp, dropout_p = options
        masks, W, b = thirds(tensors)
        weights = alternate(torch._foreach_mul(W, masks), b)
        *h, params = hidden_layers(x, dropout_p, weights)
        y, logdet, saved = vjp.value(x, params, None)
        ctx.save_for_backward(*tensors, *weights, *h, *saved)
        ctx.layers = len(h)
        return y, logdet

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (gy, glogdet), n = cotangents, ctx.layers
        tensors, weights = ctx.saved_tensors[: 3 * n], ctx.saved_tensors[3 * n : 5 * n]
        (x, *_), saved = h, _ = ctx.saved_tensors[5 * n : 6 * n], ctx.saved_tensors[6 * n :]
        masks, W, b = thirds(tensors)
        if torch.is_grad_enabled():
            masked = alternate([w * mask for w, mask in zip(W, masks, strict=True)], b)
            outputs = ctx.map(x, recomputed(h, ctx.dropout_p, masked))
            return differentiable_grad(outputs, cotangents, (x, None, *tensors), ctx.needs_input_grad)
        gx, gparams, _ = ctx.vjp.gradients(gy, glogdet, x, None, saved)
        gx_net, by_weights = backpropagate(gparams, h, ctx.dropout_p, weights, needs_gx=ctx.needs_input_grad[0])
        by_W = [g.mul_(mask) for g, mask in zip(by_weights[0::2], masks, strict=True)]
        return None if gx_net is None else gx.add_(gx_net), None, *[None] * n, *by_W, *by_weights[1::2]


def thirds(tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the masks, all W and all b."""
    n = len(tensors) // 3
    return list(tensors[:n]), list(tensors[n : 2 * n]), list(tensors[2 * n :])


STEPS = {MaskedAutoregressive: masked_autoregressive_step}
