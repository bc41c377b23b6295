"""The timed gate without a GPU: its statistics, its verdicts, and that every case runs."""

from __future__ import annotations

import math
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

KERNELS = Path(__file__).parents[2] / "kernels"
sys.path.insert(0, str(KERNELS))  # `bench` is next to the package, not part of it

import genbench_kernels  # noqa: E402
from bench import __main__ as gate  # noqa: E402
from bench import report, timing  # noqa: E402
from bench.cases import Calls, Case, build, cases, phase  # noqa: E402
from bench.compare import DIRECTIONS, checkout, main  # noqa: E402
from bench.ratio import LIMIT, judge, lower_bound, paired_ratios  # noqa: E402

CPU = torch.device("cpu")
REDUNDANT = ("coupling-256MB-tiny", "coupling-cifar-tiny", "reparameterize-head-tiny")  # other sizes of other cases
CASES = [case for case in cases(genbench_kernels, backend="fused", tiny=True) if case.name not in REDUNDANT]


# ------------------------------------------------------------------------------------------------- statistics


def machine(noise: random.Random) -> Callable[[float], Callable[[], float]]:
    """Return a simulated machine: a true factor -> a function that returns the seconds of one call.

    Standard deviations: 3 % between processes of the same program, 0.5 % between versions in a process, 4 % between
    calls; clocks drift (AR(1), 1 % per call), and one call in thirty takes 1.5 times as long.
    """
    process, drift = noise.gauss(0, 0.03), [0.0]

    def version(factor: float) -> Callable[[], float]:
        placement = noise.gauss(0, 0.005)

        def call() -> float:
            drift[0] = 0.9 * drift[0] + noise.gauss(0, 0.01)
            spike = 1.5 if noise.random() < 1 / 30 else 1.0
            return factor * spike * math.exp(process + placement + drift[0] + noise.gauss(0, 0.04))

        return call

    return version


def failure_rate(factor: float, runs: int = 200) -> float:
    """Return the fraction of runs in which the gate fails a version that takes `factor` times as long."""
    noise, failed = random.Random(0), 0
    for _ in range(runs):
        version = machine(noise)
        old, new = version(1.0), version(factor)
        failed += judge(lambda o=old, n=new: paired_ratios(o, n)).slower
    return failed / runs


def test_equal_versions_pass_and_ten_percent_slower_ones_fail() -> None:
    assert failure_rate(1.0) <= 0.005
    assert failure_rate(1.1) >= 0.98
    assert failure_rate(0.9) == 0.0


def test_comparing_single_runs_raises_false_alarms() -> None:
    noise, alarms = random.Random(0), 0
    for _ in range(400):
        old, new = (timing.quantile([call() for call in [machine(noise)(1.0)] * 20], 0.5) for _ in range(2))
        alarms += new / old > LIMIT
    assert 0.08 < alarms / 400 < 0.25


def test_a_linear_drift_cancels() -> None:
    clock = iter(range(10_000))

    def drifting() -> float:
        return 1.0 + 0.01 * next(clock)

    assert paired_ratios(drifting, drifting, 20) == pytest.approx([1.0] * 20)


def test_the_lower_bound_has_its_nominal_coverage() -> None:
    noise = random.Random(0)
    below = [lower_bound([noise.lognormvariate(0, 0.1) for _ in range(40)], resamples=300) < 1 for _ in range(400)]
    assert 0.92 < sum(below) / 400 < 0.98


def test_a_second_round_runs_only_if_the_first_fails() -> None:
    rounds = iter([[1.2] * 10, [1.0] * 10, [0.9] * 10])
    assert not judge(lambda: next(rounds)).slower
    assert len(judge(lambda: next(rounds)).rounds) == 1
    assert judge(lambda: [1.2] * 10).slower


def test_quantiles_match_torch() -> None:
    values = torch.rand(37, dtype=torch.float64)
    for q in (0.0, 0.2, 0.5, 0.8, 1.0):
        assert timing.quantile(values.tolist(), q) == pytest.approx(values.quantile(q).item())
    with pytest.raises(ValueError, match="no values"):
        timing.quantile([], 0.5)


# ----------------------------------------------------------------------------------------------------- timing


