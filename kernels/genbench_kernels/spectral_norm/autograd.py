"""The fused form: forward and backward as launches of the kernels, for autograd in eager and as torch.library ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genbench_kernels.op import launch
from genbench_kernels.spectral_norm.kernels import (
    dots_kernel,
    finish_kernel,
    gradient_kernel,
    reduce_kernel,
    step_kernel,
)
from genbench_kernels.spectral_norm.plan import buffer_size, plan_for, split_vectors
from genbench_kernels.spectral_norm.reference import Mode, Order, gradients


def fused(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    dims: tuple[int, ...],
    order: Order = "torch",
    eps: float = 1e-12,
    n_iter: int = 1,
    mode: Mode = "weight",
) -> list[Tensor]:
    """Return what `reference` returns, from the kernels, twice differentiable; weights, us and vs share a dtype."""
    weights = tuple(w.contiguous() for w in weights)
    if torch.compiler.is_compiling():
        return _fused_in_graph(weights, us, vs, dims, order, eps, n_iter, mode)
    outputs = SpectralNormFunction.apply((tuple(us), tuple(vs), dims, order, eps, n_iter, mode), *weights)
    return list(outputs) if mode == "weight" else list(outputs.unbind())


def _fused_in_graph(
    weights: Sequence[Tensor], us: Sequence[Tensor], vs: Sequence[Tensor], dims: tuple[int, ...], order: Order,
    eps: float, n_iter: int, mode: Mode,
) -> list[Tensor]:  # fmt: skip
    """Return what `fused` returns, from an op without side effects and one more launch that updates us and vs."""
    uv, sigmas, outs = forward_op(weights, us, vs, dims, order, eps, n_iter, mode)
    if n_iter:
        new_us, new_vs = split_vectors(uv.detach(), weights, dims)
        torch._foreach_copy_([*us, *vs], [*new_us, *new_vs])
    return list(outs) if mode == "weight" else list(sigmas.unbind())


# -------------------------------------------------------------------------------------------------- launches


def _forward(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    dims: Sequence[int],
    order: Order,
    eps: float,
    n_iter: int,
    mode: Mode,
    *,
    update: bool = False,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return the new u and v, flat, sigma (N,), and W / sigma of each layer (none in mode "sigma").

    With `update`, us and vs are set to the new u and v, too.
    """
    plan = plan_for(weights, dims, order)
    weights, us, vs = tuple(weights), tuple(us), tuple(vs)
    outs = tuple(torch.empty_like(w) for w in weights) if mode == "weight" else None
    make, constants = weights[0].new_empty, plan.constants
    uv, sigmas = make(plan.vector_sizes[0], dtype=plan.compute_dtype), make(len(weights), dtype=plan.compute_dtype)
    ps, qs = (vs, us) if constants["reduce"]["LEGACY"] else (us, vs)
    previous: tuple[Tensor | None, ...] = (None, None, None)
    for iteration in range(max(n_iter, 1)):
        ac, c_parts = make(sum(plan.vector_sizes), dtype=plan.compute_dtype).split(plan.vector_sizes)
        block_sums, a_squares, c_squares = make(sum(plan.scalar_sizes), dtype=torch.float64).split(plan.scalar_sizes)
        xs, ys = (qs if iteration == 0 else None), (None if n_iter else ps)
        unwritten = 0 if n_iter else _bytes((ac, c_parts))
        blocks, programs = plan.programs["blocks"]
        launch(
            step_kernel, (programs,), plan.table, blocks, weights, xs, ys, *previous, ac, block_sums, c_parts, eps,
            extra=_bytes(weights, xs, ys) - unwritten, **constants["step"],
        )  # fmt: skip
        if n_iter:
            chunks, programs = plan.programs["chunks"]
            launch(
                reduce_kernel, (programs,), plan.table, chunks, c_parts, block_sums, ac, a_squares, c_squares,
                **constants["reduce"],
            )  # fmt: skip
        previous = ac, a_squares, c_squares
    tiles, programs = plan.programs["tiles" if outs else "vectors"]
    in_place = (ps, qs) if update or not n_iter else (None, None)
    launch(
        finish_kernel, (programs,), plan.table, tiles, ac, block_sums, a_squares, c_squares, *in_place,
        weights if outs else None, outs, uv, sigmas, eps,
        extra=_bytes(*in_place, outs, weights if outs else None), **constants["finish" if n_iter else "finish_eval"],
    )  # fmt: skip
    return uv, sigmas, list(outs or ())


def _backward(
    gs: Sequence[Tensor],
    weights: Sequence[Tensor],
    uv: Tensor,
    sigmas: Tensor,
    dims: Sequence[int],
    order: Order,
    mode: Mode,
) -> list[Tensor]:
    """Return dW of each layer from the gradients of W / sigma, or from that of sigma (N,)."""
    plan, weights = plan_for(weights, dims, order), tuple(weights)
    outs = tuple(torch.empty_like(w) for w in weights)
    dots, gsigma, G = None, None, None
    if mode == "sigma":
        gsigma = gs[0].contiguous()
    else:
        G, (tiles, programs) = tuple(g.contiguous() for g in gs), plan.programs["tiles"]
        dots = uv.new_empty(programs, dtype=torch.float64)
        launch(
            dots_kernel, (programs,), plan.table, tiles, G, weights, dots,
            extra=_bytes(G, weights), **plan.constants["dots"],
        )  # fmt: skip
    patches, programs = plan.programs["patches"]
    launch(
        gradient_kernel, (programs,), plan.table, patches, G, gsigma, dots, plan.tile_starts, sigmas, uv, outs,
        extra=_bytes(G, outs), **plan.constants["gradient"],
    )  # fmt: skip
    return list(outs)


