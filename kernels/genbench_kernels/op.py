"""The contract of an op: a reference and a fused form of one function, examples of it, and what a call costs.

An op is one file, `genbench_kernels/<op>.py`, read from top to bottom (`affine_coupling.py` is the example to follow):

1. the public function, with `backend: Backend = "auto"`. It checks its arguments (ValueError with the shapes, devices
   and dtypes that were given), asks `choose(backend, *tensors)`, and calls `reference` or `fused` with the rest;
2. `reference(...)`, in plain differentiable torch, readable in a minute;
3. `fused(...)`: an `autograd.Function` in eager and a `torch.library` op under `torch.compiler.is_compiling()`. Kernels
   are decorated with `@jit` (never `triton.jit`) and started with `launch` (never `kernel[grid]`); `tl` is imported
   from here as well. So the file also imports where there is no triton;
4. `examples(device)`: calls that, between them, reach every configuration of the kernels, at sizes that the interpreter
   can run (64 blocks of a program at most) and with `requires_grad` set where there is a gradient;
5. `OP = Op(reference, fused, examples)`.

Nothing else is written down about the kernels. `trace` runs a call on the meta device and records each launch with
its arguments, so `explain`, the static gate (`genbench_kernels.static`: signature, alignment, constants) and the counts
of launches and bytes are always those of the code that runs. The rule that makes the bytes true: **a kernel reads or
writes each element of each tensor it is given once**; `extra` bytes, given to `launch`, say what it moves beyond that
(through a table of pointers) or, negative, leaves alone.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

try:
    import triton
    import triton.language as tl
except ImportError:  # no wheels for this platform: the reference path is all there is
    triton = tl = None

__all__ = [
    "INTERPRETED",
    "Backend",
    "Example",
    "Op",
    "choose",
    "eager",
    "explain",
    "jit",
    "launch",
    "ops",
    "tl",
    "trace",
    "triton",
]

Backend = Literal["auto", "fused", "reference"]
INTERPRETED: bool = triton is not None and bool(triton.knobs.runtime.interpret)  # fixed when kernels are decorated


def jit(kernel: Callable[..., Any]) -> Any:
    """Return the kernel compiled by Triton on first launch, or as it is where there is no Triton to launch it."""
    return kernel if triton is None else triton.jit(kernel)


def choose(backend: Backend, *tensors: Tensor | None) -> tuple[Literal["fused", "reference"], str]:
    """Return which form a call on `tensors` takes, and why.

    Raises ValueError for an unknown backend, tensors on several devices, and a fused form that cannot run on them.
    """
    device = _device(tensors)
    if backend == "reference":
        return "reference", "asked for"
    if backend not in ("auto", "fused"):
        raise ValueError(f"backend must be auto, fused or reference, not {backend!r}")
    if triton is not None and device.type == "cuda":
        return "fused", "CUDA tensors, and triton is installed"
    obstacle = "triton is not installed" if triton is None else f"kernels run on CUDA tensors, not {device.type}"
    if backend == "auto":
        return "reference", obstacle
    if INTERPRETED and device.type == "cpu":
        return "fused", "asked for, interpreted"
    raise ValueError(f"backend='fused' cannot run here: {obstacle} (CPU tensors need TRITON_INTERPRET=1 at import)")


def eager() -> bool:
    """Return whether nothing is made of a call but its value and gradient: no graph, no transform, no tangents."""
    return (
        not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


def _device(tensors: tuple[Tensor | None, ...]) -> torch.device:
    present = [t for t in tensors if t is not None]
    device = present[0].device
    for t in present:
        if t.device != device:
            raise ValueError(f"tensors must share a device, got {[str(p.device) for p in present]}")
    return device


# ---------------------------------------------------------------------------------------------- the contract


@dataclass(frozen=True)
class Example:
    """One call: `op.fused(*args, **options)`; `name` says what is special about it."""

    name: str
    args: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Op:
    """A function with a reference and a fused form of one signature; `lower` maps the public arguments to theirs."""

    reference: Callable[..., Any]
    fused: Callable[..., Any]
    examples: Callable[[str], Iterable[Example]]  # device -> calls that reach every configuration of the kernels
    lower: Callable[..., tuple[tuple[Any, ...], dict[str, Any]]] = lambda *args, **options: (args, options)


def ops() -> dict[str, Op]:
    """Return every op of the package by name: each module beside this one that has an `OP`."""
    names = (m.name for m in pkgutil.iter_modules(importlib.import_module("genbench_kernels").__path__))
    modules = {name: importlib.import_module(f"genbench_kernels.{name}") for name in names if name != "static"}
    return {name: module.OP for name, module in modules.items() if hasattr(module, "OP")}


# ------------------------------------------------------------------------------------- launching and counting


@dataclass(frozen=True)
class Launch:
    """One kernel started: its name, the bytes it moves, and (of ours) all that its compilation depends on."""

    name: str
    bytes: int
    kernel: Any = None
    args: tuple[Any, ...] = ()
    constants: dict[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    blocks: int = 0


_launches: list[Launch] | None = None  # what `trace` listens to


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    *args: Any,
    num_warps: int = 4,
    extra: int = 0,
    **constants: Any,
) -> None:
    """Start `kernel` on `grid` with run-time `args` and compile-time `constants`; an empty grid starts nothing."""
    blocks = grid[0] * (grid[1] if len(grid) > 1 else 1) * (grid[2] if len(grid) > 2 else 1)
    if blocks == 0:
        return
    if _launches is not None:
        moved = _bytes(args) + extra
        _launches.append(Launch(kernel.__name__, moved, kernel, args, constants, num_warps, blocks))
    first = next(a for a in args if isinstance(a, Tensor))
    if first.is_meta:
        return
    if first.is_cuda and first.device.index != torch.cuda.current_device():
        with torch.cuda.device(first.device):
            kernel[grid](*args, **constants, num_warps=num_warps, enable_fp_fusion=True)
    else:
        kernel[grid](*args, **constants, num_warps=num_warps, enable_fp_fusion=True)


def trace(call: Callable[..., Any], *args: Any, **options: Any) -> tuple[list[Launch], list[Launch]]:
    """Return the launches of a call and of its backward: kernels of ours and torch operations that move data.

    Nothing is computed where the tensors are on the meta device, so any size can be traced.
    """
    inputs = [t for t in tree_leaves((args, options)) if isinstance(t, Tensor) and t.requires_grad]
    with _listening() as forward:
        outputs = [t for t in tree_leaves(call(*args, **options)) if isinstance(t, Tensor)]
    outputs = [t for t in outputs if t.requires_grad]
    gradients = [torch.empty_like(t) for t in outputs]
    with _listening() as backward:
        if outputs and inputs:
            torch.autograd.grad(outputs, inputs, gradients, allow_unused=True)
    return forward, backward


@contextmanager
def _listening() -> Iterator[list[Launch]]:
    global _launches
    outer, _launches = _launches, []
    try:
        with _TorchLaunches(_launches):
            yield _launches
    finally:
        _launches = outer


class _TorchLaunches(TorchDispatchMode):
    """Appends a launch for each torch operation that moves data (views and allocations move none)."""

    _still = (
        "empty",
        "new_empty",
        "empty_strided",
        "new_empty_strided",
        "empty_like",
        "detach",
        "_unsafe_view",
        "alias",
    )

    def __init__(self, launches: list[Launch]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launches = launches

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if not func.is_view and name not in self._still:
            moved = _bytes([*tree_leaves(args), *tree_leaves(kwargs), *tree_leaves(result)])
            self.launches.append(Launch(name, moved))
        return result


def _bytes(values: Iterable[Any]) -> int:
    """Return the bytes of the distinct elements under the tensors among `values` (a broadcast counts once)."""
    tensors = {(v.untyped_storage()._cdata, v.storage_offset(), v.shape): v for v in values if isinstance(v, Tensor)}
    return sum(_elements(t) * t.element_size() for t in tensors.values())


def _elements(x: Tensor) -> int:
    count = 1
    for size, stride in zip(x.shape, x.stride(), strict=True):
        count *= size if stride or size == 0 else 1
    return count


# ------------------------------------------------------------------------------------------------ explaining


@dataclass(frozen=True)
class Cost:
    """Launches and bytes of one direction of a call, and the microseconds that its bytes alone would take."""

    launches: int
    bytes: int
    floor: float  # microseconds


@dataclass(frozen=True)
class Explanation:
    """Which form a call takes and why, and what each form would cost; `backward` is None without gradients."""

    op: str
    backend: Literal["fused", "reference"]
    why: str
    bandwidth: float  # bytes per second
    forward: Cost
    backward: Cost | None
    reference_forward: Cost
    reference_backward: Cost | None

    def __str__(self) -> str:
        rows = [f"{self.op}: {self.backend} ({self.why}); floor at {self.bandwidth / 1e12:g} TB/s"]
        for label, cost, other in (
            ("forward", self.forward, self.reference_forward),
            ("backward", self.backward, self.reference_backward),
        ):
            for form, c in (("fused", cost), ("reference", other)):
                if c is not None:
                    rows.append(f"  {label:8} {form:9} {c.launches:4d} launches {c.bytes:14,d} B {c.floor:10.1f} us")
        return "\n".join(rows)


def explain(op: Callable[..., Any], *args: Any, bandwidth: float = 4.3e12, **options: Any) -> Explanation:
    """Return the backend that `op(*args, **options)` takes and why, and bytes, launches and floor of both forms.

    `op` is a public function of this package; nothing is run. `bandwidth` is in bytes per second (an H200's copy
    bandwidth by default). Backward costs are those of the arguments that require gradients.
    """
    package, name, *_ = op.__module__.split(".")
    contract: Op = importlib.import_module(f"{package}.{name}").OP
    backend: Backend = options.pop("backend", "auto")
    lowered, kept = contract.lower(*args, **options)
    tensors = [t for t in tree_leaves((lowered, kept)) if isinstance(t, Tensor)]
    chosen, why = choose(backend, *tensors)
    lowered, kept = tree_map(_on_meta, (lowered, kept))
    fused = _costs(trace(contract.fused, *lowered, **kept), bandwidth)
    reference = _costs(trace(contract.reference, *lowered, **kept), bandwidth)
    return Explanation(name, chosen, why, bandwidth, *fused, *reference)


def _on_meta(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    empty = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return empty.requires_grad_(value.requires_grad)


def _costs(traced: tuple[list[Launch], list[Launch]], bandwidth: float) -> tuple[Cost, Cost | None]:
    forward, backward = (_cost(launches, bandwidth) for launches in traced)
    return forward, backward if traced[1] else None


def _cost(launches: list[Launch], bandwidth: float) -> Cost:
    moved = sum(launch.bytes for launch in launches)
    return Cost(len(launches), moved, moved / bandwidth * 1e6)
