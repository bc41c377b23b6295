"""Elementwise maps as one autograd step with a hand-written gradient; those of y = e^s x + t and y = x + t."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from genbench_kernels.affine_coupling import Layout, Scale, gradients, parts
from torch import Tensor

from genbench.fastpath import fastpath, implementation
from genbench.models.flows.elementwise import Affine, Elementwise, Shift
from genbench.nets.fastpath.gradients import differentiable_grad
from genbench.nets.precision import at_least_float32

Value = tuple[Tensor, Tensor, tuple[Tensor, ...]]  # y, log|det dy/dx|, and what the gradients need
Gradients = tuple[Tensor, Tensor, Tensor | None]  # by x, by params, and by the gain


class AnalyticVJP(NamedTuple):
    """An elementwise map with its vector-Jacobian product in closed form.

    Attributes:
        value: x, params, gain (a parameter of the map itself, or None) -> y, log|det dy/dx|, saved tensors.
        gradients: gradients by y and by log|det dy/dx|, x, gain, saved tensors -> gradients by x, params and gain.
        equation: `value` in differentiable torch, without saved tensors, for gradients of gradients.
        standalone: use it also where the network's gradient is left to autograd.
    """

    value: Callable[[Tensor, Tensor, Any], Value]
    gradients: Callable[[Tensor, Tensor, Tensor, Any, Sequence[Tensor]], Gradients]
    equation: Callable[[Tensor, Tensor, Any], tuple[Tensor, Tensor]]
    standalone: bool = True


def vjp_of(map: Elementwise) -> AnalyticVJP | None:
    """Return the analytic VJP of `map`, None if there is none: the entry of its type in a table ``VJPS``."""
    make: Callable[[Any], AnalyticVJP] | None = implementation(type(map), "VJPS")
    return None if make is None else make(map)


def equation_of(map: Elementwise) -> Callable[[Tensor, Tensor, Any], tuple[Tensor, Tensor]]:
    """Return the `forward` of a map without a gain, in the form that `AnalyticVJP` takes."""
    return lambda x, params, gain: map.forward(x, params)


def elementwise(map: Elementwise, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return y and log|det dy/dx|, as one autograd step."""
    vjp = vjp_of(map)
    if vjp is None or not vjp.standalone:
        return None
    y, logdet = ElementwiseFunction.apply(at_least_float32(x), at_least_float32(params), vjp)
    return y, logdet


class ElementwiseFunction(torch.autograd.Function):
    """x, params, vjp -> y, log|det dy/dx|."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, params: Tensor, vjp: AnalyticVJP) -> tuple[Tensor, Tensor]:
        y, logdet, saved = vjp.value(x, params, None)
        ctx.save_for_backward(x, params, *saved)
        ctx.vjp = vjp
        return y, logdet

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        x, params, *saved = ctx.saved_tensors
        if torch.is_grad_enabled():
            with fastpath(False):
                outputs = ctx.vjp.equation(x, params, None)
            return differentiable_grad(outputs, cotangents, (x, params, None), ctx.needs_input_grad)
        gx, gparams, _ = ctx.vjp.gradients(*cotangents, x, None, saved)
        return gx, gparams, None


def parameters_adjacent(p: Tensor, x: Tensor) -> Tensor:
    """Return p (P, B * C ...) as params (B, C * P, ...) of the entries of x (B, C, ...), undoing `parameters_first`."""
    B, C, *rest = x.shape
    return p.view(len(p), B * C, *rest).transpose(0, 1).reshape(B, C * len(p), *rest)


# ------------------------------------------------------------------------------------------- affine and additive


def affine_value(x: Tensor, params: Tensor, gain: Tensor | None, *, layout: Layout, scale: Scale) -> Value:
    """Return y = e^s x + t, sum s, and what the gradients need."""
    y, logdet, u, e = parts(x, params, gain, None, layout, scale, False, x.dtype)
    return y, logdet, (u, e)


def affine_gradients(
    gy: Tensor,
    glogdet: Tensor,
    x: Tensor,
    gain: Tensor | None,
    saved: Sequence[Tensor],
    *,
    layout: Layout,
    scale: Scale,
) -> Gradients:
    """Return the gradients by x, params and the gain."""
    u, e = saved
    return gradients(gy, glogdet, x, u, e, gain, None, layout, scale, False)


@cache
def affine_coupling_vjp(layout: Layout, scale: Scale) -> AnalyticVJP:
    """Return the VJP of e^s x + t with params (raw s, t) and a gain, as `affine_coupling` takes them."""
    value = partial(affine_value, layout=layout, scale=scale)
    return AnalyticVJP(value, partial(affine_gradients, layout=layout, scale=scale), lambda *args: value(*args)[:2])


@cache
def affine_vjp(map: Affine) -> AnalyticVJP:
    """Return the VJP of `Affine`, whose gain is constant; alone, the kernel `affine_coupling` has a gradient too."""
    value, gradients, *_ = affine_coupling_vjp("interleave", map.scale)
    return AnalyticVJP(
        lambda x, params, _: value(x, params, map.gain(x)),
        lambda gy, glogdet, x, _, saved: (*gradients(gy, glogdet, x, map.gain(x), saved)[:2], None),
        equation_of(map),
        standalone=False,
    )


@cache
def shift_vjp(map: Shift) -> AnalyticVJP:
    """Return the VJP of x + t; alone, it is faster in plain torch."""
    return AnalyticVJP(
        lambda x, params, _: (*map.forward(x, params), ()),
        lambda gy, glogdet, x, _, saved: (gy, gy, None),
        equation_of(map),
        standalone=False,
    )


VJPS = {Affine: affine_vjp, Shift: shift_vjp}
FAST = {Elementwise: elementwise}
