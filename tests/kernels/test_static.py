"""The static gate: it passes for the current kernels and fails for deliberately worsened ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from genbench_kernels.op import ops, triton
from genbench_kernels.static import budget_file, main, problems

pytestmark = pytest.mark.skipif(triton is None or not budget_file().exists(), reason="no budget for this triton")


def uninterpreted(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a new process without TRITON_INTERPRET, where kernels are compiled."""
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
variants = {
    "unchanged": launch,
    "misaligned": replace(launch, args=(shifted, *launch.args[1:])),
    "one warp": replace(launch, num_warps=1),
}
print(json.dumps({name: measure(variant, "sm_90") for name, variant in variants.items()}))
"""


def test_worsened_kernels_fail() -> None:
    done = uninterpreted("-c", WORSE, "row-6144")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    key = "affine_coupling/row-6144/forward/forward_kernel@sm_90"
    budgets = {key: json.loads(budget_file().read_text())[key]}
    assert list(problems({key: figures["unchanged"]}, budgets)) == []
    assert any("narrow_loads" in problem for problem in problems({key: figures["misaligned"]}, budgets))
    assert any("spills" in problem for problem in problems({key: figures["one warp"]}, budgets))


FIGURE = {"launches": 1, "bytes": 100}


@pytest.mark.parametrize(
    ("measured", "budgets", "expected"),
    [
        ({"a": FIGURE}, {"a": FIGURE}, []),
        ({"a": FIGURE}, {"a": {"launches": 2, "bytes": 200}}, []),
        ({"a": {"launches": 2, "bytes": 100}}, {"a": FIGURE}, ["a: launches 1 -> 2"]),
        ({"a": FIGURE}, {}, ["a: launches 1 has no budget", "a: bytes 100 has no budget"]),
        ({}, {"a": FIGURE}, ["a: has a budget but was not measured"]),
        ({"a": {"stack": 8}}, {"a": {"stack": 8}}, ["a: spills, stack 8"]),
    ],
)
def test_figures_above_budget_are_problems(measured: Any, budgets: Any, expected: list[str]) -> None:
    assert list(problems(measured, budgets)) == expected


CALL = ("launches", "bytes")
KERNEL = ("shared", "registers", "stack", "spilled_loads", "instructions", "loads", "narrow_loads")
MEASURED = {"call": dict.fromkeys(CALL, 100), "kernel": dict.fromkeys(KERNEL, 0)}


@pytest.mark.parametrize(("key", "figure"), [*(("call", f) for f in CALL), *(("kernel", f) for f in KERNEL)])
def test_every_figure_can_fail_the_gate(key: str, figure: str) -> None:
    """One more than the budget fails, one less passes, and figure and budget may not be missing."""
    budget = MEASURED[key][figure]
    more = MEASURED | {key: MEASURED[key] | {figure: budget + 1}}
    less = MEASURED | {key: {f: v for f, v in MEASURED[key].items() if f != figure}}
    assert f"{key}: {figure} {budget} -> {budget + 1}" in list(problems(more, MEASURED))
    assert list(problems(MEASURED, more)) == list(problems(MEASURED, MEASURED)) == []
    assert list(problems(MEASURED, less)) == [f"{key}: {figure} {budget} has no budget"]
    assert list(problems(less, MEASURED)) == [f"{key}: {figure} has a budget but was not measured"]


def test_budgets_have_the_names_of_the_figures() -> None:
    budgets = json.loads(budget_file().read_text())
    assert {tuple(sorted(figures)) for key, figures in budgets.items() if "@" in key} == {tuple(sorted(KERNEL))}
    assert {tuple(sorted(figures)) for key, figures in budgets.items() if "@" not in key} == {tuple(sorted(CALL))}


def test_every_example_has_budgets() -> None:
    examples = {f"{name}/{example.name}" for name, op in ops().items() for example in op.examples("meta")}
    assert examples == {"/".join(key.split("/")[:2]) for key in json.loads(budget_file().read_text())}


def test_the_gate_fails_if_no_example_matches() -> None:
    done = uninterpreted("-m", "genbench_kernels.static", "--only", "affine_coupling/nothing", "--jobs", "1")
    assert done.returncode == 2
    assert "affine_coupling/nothing" in done.stdout


def test_budgets_of_all_four_gpus_allow_no_spills() -> None:
    budgets = json.loads(budget_file().read_text())
    kernels = {key: figures for key, figures in budgets.items() if "@" in key}
    assert {key.partition("@")[2] for key in kernels} == {"sm_80", "sm_90", "sm_100", "gfx942"}
    assert all(figures["stack"] == figures["spilled_loads"] == 0 for figures in kernels.values())


ALIGNED = ("exp", "tanh-inverse", "sigmoid", "interleave", "pairs", "float64", "row-8", "row-784", "row-6144")


@pytest.mark.parametrize("example", ALIGNED)
def test_loads_are_vectors_if_rows_are_aligned(example: str) -> None:
    budgets = json.loads(budget_file().read_text())
    kernel = f"affine_coupling/{example}/forward/forward_kernel@"
    narrow = [figures["narrow_loads"] for key, figures in budgets.items() if key.startswith(kernel)]
    assert narrow == [0, 0, 0, 0]


def test_the_gate_does_not_run_under_the_interpreter(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "TRITON_INTERPRET" in capsys.readouterr().out
