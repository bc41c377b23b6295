"""The static gate: it passes on the kernels as they are, and fails on kernels made worse on purpose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from genbench_kernels.op import triton
from genbench_kernels.static import budget_file, main, problems

pytestmark = pytest.mark.skipif(triton is None or not budget_file().exists(), reason="no budget for this triton")


def uninterpreted(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run python in a process of its own, where kernels are compiled."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


def test_kernels_are_within_budget() -> None:
    done = uninterpreted("-m", "genbench_kernels.static", "--only", "affine_coupling/tanh", "--jobs", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 kernels" in done.stdout


WORSE = """
import json, sys
from dataclasses import replace
import torch
from genbench_kernels.op import ops, trace
from genbench_kernels.static import measure

op = ops()["affine_coupling"]
example = next(e for e in op.examples("meta") if e.name == sys.argv[1])
launch = trace(op.fused, *example.args)[0][0]
x = launch.args[0]
shifted = torch.empty(x.numel() + 1, device="meta")[1:].view(x.shape)
found = {
    "as it is": launch,
    "misaligned": replace(launch, args=(shifted, *launch.args[1:])),
    "crowded": replace(launch, num_warps=1),
}
print(json.dumps({name: measure(one, "sm_90") for name, one in found.items()}))
"""


def test_a_kernel_made_worse_fails() -> None:
    done = uninterpreted("-c", WORSE, "row-6144")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    key = "affine_coupling/row-6144/forward/forward_kernel@sm_90"
    agreed = {key: json.loads(budget_file().read_text())[key]}
    assert list(problems({key: figures["as it is"]}, agreed)) == []
    assert any("narrow_loads" in problem for problem in problems({key: figures["misaligned"]}, agreed))
    assert any("spills" in problem for problem in problems({key: figures["crowded"]}, agreed))


FIGURE = {"launches": 1, "bytes": 100}


@pytest.mark.parametrize(
    ("measured", "budget", "expected"),
    [
        ({"a": FIGURE}, {"a": FIGURE}, []),
        ({"a": FIGURE}, {"a": {"launches": 2, "bytes": 200}}, []),
        ({"a": {"launches": 2, "bytes": 100}}, {"a": FIGURE}, ["a: launches 1 -> 2"]),
        ({"a": FIGURE}, {}, ["a: launches 1 has no budget", "a: bytes 100 has no budget"]),
        ({}, {"a": FIGURE}, ["a: budgeted, and no longer there"]),
        ({"a": {"stack": 8}}, {"a": {"stack": 8}}, ["a: spills, stack 8"]),
    ],
)
def test_what_costs_more_is_a_problem(measured: Any, budget: Any, expected: list[str]) -> None:
    assert list(problems(measured, budget)) == expected


CALL = ("launches", "bytes")
KERNEL = ("shared", "registers", "stack", "spilled_loads", "instructions", "loads", "narrow_loads")
MEASURED = {"call": dict.fromkeys(CALL, 100), "kernel": dict.fromkeys(KERNEL, 0)}


@pytest.mark.parametrize(("key", "figure"), [*(("call", f) for f in CALL), *(("kernel", f) for f in KERNEL)])
def test_every_figure_gates(key: str, figure: str) -> None:
    """As the docstring says: one more than agreed fails, one less does not, and none goes without a budget."""
    agreed = MEASURED[key][figure]
    more = MEASURED | {key: MEASURED[key] | {figure: agreed + 1}}
    less = MEASURED | {key: {f: v for f, v in MEASURED[key].items() if f != figure}}
    assert f"{key}: {figure} {agreed} -> {agreed + 1}" in list(problems(more, MEASURED))
    assert list(problems(MEASURED, more)) == list(problems(MEASURED, MEASURED)) == []
    assert list(problems(MEASURED, less)) == [f"{key}: {figure} {agreed} has no budget"]
    assert list(problems(less, MEASURED)) == [f"{key}: {figure} is budgeted, and no longer measured"]


def test_the_figures_are_those_that_are_budgeted() -> None:
    agreed = json.loads(budget_file().read_text())
    assert {tuple(sorted(figure)) for key, figure in agreed.items() if "@" in key} == {tuple(sorted(KERNEL))}
    assert {tuple(sorted(figure)) for key, figure in agreed.items() if "@" not in key} == {tuple(sorted(CALL))}


def test_a_gate_that_compares_nothing_does_not_pass() -> None:
    done = uninterpreted("-m", "genbench_kernels.static", "--only", "affine_coupling/nothing", "--jobs", "1")
    assert done.returncode == 2
    assert "affine_coupling/nothing" in done.stdout


def test_every_kernel_agreed_to_is_free_of_spills_on_four_gpus() -> None:
    agreed = json.loads(budget_file().read_text())
    kernels = {key: figure for key, figure in agreed.items() if "@" in key}
    assert {key.partition("@")[2] for key in kernels} == {"sm_80", "sm_90", "sm_100", "gfx942"}
    assert all(figure["stack"] == figure["spilled_loads"] == 0 for figure in kernels.values())


ALIGNED = ("exp", "tanh-inverse", "sigmoid", "interleave", "pairs", "float64", "row-8", "row-784", "row-6144")


@pytest.mark.parametrize("example", ALIGNED)
def test_loads_are_vectors_wherever_rows_are_aligned(example: str) -> None:
    agreed = json.loads(budget_file().read_text())
    kernel = f"affine_coupling/{example}/forward/forward_kernel@"
    narrow = [figure["narrow_loads"] for key, figure in agreed.items() if key.startswith(kernel)]
    assert narrow == [0, 0, 0, 0]


def test_the_gate_does_not_run_interpreted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "TRITON_INTERPRET" in capsys.readouterr().out
