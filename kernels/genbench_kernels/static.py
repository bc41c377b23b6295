"""The static gate: compiles every kernel for several GPUs, none of which has to be present, and checks budgets.

`python -m genbench_kernels.static` traces each example of each op on the meta device, compiles each kernel it launches
as the launch would (types, alignment, constants, warps) for each of TARGETS, and takes figures from the machine code.
The gate fails for a figure above `kernels/budgets/triton-<version>.json`, a figure without a budget, a budget without a
figure, and any spill (stack, spilled_loads), budgeted or not. `--write` replaces the budgets by the current figures;
commit that file together with the change that costs them.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from genbench_kernels.op import INTERPRETED, Example, Launch, Op, ops, trace, triton

TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
BUDGETS = Path(__file__).parents[1] / "budgets"
Figures = dict[str, dict[str, int]]  # "op/example/direction" or ".../kernel@target" -> {figure: value}; less is better


# ---------------------------------------------------------------------------------------------- compiling


@dataclass(frozen=True)
class Pointer:
    """The properties that Triton's launcher reads from a tensor, as on a device (on the meta device all start at 0)."""

    tensor: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """The type of the elements."""
        return self.tensor.dtype

    def data_ptr(self) -> int:
        """Return the offset of the tensor in its storage, in bytes; storage is aligned to 16 bytes."""
        return self.tensor.storage_offset() * self.tensor.element_size()

    def ptr_range(self) -> int:
        """Return the size of the storage in bytes."""
        return self.tensor.untyped_storage().size()


