"""The contract of an op: a reference and a fused form of the same function, examples, and what a call costs.

An op is one file, `genbench_kernels/<op>.py`, or a package of that name where one file is too long, read from top to
bottom (`affine_coupling.py` is the example to follow):

1. the public function, with `backend: Backend = "auto"`. It checks its arguments (ValueError with the shapes, devices
   and dtypes it got), calls `choose(backend, *tensors)`, and passes the rest to `reference` or `fused`;
2. `reference(...)`, in plain differentiable torch, readable in a minute;
3. `fused(...)`: an `autograd.Function` in eager and a `torch.library` op under `torch.compiler.is_compiling()`. Kernels
   are decorated with `@jit` (never `triton.jit`) and started with `launch` (never `kernel[grid]`); `tl` is imported
   from here as well. So the file can be imported where triton is not installed;
4. `examples(device)`: calls that together reach every configuration of the kernels, at sizes that the interpreter can
   run (at most 64 programs) and with `requires_grad` set where there is a gradient;
5. `OP = Op(reference, fused, examples)`.

Nothing else describes the kernels. `trace` runs a call on the meta device and records each launch with its arguments,
so `explain`, the static gate (`genbench_kernels.static`: signature, alignment, constants) and the counts of launches
and bytes always match the code that runs. For the bytes to be right, **a kernel reads or writes each element of each
tensor argument once**; `launch` takes `extra` bytes for anything beyond that (through tuples of pointers), negative for
elements it leaves out.
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
except ImportError:  # no wheels for this platform: only the reference form can run
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
    """Return the kernel, to be compiled by Triton at its first launch; unchanged if triton is not installed."""
    return kernel if triton is None else triton.jit(kernel)


def choose(backend: Backend, *tensors: Tensor | None) -> tuple[Literal["fused", "reference"], str]:
    """Return which form a call on `tensors` takes, and why.

    Raises ValueError for an unknown backend, for tensors on several devices, and if the fused form cannot run on them.
    """
    device = _device(tensors)
    if backend == "reference":
        return "reference", "requested"
    if backend not in ("auto", "fused"):
        raise ValueError(f"backend must be auto, fused or reference, not {backend!r}")
    if triton is not None and device.type == "cuda":
        return "fused", "CUDA tensors, and triton is installed"
    obstacle = "triton is not installed" if triton is None else f"kernels run on CUDA tensors, not {device.type}"
    if backend == "auto":
        return "reference", obstacle
    if INTERPRETED and device.type == "cpu":
        return "fused", "requested; interpreted"
    raise ValueError(f"backend='fused' cannot run here: {obstacle} (CPU tensors need TRITON_INTERPRET=1 at import)")


def eager() -> bool:
    """Return whether torch runs eagerly: no compiler, no functorch transform, no forward-mode derivatives."""
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
    """One call, `op.fused(*args, **options)`; `name` is what is special about it."""

    name: str
    args: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Op:
    """Two forms of a function with the same signature; `lower` maps arguments of the public function to it."""

    reference: Callable[..., Any]
    fused: Callable[..., Any]
    examples: Callable[[str], Iterable[Example]]  # device -> calls that reach every configuration of the kernels
    lower: Callable[..., tuple[tuple[Any, ...], dict[str, Any]]] = lambda *args, **options: (args, options)


def ops() -> dict[str, Op]:
    """Return every op by name: each module or package in this folder that defines `OP`."""
    names = (m.name for m in pkgutil.iter_modules(importlib.import_module("genbench_kernels").__path__))
    modules = {name: importlib.import_module(f"genbench_kernels.{name}") for name in names if name != "static"}
    return {name: module.OP for name, module in modules.items() if hasattr(module, "OP")}


# ------------------------------------------------------------------------------------- launching and counting


@dataclass(frozen=True)
class Launch:
    """One kernel launch: name, bytes moved, and, for this package's kernels, what compilation depends on."""

    name: str
    bytes: int
    kernel: Any = None
    args: tuple[Any, ...] = ()
    constants: dict[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    blocks: int = 0


_launches: list[Launch] | None = None  # where `trace` records


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    *args: Any,
    num_warps: int = 4,
    extra: int = 0,
    **constants: Any,
) -> None:
    """Launch `kernel` on `grid` with run-time `args` and compile-time `constants`; nothing if the grid is empty."""
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
    """Return the launches of a call and of its backward: this package's kernels and torch operations that move data.

    On the meta device nothing is computed, so that any size can be traced.
    """
    inputs = [t for t in tree_leaves((args, options)) if isinstance(t, Tensor) and t.requires_grad]
    with _recording() as forward:
        outputs = [t for t in tree_leaves(call(*args, **options)) if isinstance(t, Tensor)]
    outputs = [t for t in outputs if t.requires_grad]
    gradients = [torch.empty_like(t) for t in outputs]
    with _recording() as backward:
        if outputs and inputs:
            torch.autograd.grad(outputs, inputs, gradients, allow_unused=True)
    return forward, backward


@contextmanager
def _recording() -> Iterator[list[Launch]]:
    global _launches
    outer, _launches = _launches, []
    try:
        with _TorchRecorder(_launches):
            yield _launches
    finally:
        _launches = outer


class _TorchRecorder(TorchDispatchMode):
    """Appends a launch for each torch operation that moves data (views and allocations do not)."""

    _moves_no_data = (
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
        if not func.is_view and name not in self._moves_no_data:
            moved = _bytes([*tree_leaves(args), *tree_leaves(kwargs), *tree_leaves(result)])
            self.launches.append(Launch(name, moved))
        return result


def _bytes(values: Iterable[Any]) -> int:
    """Return the bytes of the distinct elements of all tensors in `values` (a broadcast counts once)."""
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
    """Launches and bytes of one direction of a call, and the microseconds it takes to move the bytes alone."""

    launches: int
    bytes: int
    floor: float  # microseconds


@dataclass(frozen=True)
class Explanation:
    """Which form a call takes and why, and what both forms cost; `backward` is None without gradients."""

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

    `op` is a public function of this package; nothing is computed. `bandwidth` is in bytes per second (by default an
    H200's copy bandwidth). Backward covers the arguments that require gradients.
    """
    package, name, *_ = op.__module__.split(".")
    contract: Op = importlib.import_module(f"{package}.{name}").OP
    backend: Backend = options.pop("backend", "auto")
    args, options = contract.lower(*args, **options)
    tensors = [t for t in tree_leaves((args, options)) if isinstance(t, Tensor)]
    form, why = choose(backend, *tensors)
    args, options = tree_map(_on_meta, (args, options))
    fused = _costs(trace(contract.fused, *args, **options), bandwidth)
    reference = _costs(trace(contract.reference, *args, **options), bandwidth)
    return Explanation(name, form, why, bandwidth, *fused, *reference)


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
