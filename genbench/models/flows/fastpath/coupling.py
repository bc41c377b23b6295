"""Couplings by an MLP of ReLUs as one autograd step: network and map, with hand-written gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genbench.fastpath import fastpath
from genbench.models.flows.coupling import AffineCoupling, Coupling
from genbench.models.flows.fastpath.bijection import Step
from genbench.models.flows.fastpath.elementwise import AnalyticVJP, affine_coupling_vjp, vjp_of
from genbench.nets.fastpath.gradients import differentiable_grad
from genbench.nets.fastpath.mlp import backpropagate, current_dropout_p, hidden_layers, recomputed, relu_weights
from genbench.nets.mlp import MLP

Sizes = tuple[int, int]  # numbers of channels that condition, and that are transformed


def coupling_step(f: Coupling, x: Tensor) -> Step | None:
    """Return a coupling as a step, if map and network have closed-form gradients for x."""
    vjp = vjp_of(f.map)
    return None if vjp is None else _step(x, f.net, f.sizes, vjp, None)


def affine_coupling_step(f: AffineCoupling, x: Tensor) -> Step | None:
    """Return an affine coupling as a step, if the network has a closed-form gradient for x."""
    return _step(x, f.net, f.sizes, affine_coupling_vjp("chunk", f.scale), f.gain)


def _step(x: Tensor, net: nn.Module, sizes: Sizes, vjp: AnalyticVJP, gain: Tensor | None) -> Step | None:
    if not isinstance(net, MLP) or (weights := relu_weights(net, x)) is None:
        return None
    dropout_p = current_dropout_p(net)
    return Step(CouplingFunction, (sizes, vjp, dropout_p), (gain, *weights), random=dropout_p > 0)


class CouplingFunction(torch.autograd.Function):
    """x, (sizes, vjp, dropout_p), gain or None, W_1, b_1, ... -> y, logdet."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, options: tuple[Sizes, AnalyticVJP, float], gain: Tensor | None, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.sizes, ctx.vjp, ctx.dropout_p = sizes, vjp, dropout_p = options
        x1, x2 = torch.split_with_sizes(x, sizes, 1)
        *h, params = hidden_layers(x1, dropout_p, weights)
        y2, logdet, saved = vjp.value(x2, params, gain)
        ctx.save_for_backward(x, gain, *h[1:], *weights, *saved)
        ctx.layers = len(h)
        return torch.cat((y2, x1), 1), logdet

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (gy, glogdet), (x, gain, *rest), n = cotangents, ctx.saved_tensors, ctx.layers
        x1, x2 = torch.split_with_sizes(x, ctx.sizes, 1)
        h, weights, saved = [x1, *rest[: n - 1]], rest[n - 1 : 3 * n - 1], rest[3 * n - 1 :]
        if torch.is_grad_enabled():
            with fastpath(False):
                y2, logdet = ctx.vjp.equation(x2, recomputed(h, ctx.dropout_p, weights), gain)
            outputs = torch.cat((y2, x1), 1), logdet
            return differentiable_grad(outputs, cotangents, (x, None, gain, *weights), ctx.needs_input_grad)
        gy2, g1 = torch.split_with_sizes(gy, ctx.sizes[::-1], 1)
        g2, gparams, ggain = ctx.vjp.gradients(gy2, glogdet, x2, gain, saved)
        g1_net, by_weights = backpropagate(gparams, h, ctx.dropout_p, weights, needs_gx=ctx.needs_input_grad[0])
        gx = None if g1_net is None else torch.cat((g1_net.add_(g1), g2), 1)
        return gx, None, ggain, *by_weights


STEPS = {Coupling: coupling_step, AffineCoupling: affine_coupling_step}