def _bytes(*groups: Sequence[Tensor] | None) -> int:
    return sum(t.numel() * t.element_size() for group in groups if group is not None for t in group)


# --------------------------------------------------------------------------------------------- autograd, eager


class SpectralNormFunction(torch.autograd.Function):
    """W / sigma of each weight, or sigma (N,)."""

    @staticmethod
    def forward(ctx: Any, options: Any, *weights: Tensor) -> Any:
        us, vs, dims, order, eps, n_iter, mode = options
        ctx.uv, ctx.sigmas, outs = _forward(weights, us, vs, dims, order, eps, n_iter, mode, update=n_iter > 0)
        if n_iter:
            torch.autograd.graph.increment_version((*us, *vs))
        # not save_for_backward, whose tensors are freed by the first backward: layers may be differentiated one by one
        ctx.weights, ctx.versions, ctx.options = weights, [version(w) for w in weights], (dims, order, mode)
        return tuple(outs) or ctx.sigmas.clone()

    @staticmethod
    def backward(ctx: Any, *gs: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.versions != [version(w) for w in ctx.weights]:
            raise RuntimeError("a weight under spectral_norm_ was modified in place between forward and backward")
        grads = _gradients(gs, ctx.weights, ctx.uv, ctx.sigmas, *ctx.options)
        return None, *_where_needed(grads, ctx.needs_input_grad[1:])


def version(x: Tensor) -> int:
    """Return the number of in-place changes of a tensor; -1 in inference mode, where torch does not count them."""
    return -1 if x.is_inference() else x._version


def _gradients(
    gs: Sequence[Tensor], weights: Sequence[Tensor], uv: Tensor, sigmas: Tensor, dims: tuple[int, ...],
    order: Order, mode: Mode, *, kernels: Any = _backward,
) -> list[Tensor]:  # fmt: skip
    """Return dW of each layer from the kernels, or, where it will be differentiated again, in plain torch."""
    if not torch.is_grad_enabled():
        return list(kernels(gs, weights, uv, sigmas, dims, order, mode))
    us, vs = split_vectors(uv, weights, dims)
    return gradients(gs if mode == "weight" else gs[0].unbind(), weights, us, vs, dims, mode)


def _where_needed(grads: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor | None]:
    return [g if is_needed else None for g, is_needed in zip(grads, needed, strict=True)]


# ----------------------------------------------------------------------------------- registration, torch.compile


forward_op = torch.library.custom_op(
    "genbench::spectral_norm",
    _forward,
    mutates_args=(),
    schema="(Tensor[] weights, Tensor[] us, Tensor[] vs, int[] dims, str order, float eps, int n_iter, str mode)"
    " -> (Tensor, Tensor, Tensor[])",
)
backward_op = torch.library.custom_op(
    "genbench::spectral_norm_backward",
    _backward,
    mutates_args=(),
    schema="(Tensor[] gs, Tensor[] weights, Tensor uv, Tensor sigmas, int[] dims, str order, str mode) -> Tensor[]",
)


@forward_op.register_fake
def _forward_meta(
    weights: Sequence[Tensor], us: Any, vs: Any, dims: Sequence[int], order: Order, eps: float, n_iter: int, mode: Mode
) -> tuple[Tensor, Tensor, list[Tensor]]:
    dtype = torch.float64 if weights[0].dtype == torch.float64 else torch.float32
    sizes = buffer_size([w.shape for w in weights], dims), len(us)
    uv, sigmas = (weights[0].new_empty(size, dtype=dtype) for size in sizes)
    return uv, sigmas, [torch.empty_like(w) for w in weights] if mode == "weight" else []


@backward_op.register_fake
def _backward_meta(gs: Any, weights: Sequence[Tensor], *rest: Any) -> list[Tensor]:
    return [torch.empty_like(w) for w in weights]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, list[Tensor]]) -> None:
    weights, _, _, dims, order, _, _, mode = inputs
    ctx.save_for_backward(*weights, *output[:2])
    ctx.options = dims, order, mode


def _backward_in_graph(ctx: Any, _: Tensor, gsigmas: Tensor, gs: list[Tensor]) -> tuple[Any, ...]:
    *weights, uv, sigmas = ctx.saved_tensors
    grads = _gradients(gs or [gsigmas], weights, uv, sigmas, *ctx.options, kernels=backward_op)
    none = [None] * len(weights)
    return _where_needed(grads, ctx.needs_input_grad[0]), none, none, None, None, None, None, None


forward_op.register_autograd(_backward_in_graph, setup_context=_setup_context)