def build(launch: Launch, target: str) -> Any:
    """Return the kernel of a launch compiled for one of TARGETS, specialized to its arguments as in a real launch."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, make_backend
    from triton.runtime.jit import create_function_from_signature

    kernel, gpu = launch.kernel, GPUTarget(*TARGETS[target])
    backend, options = make_backend(gpu), {"num_warps": launch.num_warps, "enable_fp_fusion": True}
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    args, named = tree_map_only(Tensor, Pointer, launch.args), {**launch.constants, **options}
    _, signature, constexprs, attrs = kernel._pack_args(backend, named, *bind(*args, **named))
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs, attrs=attrs)
    return triton.compile(source, target=gpu, options=options)


def measure(launch: Launch, target: str) -> dict[str, int]:
    """Return the figures of one kernel for one target: registers, stack, spills, shared bytes, instructions, loads.

    `loads` are those from global memory, `narrow_loads` those of them that load less than 128 bits.
    """
    compiled = build(launch, target)
    read = _read_sass if "cubin" in compiled.asm else _read_amdgcn
    return {"shared": compiled.metadata.shared, **read(compiled.asm)}


def _read_sass(asm: Any) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        text = subprocess.run(
            [tool, "-res-usage", "-sass", file.name], capture_output=True, text=True, check=True
        ).stdout
    code = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", text)
    loads = [name for name in code if name.startswith("LDG")]
    usage = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return {
        "registers": usage["REG"],
        "stack": usage["STACK"] + usage["LOCAL"],
        "spilled_loads": sum(name.startswith("LDL") for name in code),
        "instructions": len(code) - code.count("NOP"),
        "loads": len(loads),
        "narrow_loads": sum(".128" not in name for name in loads),
    }


def _read_amdgcn(asm: Any) -> dict[str, int]:
    text = asm["amdgcn"]
    field = {key: int(value) for key, value in re.findall(r"\.(\w+):\s+(\d+)$", text, re.MULTILINE)}
    code = re.findall(r"^\t([a-z]\w+)(?:\s|$)", text[: text.index("s_endpgm")], re.MULTILINE)
    loads = [name for name in code if re.match(r"(global|buffer|flat)_load", name)]
    return {
        "registers": field["vgpr_count"],
        "stack": field["private_segment_fixed_size"],
        "spilled_loads": field["vgpr_spill_count"] + field["sgpr_spill_count"],
        "instructions": len(code),
        "loads": len(loads),
        "narrow_loads": sum("x4" not in name for name in loads),
    }


# ----------------------------------------------------------------------------------------------- the gate


def example_figures(name: str, op: Op, example: Example) -> Figures:
    """Return the figures of one example: launches and bytes of each direction, and `measure` of each kernel."""
    figures: Figures = {}
    for direction, launches in zip(
        ("forward", "backward"), trace(op.fused, *example.args, **example.options), strict=True
    ):
        call = f"{name}/{example.name}/{direction}"
        figures[call] = {"launches": len(launches), "bytes": sum(launch.bytes for launch in launches)}
        for launch in (launch for launch in launches if launch.kernel is not None):
            for target in TARGETS:
                figures[f"{call}/{launch.name}@{target}"] = measure(launch, target)
    return figures


def figures(only: str = "*", jobs: int = 2) -> Figures:
    """Return the figures of every example whose "op/example" matches `only`."""
    examples = [(n, e.name) for n, op in ops().items() for e in op.examples("meta") if fnmatch(f"{n}/{e.name}", only)]
    if jobs == 1:
        parts: Iterable[Figures] = map(_figures_of, examples)
        return {key: value for part in parts for key, value in part.items()}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return {key: value for part in pool.map(_figures_of, examples, chunksize=4) for key, value in part.items()}


def _figures_of(names: tuple[str, str]) -> Figures:
    op_name, example_name = names
    op = ops()[op_name]
    example = next(e for e in op.examples("meta") if e.name == example_name)
    return example_figures(op_name, op, example)


def problems(measured: Figures, budgets: Figures) -> Iterator[str]:
    """Yield what fails the gate: spills, figures over budget or without one, and budgets without a figure."""
    for key, figures in measured.items():
        for spill in ("stack", "spilled_loads"):
            if figures.get(spill):
                yield f"{key}: spills, {spill} {figures[spill]}"
        for name, value in figures.items():
            budget = budgets.get(key, {}).get(name)
            if budget is None:
                yield f"{key}: {name} {value} has no budget"
            elif value > budget:
                yield f"{key}: {name} {budget} -> {value}"
        for name in budgets.get(key, {}).keys() - figures.keys():
            yield f"{key}: {name} has a budget but was not measured"
    yield from (f"{key}: has a budget but was not measured" for key in budgets.keys() - measured.keys())


def budget_file() -> Path:
    """Return the file of budgets for the installed triton."""
    return BUDGETS / f"triton-{triton.__version__.partition('+')[0]}.json"


def main(arguments: list[str] | None = None) -> int:
    """Run the gate and return its exit code: 0 within budget, 1 over it, 2 if it cannot run."""
    parser = argparse.ArgumentParser(prog="python -m genbench_kernels.static", description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="replace the budgets by the current figures")
    parser.add_argument(
        "--only", default="*", metavar="GLOB", help="examples to check, as op/example: 'affine_coupling/*'"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes that compile (default: 2)")
    options = parser.parse_args(arguments)
    if triton is None or INTERPRETED:
        obstacle = "triton is not installed" if triton is None else "TRITON_INTERPRET is set; unset it"
        print(f"static gate: cannot run: {obstacle}")
        return 2
    start, path = perf_counter(), budget_file()
    measured = figures(options.only, options.jobs)
    if not measured:
        print(f"static gate: cannot run: no example matches --only {options.only!r}; write it as op/example")
        return 2
    other_budgets = {key: value for key, value in _read(path).items() if not _selected(key, options.only)}
    if options.write:
        _write(path, {**other_budgets, **measured})
    failures = list(problems(measured, {k: v for k, v in _read(path).items() if k not in other_budgets}))
    print(*failures, sep="\n", end="\n" if failures else "")
    kernels = sum("@" in key for key in measured)
    seconds = perf_counter() - start
    print(f"static gate: {kernels} kernels for {', '.join(TARGETS)} in {seconds:.0f} s: {len(failures)} problems")
    return 1 if failures else 0


def _selected(key: str, only: str) -> bool:
    return fnmatch("/".join(key.split("/")[:2]), only)


def _read(path: Path) -> Figures:
    budgets: Figures = json.loads(path.read_text()) if path.exists() else {}
    return budgets


def _write(path: Path, budgets: Figures) -> None:
    rows = [f'  "{key}": {json.dumps(budgets[key])}' for key in sorted(budgets)]
    path.write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    sys.exit(main())
