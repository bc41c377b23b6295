"""Gradients that are written down: for autograd, a bijection, or many in a row, is then one step.

On small networks what autograd does for each of its steps costs as much as the products in them. A bijection whose
gradient has a closed form says so by `Bijection.step`; a chain takes those in a row as one. Where a gradient is to be
differentiated again, or nobody has written it down, all is as torch has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import islice
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from genbench.nets.mlp import anew

Map = Callable[[Tensor], tuple[Tensor, Tensor]]  # x -> y, log|det dy/dx|


Valued = tuple[Tensor, Tensor, tuple[Tensor, ...]]  # y, log|det dy/dx|, and what the gradient needs
Gradients = tuple[Tensor, Tensor, Tensor | None]  # by x, by params, and by what the map itself has


class Closed(NamedTuple):
    """A map of each entry, and its gradient in closed form.

    Attributes:
        value: x, params and what the map itself has (a gain, or None) -> y, log|det dy/dx|, what `gradients` needs.
        gradients: those by y and log|det dy/dx|, x, what the map has, and what is needed -> those of the three.
        plain: `value` in differentiable torch, without what is needed: the gradient of a gradient is torch's.
    """

    value: Callable[[Tensor, Tensor, Any], Valued]
    gradients: Callable[[Tensor, Tensor, Tensor, Any, Sequence[Tensor]], Gradients]
    plain: Callable[[Tensor, Tensor, Any], tuple[Tensor, Tensor]]


def moved(map: Closed, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """Return y and log|det dy/dx| of a map that has nothing itself; its gradient is the closed form's."""
    y, logdet = Moved.apply(x, params, map)
    return y, logdet


class Moved(torch.autograd.Function):
    """x, params, map -> y, log|det dy/dx|, one step for autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, params: Tensor, map: Closed) -> tuple[Tensor, Tensor]:
        y, logdet, needed = map.value(x, params, None)
        ctx.save_for_backward(x, params, *needed)
        ctx.map = map
        return y, logdet

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        x, params, *needed = ctx.saved_tensors
        if torch.is_grad_enabled():
            return anew(ctx.map.plain(x, params, None), cotangents, (x, params, None), ctx.needs_input_grad)
        gx, g, _ = ctx.map.gradients(*cotangents, x, None, needed)
        return gx, g, None


class Step(NamedTuple):
    """What a bijection does, with its gradient in closed form: x -> y as x, and log|det dy/dx|.

    Attributes:
        function: takes x, `options` and `tensors`.
        tensors: what has a gradient, buffers, and None for what there is not.
        drawn: whether it draws random numbers, so that it is not the same when it is taken again.
    """

    function: type[torch.autograd.Function]
    options: tuple[Any, ...]
    tensors: tuple[Tensor | None, ...]
    drawn: bool = False

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|det dy/dx|."""
        y, logdet = self.function.apply(x, self.options, *self.tensors)
        return y, logdet


class HasStep(Protocol):
    """A bijection, as far as it matters here."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]: ...
    def step(self, x: Tensor) -> Step | None: ...


def joined(run: Sequence[HasStep], x: Tensor) -> Sequence[Map]:
    """Return the bijections as one step for autograd where that can be and there is a gradient, else as they are."""
    if len(run) == 1 or not torch.is_grad_enabled():
        return run
    steps = []
    for f in run:
        step = f.step(x)
        if step is None or step.drawn:
            return run
        steps.append(step)
    return [partial(join, steps)]


def join(steps: Sequence[Step], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return y and log|det dy/dx| of steps one after another."""
    y, logdet = Joined.apply(x, steps, *(v for step in steps for v in step.tensors))
    return y, logdet


class Kept:
    """What a step among others keeps for its gradient, in place of autograd's context."""

    saved_tensors: tuple[Tensor | None, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep `tensors`."""
        self.saved_tensors = tensors


class Joined(torch.autograd.Function):
    """x, steps, their tensors -> y, logdet of steps one after another: what autograd does for a step is done once.

    What a step keeps is let go as soon as its gradient is there, so that its memory is used again. For a second
    gradient, and to be differentiated twice, the steps are taken again one by one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: Sequence[Step], *tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, *tensors)
        ctx.steps, ctx.kept, logdets = steps, [Kept() for _ in steps], []
        for step, keeps in zip(steps, ctx.kept, strict=True):
            x, logdet = step.function.forward(keeps, x, step.options, *step.tensors)
            logdets.append(logdet)
        ctx.of_each = [logdet.ndim > 0 for logdet in logdets]
        return x, reduce(torch.add, logdets)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (g, glogdet), (x, *tensors), (by_x, _, *wanted) = cotangents, ctx.saved_tensors, ctx.needs_input_grad
        if torch.is_grad_enabled() or len(ctx.kept) < len(ctx.steps):
            return again(ctx.steps, x, tensors, cotangents, ctx.needs_input_grad)
        of_all, found, last = glogdet.sum() if glogdet.ndim else glogdet, list[Tensor | None](), len(wanted)
        for step, of_each in zip(reversed(ctx.steps), reversed(ctx.of_each), strict=True):
            keeps, first = ctx.kept.pop(), last - len(step.tensors)
            keeps.needs_input_grad = (by_x or len(ctx.kept) > 0, False, *wanted[first:last])
            g, _, *by_tensors = step.function.backward(keeps, g, glogdet if of_each else of_all)
            found[:0], last = by_tensors, first
            del keeps
        return g, None, *found


def again(
    steps: Sequence[Step],
    x: Tensor,
    tensors: Sequence[Tensor | None],
    cotangents: Sequence[Tensor],
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Return the gradients by x, None and the tensors of the steps, differentiable where autograd asks for it."""
    twice = torch.is_grad_enabled()
    with torch.enable_grad():
        own = [None if v is None else v.view_as(v) for v in tensors]  # apart, where two steps share one
        y, logdets, left = x, [], iter(own)
        for step in steps:
            y, logdet = step._replace(tensors=tuple(islice(left, len(step.tensors))))(y)
            logdets.append(logdet)
        return anew((y, reduce(torch.add, logdets)), cotangents, (x, None, *own), wanted, twice=twice)
