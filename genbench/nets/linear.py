"""The linear layer y = x W^T + b, by whichever of PyTorch's two libraries is faster on this processor.

PyTorch leaves float32 products on a CPU to MKL, which takes AVX-512 on Intel's processors alone. On AMD's that have it,
oneDNN, which PyTorch carries too, multiplies large matrices about twice as fast. The choice is made from the processor
and from shapes, never by timing, so that a run gives the same bits each time.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from genbench_kernels.op import eager
from torch import Tensor, nn

LARGE = 2**21  # B I O from which oneDNN wins; below, its calls cost more than they save


@functools.cache
def onednn_is_faster() -> bool:
    """Return whether this processor has AVX-512 that MKL leaves unused, and PyTorch a oneDNN to use it with."""
    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and vendor() == "AuthenticAMD"
    )


def vendor() -> str:
    """Return who made the processor, as Linux says it; empty where it does not."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


def plain(x: Tensor, weight: Tensor) -> bool:
    """Return whether x W^T is float32 on a CPU and nothing is made of the call but its value and gradient."""
    return (
        x.is_cpu
        and x.dtype is weight.dtype is torch.float32
        and not torch.is_autocast_enabled("cpu")
        and eager()
        and type(x) in (Tensor, nn.Parameter)
    )


def large(x: Tensor, outputs: int) -> bool:
    """Return whether oneDNN wins on products of x (B, I) with I x `outputs`; it knows no transforms as vmap."""
    return x.numel() * outputs >= LARGE and onednn_is_faster() and not torch._C._are_functorch_transforms_active()


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """Return x W^T + bias, or the positive part of it, by the faster library; autograd does not see it.

    x (B, I), weight (O, I) -> (B, O).
    """
    y: Tensor
    if large(x, weight.shape[0]):
        W = weight if weight.is_contiguous() or weight.t().is_contiguous() else weight.contiguous()
        y = torch.ops.mkldnn._linear_pointwise(x, W, bias, "relu" if relu else "none", [], "")
        return y
    y = torch.mm(x, weight.t()) if bias is None else torch.addmm(bias, x, weight.t())
    return y.relu_() if relu else y


class Product(torch.autograd.Function):
    """`product`, differentiable twice: the backward of the backward is MKL's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (x, weight), wanted = gradients, ctx.saved_tensors, ctx.needs_input_grad
        times = nn.functional.linear if torch.is_grad_enabled() else product
        return (
            times(g, weight.t()) if wanted[0] else None,
            times(g.t(), x.t()) if wanted[1] else None,
            g.sum(0) if wanted[2] else None,
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b, x (..., I), weight (O, I), bias (O,) -> (..., O), as torch.nn.functional.linear does."""
    if x.ndim < 2 or x.shape[-1] != weight.shape[1] or not large(x, weight.shape[0]) or not plain(x, weight):
        return nn.functional.linear(x, weight, bias)
    y: Tensor = Product.apply(x.flatten(0, -2), weight, bias)
    return y.unflatten(0, x.shape[:-1]) if x.ndim > 2 else y


class Linear(nn.Linear):
    """torch.nn.Linear, by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return x W^T + b, x (..., in_features) -> (..., out_features)."""
        return linear(input, self.weight, self.bias)
