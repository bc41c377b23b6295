"""The linear layer y = x W^T + b by the faster of PyTorch's two libraries on this processor.

PyTorch leaves float32 products on a CPU to MKL, which uses AVX-512 on Intel processors only. On AMD processors with
512-bit units (Zen 5; those of Zen 4 do half at a time, no faster than AVX2), oneDNN, which PyTorch includes, multiplies
large matrices about twice as fast. The choice depends on the processor, on shapes and on the number of threads, never
on timing, so that a run gives the same bits each time.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from genbench_kernels.op import eager
from torch import Tensor, nn

from genbench.nets.linear import linear

ONEDNN_FROM = 2**21  # B I O from which oneDNN wins; below, its calls cost more than they save
ZEN_5 = 26  # the family of the first AMD processors with full-width AVX-512


@functools.cache
def onednn_is_faster() -> bool:
    """Return whether this processor has full-width AVX-512 that MKL does not use, and PyTorch a oneDNN that does."""
    cpu = processor()
    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and cpu.get("vendor_id") == "AuthenticAMD"
        and int(cpu.get("cpu family", "0")) >= ZEN_5
    )


def processor() -> dict[str, str]:
    """Return Linux's description of the first processor by field name; empty on other systems."""
    file = Path("/proc/cpuinfo")
    first = file.read_text().partition("\n\n")[0] if file.exists() else ""
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}


def is_plain_float32(x: Tensor, weight: Tensor) -> bool:
    """Return whether x W^T is an eager float32 product on a CPU: no autocast, subclass, graph or transform."""
    return (
        x.is_cpu
        and x.dtype is weight.dtype is torch.float32
        and not torch.is_autocast_enabled("cpu")
        and eager()
        and type(x) in (Tensor, nn.Parameter)
    )


def favors_onednn(x: Tensor, outputs: int) -> bool:
    """Return whether oneDNN is faster at products of x (B, I) with I x `outputs`; it does not support vmap."""
    return onednn_is_faster() and x.numel() * outputs >= ONEDNN_FROM and not torch._C._are_functorch_transforms_active()


def linear_forward(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """Return x W^T + bias, or its positive part, by the faster library; autograd does not record it.

    x (B, I), weight (O, I) -> (B, O).
    """
    if favors_onednn(x, weight.shape[0]):
        return onednn(x, unit_stride(weight), bias, "relu" if relu else "none")
    y = nn.functional.linear(x, weight, bias)
    return y.relu_() if relu else y


def input_gradient(g: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient g W of x W^T by x, g (B, O), weight (O, I) -> (B, I), by the faster library."""
    return onednn(g, unit_stride(weight).t()) if favors_onednn(g, weight.shape[1]) else torch.mm(g, weight)


def weight_gradient(g: Tensor, x: Tensor) -> Tensor:
    """Return the gradient g^T x of x W^T by W, g (B, O), x (B, I) -> (O, I), by the faster library.

    oneDNN copies g transposed, on one thread however many there are: on several it wins from 2 `ONEDNN_FROM`.
    """
    wins = favors_onednn(g, x.shape[1] if torch.get_num_threads() == 1 else x.shape[1] // 2)
    return onednn(g.t(), unit_stride(x).t()) if wins else torch.mm(g.t(), x)


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none") -> Tensor:
    """Return x W^T + bias, followed by the activation `then`, by oneDNN; weight has a unit stride."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "")
    return y


def unit_stride(weight: Tensor) -> Tensor:
    """Return `weight`, copied unless its rows or its columns are contiguous."""
    return weight if weight.is_contiguous() or weight.t().is_contiguous() else weight.contiguous()


class LinearFunction(torch.autograd.Function):
    """`linear_forward`, differentiable twice: the second backward is MKL's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear_forward(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (x, weight), needs_grad = cotangents, ctx.saved_tensors, ctx.needs_input_grad
        twice = torch.is_grad_enabled()
        return (
            (g @ weight if twice else input_gradient(g, weight)) if needs_grad[0] else None,
            (g.t() @ x if twice else weight_gradient(g, x)) if needs_grad[1] else None,
            g.sum(0) if needs_grad[2] else None,
        )


def fast_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """Return x W^T + b by oneDNN, x (..., I), weight (O, I), bias (O,) -> (..., O), where that is faster."""
    is_large = x.ndim >= 2 and x.shape[-1] == weight.shape[1] and favors_onednn(x, weight.shape[0])
    if not is_large or not is_plain_float32(x, weight):
        return None
    y: Tensor = LinearFunction.apply(x.flatten(0, -2), weight, bias)
    return y.unflatten(0, x.shape[:-1]) if x.ndim > 2 else y


FAST = {linear: fast_linear} if onednn_is_faster() else {}
