"""ActNorm as one autograd step with a hand-written gradient."""

from __future__ import annotations

from typing import Any

import torch
from genbench_kernels.affine_coupling import channel_sums
from torch import Tensor

from genbench.models.flows.fastpath.bijection import Step
from genbench.models.flows.normalization import ActNorm, per_channel


def actnorm_step(f: ActNorm, x: Tensor) -> Step | None:
    """Return the layer as a step; None where its parameters depend on the input itself, the first batch."""
    needs_input = f.needs_init and f.training
    return None if needs_input else Step(ActNormFunction, (f.positions,), (f.s, f.t))


class ActNormFunction(torch.autograd.Function):
    """x, (positions,), s, t -> e^s x + t for each channel and its log-determinant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, options: tuple[int], s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        (ctx.positions,), e = options, s.exp()
        ctx.save_for_backward(x, s, e)
        return torch.addcmul(per_channel(t, x), x, per_channel(e, x)), times(ctx.positions, s.sum())

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (g, glogdet), (x, s, e) = cotangents, ctx.saved_tensors
        e = s.exp() if torch.is_grad_enabled() else e
        gs = torch.addcmul(times(ctx.positions, glogdet), channel_sums(g * x), e)
        return g * per_channel(e, x), None, gs, channel_sums(g)


def times(positions: int, v: Tensor) -> Tensor:
    """Return `positions` v; v itself on vectors, without a call."""
    return v if positions == 1 else positions * v


STEPS = {ActNorm: actnorm_step}