class Device:
    """A simulated device with a queue: 1 us per cycle of sleep, `cost` per call; the host needs `host` per call."""

    def __init__(self, cost: float, host: float) -> None:
        self.now, self.free, self.cost, self.host = 0.0, 0.0, cost, host

    def sleep(self, cycles: int) -> None:
        self.free = max(self.now, self.free) + cycles * 1e-6

    def call(self, k: int) -> None:
        for _ in range(10):  # ten launches, each of which takes host time
            self.now += self.host / 10
            self.free = max(self.now, self.free) + self.cost / 10

    def synchronize(self) -> None:
        self.now = self.free = max(self.now, self.free)

    def event(self, enable_timing: bool) -> Any:
        device = self

        class Event:
            def record(self) -> None:
                self.at = max(device.now, device.free)

            def query(self) -> bool:
                return self.at <= device.now

            def elapsed_time(self, end: Any) -> float:
                return float(end.at - self.at) * 1e3

        return Event()


@pytest.mark.parametrize("host", [0.0, 0.1, 1.0])
def test_device_time_excludes_host_time(host: float, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(cost=0.02, host=host)
    for name, replacement in (("Event", device.event), ("_sleep", device.sleep), ("synchronize", device.synchronize)):
        monkeypatch.setattr(torch.cuda, name, replacement)
    seconds, _, late = timing.queued(device.call, lambda k: None, lambda: None, rounds=20, sets=2)
    assert seconds == pytest.approx([0.02] * 20)
    assert late == 0


def test_a_call_that_waits_for_the_device_is_counted_late(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(cost=0.02, host=0.1)

    def waiting(k: int) -> None:
        device.synchronize()
        device.call(k)

    for name, replacement in (("Event", device.event), ("_sleep", device.sleep), ("synchronize", device.synchronize)):
        monkeypatch.setattr(torch.cuda, name, replacement)
    seconds, _, late = timing.queued(waiting, lambda k: None, lambda: None, rounds=20, sets=2)
    assert (len(seconds), late) == (20, 20)


# ------------------------------------------------------------------------------------------------------ cases


def plain(case: Case) -> list[str]:
    """Return the contenders that need no compiler or GPU."""
    return [name for name, contender in case.contenders.items() if contender.form == "plain"]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_contender_runs_in_every_direction(case: Case) -> None:
    for name in ("copy", *plain(case)):
        calls = build(case, name, CPU, sets=1)
        for direction in DIRECTIONS:
            call, prepare = phase(calls, direction, "warm")
            prepare(0)
            call(0)


def test_every_round_is_timed_and_sets_of_inputs_cycle() -> None:
    calls: list[int] = []
    times = timing.measure(calls.append, lambda k: None, CPU, rounds=7, sets=3)
    assert len(times.device) == len(times.host) == len(times.wall) == 7
    assert min(times.wall) > 0
    assert calls[-7:] == [0, 1, 2, 0, 1, 2, 0]


def gradients(calls: Calls) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(calls.results[0], calls.sets[0].leaves, calls.sets[0].cotangents)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_contenders_agree(case: Case) -> None:
    built = {name: build(case, name, CPU, sets=1) for name in plain(case)}
    for _ in range(12 if "spectral" in case.name else 1):
        for calls in built.values():
            calls.forward(0)
    for name, calls in built.items():
        results = calls.results[0]
        if "spectral" in case.name:  # they start from different u and v
            for w in results:
                assert torch.linalg.matrix_norm(w.flatten(1), 2).item() == pytest.approx(1, abs=0.01), name
        elif "reparameterize" in case.name:  # z is random
            torch.testing.assert_close(results[1], built["eager"].results[0][1])
        else:
            torch.testing.assert_close(results, built["eager"].results[0])
    if "coupling" in case.name:
        torch.testing.assert_close(gradients(built["ours"]), gradients(built["eager"]))


# ---------------------------------------------------------------------------------------------------- the gate


def test_without_a_gpu_nothing_runs_and_a_message_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("REQUIRE_GPU", raising=False)
    assert gate.main([]) == 0
    assert capsys.readouterr().out.startswith("gpu-check: did not run: no GPU")
    monkeypatch.setenv("REQUIRE_GPU", "1")
    assert gate.main([]) == 1
    assert main(["HEAD"]) == 2
    assert "did not run: no GPU" in capsys.readouterr().out


def test_results_files_are_named_after_hardware_and_versions() -> None:
    versions = {"torch": "2.11.0+cu130", "triton": "3.6.0"}
    assert gate.stem("NVIDIA H200", versions) == "nvidia-h200-torch2.11.0+cu130-triton3.6.0"


def test_results_work_with_pytest_benchmark_and_the_report(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:randomly"]
    selection = ["-k", "coupling-cifar and (copy or eager/ or ours/ or launches)", f"--benchmark-json={path}"]
    tests = [str(KERNELS / "bench" / "test_speed.py"), "--device=cpu", "--tiny", *selection]
    env = {
        k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")
    }  # pytest-benchmark does not time in a worker of xdist
    done = subprocess.run([*command, *tests], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    entries = report.read(path)[1]
    assert {key[1] for key in entries} == {"copy", "eager", "ours"}
    outcomes = report.write(path)
    assert {outcome.measured for outcome in outcomes} == {"not measured"}
    assert all(outcome.met is None for outcome in outcomes)
    assert "| eager | " in path.with_suffix(".md").read_text()
    plotted = path.with_suffix(".png").exists() and path.with_suffix(".png").stat().st_size > 0
    assert plotted or "No plot: matplotlib is not installed." in path.with_suffix(".md").read_text()
    copies = [str(shutil.copy(path, tmp_path / name)) for name in ("one.json", "two.json")]
    comparison = [sys.executable, "-m", "pytest_benchmark", "compare", *copies]
    table = subprocess.run(comparison, capture_output=True, text=True, check=False)
    assert table.returncode == 0, table.stderr
    assert "coupling-cifar-tiny/forward/cold" in table.stdout


def results_of(seconds: dict[tuple[str, str], float]) -> tuple[report.Results, report.Entries]:
    """Return results with the given seconds per (case, contender), in every direction and on every clock."""
    entries = {
        (case, name, direction, "cold"): {clock: {"median": s} for clock in ("device", "wall")}
        for (case, name), s in seconds.items()
        for direction in ("forward", "backward", "both")
    }
    return {"machine_info": {"gpu": {}}, "launches": {"spectral-dcgan64/ours": {"forward": 3}}}, entries


def test_goals_compare_the_worst_case_with_the_fastest_rival() -> None:
    times = {(case, "ours"): 1.0 for case in report.LARGE}
    times |= {(case, "compile"): 1.5 for case in report.LARGE}
    times |= {(case, "max-autotune"): 1.45 for case in report.LARGE}
    times |= {(report.LARGE[0], "eager"): 4.0, (report.LARGE[1], "eager"): 3.0}
    outcomes = {outcome.name: outcome for outcome in report.judge(*results_of(times))}
    inductor, eager = outcomes["coupling backward, against Inductor"], outcomes["coupling backward, against eager"]
    assert (inductor.measured, inductor.met) == ("1.45 (coupling-64MB), 1.45 (coupling-256MB)", True)
    assert eager.met is False
    assert outcomes["reparameterize, against eager"].measured == "not measured"
    assert outcomes["spectral norm of a DCGAN-64 discriminator, launches forward"].met is True


# ------------------------------------------------------------------------------------------------- comparison


def test_the_same_version_passes_and_a_slower_one_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    slow = tmp_path / "genbench_kernels"
    shutil.copytree(KERNELS / "genbench_kernels", slow, ignore=shutil.ignore_patterns("__pycache__"))
    path, line = slow / "affine_coupling.py", "    if layout not in"
    assert line in path.read_text()
    path.write_text(path.read_text().replace(line, "    sum(range(20_000))\n" + line, 1))
    options = ["--device", "cpu", "--only", "coupling-cifar*", "--pairs", "20"]
    assert main([str(KERNELS), *options]) == 0
    assert "0 of 3 slower" in capsys.readouterr().out
    assert main([str(KERNELS), *options, "--new", str(slow)]) == 1
    assert "forward wall" in next(line for line in capsys.readouterr().out.splitlines() if "SLOWER" in line)


def test_a_revision_is_unpacked_and_an_unknown_one_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inside = subprocess.run(["git", "-C", str(KERNELS), "rev-parse", "HEAD"], capture_output=True, check=False)
    if inside.returncode:
        pytest.skip("not a git checkout")
    assert (checkout("HEAD", tmp_path) / "op.py").exists()
    assert main(["no-such-revision", "--device", "cpu"]) == 2
    assert "no kernels at 'no-such-revision'" in capsys.readouterr().err
