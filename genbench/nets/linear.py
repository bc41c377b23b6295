"""The linear layer y = x W^T + b, by whichever of PyTorch's two libraries is faster on this processor.

PyTorch leaves float32 products on a CPU to MKL, which takes AVX-512 on Intel's processors alone. On AMD's whose units
are 512 bits wide (Zen 5; those of Zen 4 do half of it at a time, as fast as AVX2), oneDNN, which PyTorch carries too,
multiplies large matrices about twice as fast. The choice is made from the processor, from shapes and from the number of
threads, never by timing, so that a run gives the same bits each time.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from genbench_kernels.op import eager
from torch import Tensor, nn

LARGE = 2**21  # B I O from which oneDNN wins; below, its calls cost more than they save
ZEN_5 = 26  # the family of the first of AMD's processors with wide AVX-512


@functools.cache
def onednn_is_faster() -> bool:
    """Return whether this processor has wide AVX-512 that MKL leaves unused, and PyTorch a oneDNN to use it with."""
    seen = processor()
    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and seen.get("vendor_id") == "AuthenticAMD"
        and int(seen.get("cpu family", "0")) >= ZEN_5
    )


def processor() -> dict[str, str]:
    """Return what Linux says of the first processor, name by name; nothing where it does not."""
    file = Path("/proc/cpuinfo")
    first = file.read_text().partition("\n\n")[0] if file.exists() else ""
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}


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
    return onednn_is_faster() and x.numel() * outputs >= LARGE and not torch._C._are_functorch_transforms_active()


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """Return x W^T + bias, or the positive part of it, by the faster library; autograd does not see it.

    x (B, I), weight (O, I) -> (B, O).
    """
    if large(x, weight.shape[0]):
        return onednn(x, dense(weight), bias, "relu" if relu else "none")
    y = nn.functional.linear(x, weight, bias)
    return y.relu_() if relu else y


def input_gradient(g: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient g W of x W^T by x, g (B, O), weight (O, I) -> (B, I), by the faster library."""
    return onednn(g, dense(weight).t()) if large(g, weight.shape[1]) else torch.mm(g, weight)


def weight_gradient(g: Tensor, x: Tensor) -> Tensor:
    """Return the gradient g^T x of x W^T by W, g (B, O), x (B, I) -> (O, I), by the faster library.

    oneDNN takes a copy of g turned about, on one thread however many there are: on several it wins from 2 `LARGE`.
    """
    wins = large(g, x.shape[1] if torch.get_num_threads() == 1 else x.shape[1] // 2)
    return onednn(g.t(), dense(x).t()) if wins else torch.mm(g.t(), x)


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none") -> Tensor:
    """Return x W^T + bias, and what `then` makes of it, by oneDNN; weight is `dense`."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "")
    return y


def dense(weight: Tensor) -> Tensor:
    """Return `weight`, copied unless its rows, or its columns, lie one after another."""
    return weight if weight.is_contiguous() or weight.t().is_contiguous() else weight.contiguous()


class Product(torch.autograd.Function):
    """`product`, differentiable twice: the backward of the backward is MKL's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (x, weight), wanted = gradients, ctx.saved_tensors, ctx.needs_input_grad
        twice = torch.is_grad_enabled()
        return (
            (g @ weight if twice else input_gradient(g, weight)) if wanted[0] else None,
            (g.t() @ x if twice else weight_gradient(g, x)) if wanted[1] else None,
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
