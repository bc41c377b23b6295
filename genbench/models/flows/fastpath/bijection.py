"""Several bijections in a row as one autograd step with a hand-written gradient.

On small networks autograd's bookkeeping for each step costs as much as the matrix products. A bijection whose gradient
has a closed form is registered, by type, in a table ``STEPS``; a chain runs consecutive ones as one step. Gradients of
gradients, and bijections without a closed form, are left to autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial, reduce
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genbench.fastpath import implementation
from genbench.models.flows.bijection import Bijection, Chain
from genbench.nets.fastpath.gradients import differentiable_grad
from genbench.nets.first_batch import FirstBatchInit

Map = Callable[[Tensor], tuple[Tensor, Tensor]]  # x -> y, log|det dy/dx|


class Step(NamedTuple):
    """A bijection with its gradient in closed form, as a function x -> y, log|det dy/dx|.

    Attributes:
        function: takes x, `options` and `tensors`.
        tensors: parameters, buffers, and None for those that are absent.
        random: it draws random numbers, so it cannot be recomputed.
    """

    function: type[torch.autograd.Function]
    options: tuple[Any, ...]
    tensors: tuple[Tensor | None, ...]
    random: bool = False

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|det dy/dx|."""
        y, logdet = self.function.apply(x, self.options, *self.tensors)
        return y, logdet


def step_of(f: Bijection, x: Tensor) -> Step | None:
    """Return `f` as a step for inputs like x in shape and dtype; None where it has no closed form for them."""
    make: Callable[[Any, Tensor], Step | None] | None = implementation(type(f), "STEPS")
    return None if make is None else make(f, x)


# --------------------------------------------------------------------------------------------------- the chain


def chain_forward(chain: Chain, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return y and log|det dy/dx| of a chain."""
    constant = per_point = x.new_zeros(())  # summed separately, so that a sum over the batch is broadcast once
    for run in runs(chain):
        for f in fused(run, x):
            x, logdet = f(x)
            if logdet.ndim:
                per_point = per_point + logdet
            else:
                constant = constant + logdet
    return x, per_point + constant


def runs(bijections: Iterable[Bijection]) -> list[list[Bijection]]:
    """Return the bijections in runs: consecutive ones of types with steps together, every other one alone."""
    grouped: list[list[Bijection]] = []
    after_step = False
    for f in bijections:
        has_step = implementation(type(f), "STEPS") is not None
        if has_step and after_step:
            grouped[-1].append(f)
        else:
            grouped.append([f])
        after_step = has_step
    return grouped


def fused(run: Sequence[Bijection], x: Tensor) -> list[Map]:
    """Return the bijections as one map if all are steps for x and a gradient is recorded, else as one map each."""
    one_by_one: list[Map] = [partial(apply_one, f) for f in run]
    if len(run) == 1 or not torch.is_grad_enabled():
        return one_by_one
    steps = []
    for f in run:
        step = step_of(f, x)
        if step is None or step.random:
            return one_by_one
        steps.append(step)
    return [partial(apply_steps, steps)]


def apply_one(f: Bijection, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return y and log|det dy/dx| of one bijection, as a step if it is one."""
    if isinstance(f, FirstBatchInit):
        f.initialize_once(x)
    y, logdet = (step_of(f, x) or f)(x)
    return y, logdet


def apply_steps(steps: Sequence[Step], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return y and log|det dy/dx| of steps in a row."""
    y, logdet = ChainFunction.apply(x, steps, *(v for step in steps for v in step.tensors))
    return y, logdet


# ------------------------------------------------------------------------------------------------ its gradient


class StepContext:
    """What a step of a chain saves for its gradient, in place of autograd's context."""

    saved_tensors: tuple[Tensor | None, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Save `tensors`."""
        self.saved_tensors = tensors


class ChainFunction(torch.autograd.Function):
    """x, steps, their tensors -> y, logdet of steps in a row.

    The tensors that a step saved are freed as soon as its gradient is computed. For a second backward pass, or to be
    differentiated again, the steps are recomputed one by one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: Sequence[Step], *tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, *tensors)
        ctx.steps, ctx.contexts, logdets = steps, [StepContext() for _ in steps], []
        for step, context in zip(steps, ctx.contexts, strict=True):
            x, logdet = step.function.forward(context, x, step.options, *step.tensors)
            logdets.append(logdet)
        ctx.is_per_point = [logdet.ndim > 0 for logdet in logdets]
        return x, reduce(torch.add, logdets)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (g, glogdet), (x, *tensors), (needs_gx, _, *needs_grad) = cotangents, ctx.saved_tensors, ctx.needs_input_grad
        if torch.is_grad_enabled() or len(ctx.contexts) < len(ctx.steps):
            return recompute(ctx.steps, x, tensors, cotangents, ctx.needs_input_grad)
        summed, by_tensors, last = glogdet.sum() if glogdet.ndim else glogdet, list[Tensor | None](), len(needs_grad)
        for step, is_per_point in zip(reversed(ctx.steps), reversed(ctx.is_per_point), strict=True):
            context, first = ctx.contexts.pop(), last - len(step.tensors)
            context.needs_input_grad = (needs_gx or len(ctx.contexts) > 0, False, *needs_grad[first:last])
            g, _, *by_step = step.function.backward(context, g, glogdet if is_per_point else summed)
            by_tensors[:0], last = by_step, first
            del context
        return g, None, *by_tensors


def recompute(
    steps: Sequence[Step],
    x: Tensor,
    tensors: Sequence[Tensor | None],
    cotangents: Sequence[Tensor],
    needs_grad: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Return the gradients by x, None, and those by the steps' tensors, with a graph if gradients are recorded."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        own = [None if v is None else v.view_as(v) for v in tensors]  # distinct, where two steps share one
        y, logdets, remaining = x, [], iter(own)
        for step in steps:
            y, logdet = step._replace(tensors=tuple(islice(remaining, len(step.tensors))))(y)
            logdets.append(logdet)
        outputs, inputs = (y, reduce(torch.add, logdets)), (x, None, *own)
        return differentiable_grad(outputs, cotangents, inputs, needs_grad, create_graph=create_graph)


FAST = {Chain: chain_forward}
