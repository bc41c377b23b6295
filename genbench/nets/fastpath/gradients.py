"""Gradients of gradients, for functions whose first gradient is written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def differentiable_grad(
    outputs: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    inputs: Sequence[Any],
    needs_grad: Sequence[bool],
    *,
    create_graph: bool = True,
) -> tuple[Tensor | None, ...]:
    """Return the gradients with respect to those `inputs` that need one, None for the others.

    `outputs` are recomputed in differentiable torch, so that with `create_graph` autograd can differentiate again.
    """
    differentiated = [v for v, needed in zip(inputs, needs_grad, strict=True) if needed]
    pairs = [(y, g) for y, g in zip(outputs, cotangents, strict=True) if y.requires_grad]
    ys, gs = [y for y, _ in pairs], [g for _, g in pairs]
    gradients = iter(torch.autograd.grad(ys, differentiated, gs, create_graph=create_graph))
    return tuple(next(gradients) if needed else None for needed in needs_grad)
