"""The timed gate, `make gpu-check`: correctness on the GPU first, then speed, within a time limit (--minutes).

Exit code 0: correct (or no GPU, so nothing was run); 1: incorrect or failed, or no GPU with REQUIRE_GPU=1, or a goal
missed with REQUIRE_GOALS=1. Results go to results/kernels/<gpu>-torch<version>-triton<version>.{json,md,png}.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from time import time

try:
    import torch
except ModuleNotFoundError:
    sys.exit("gpu-check: did not run: torch is not installed for this Python (make setup, or PYTHON=...)")

from genbench_kernels.op import INTERPRETED, triton

from bench.report import read, write

BENCH = Path(__file__).parent
MINUTES = 10.0
CORRECTNESS = 0.4  # of the time, at most
REPORT = 45  # seconds reserved for the report


def obstacle() -> str | None:
    """Return why kernels cannot run here, or None if they can."""
    if not torch.cuda.is_available():
        return f"no GPU that torch {torch.__version__} can use"
    if triton is None:
        return "triton is not installed"
    if find_spec("pytest_benchmark") is None:
        return "pytest-benchmark is not installed"
    return "TRITON_INTERPRET is set; unset it" if INTERPRETED else None


def stem(gpu: str, versions: dict[str, str]) -> str:
    """Return the name of a results file, from hardware and versions."""
    text = f"{gpu}-torch{versions['torch']}-triton{versions['triton']}".lower()
    return re.sub(r"[^a-z0-9.+-]+", "-", text)


def run_tests(file: str, *options: str, until: float, ends: float) -> int:
    """Return pytest's exit code for a file of this folder; no test starts after `until`, all are stopped at `ends`."""
    quiet = ["-q", "-o", "addopts=", "-o", "filterwarnings=", "-p", "no:cacheprovider", "-rfEs"]
    short = ["--tb=short", "--show-capture=no"]
    command = [sys.executable, "-m", "pytest", *quiet, *short, str(BENCH / file), f"--deadline={until}", *options]
    paths = [str(BENCH.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    try:
        return subprocess.run(
            command,
            env=environment,
            timeout=max(1, ends - time()),
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        print(f"gpu-check: {file} was stopped at its time limit", flush=True)
        return 1


def main(arguments: list[str] | None = None) -> int:
    """Run the gate and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=BENCH.parents[1] / "results" / "kernels")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"time limit; default: {MINUTES:g}")
    parser.add_argument("-k", default="", metavar="EXPR", help="run only the speed tests that match, as in pytest")
    options = parser.parse_args(arguments)
    reason = obstacle()
    if reason is not None:
        print(f"gpu-check: did not run: {reason}. Nothing was checked or timed.")
        return int(os.environ.get("REQUIRE_GPU", "0") not in ("", "0"))
    return _check(options.results, options.k, options.minutes)


def _check(folder: Path, only: str, minutes: float) -> int:
    start = time()
    ends, correctness_ends = start + minutes * 60, start + CORRECTNESS * minutes * 60
    print(f"gpu-check: {torch.cuda.get_device_name()}, torch {torch.__version__}, at most {minutes:g} min", flush=True)
    cores = len(os.sched_getaffinity(0))  # most of the time is compilation
    workers = ("-n", str(max(1, min(12, cores - 1)))) if find_spec("xdist") else ()
    correct = run_tests("test_device.py", *workers, until=correctness_ends, ends=correctness_ends + 60) == 0
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "speed.json"
        quiet = (f"--benchmark-json={path}", "--benchmark-quiet", *(("-k", only) if only else ()))
        timed = run_tests("test_speed.py", *quiet, until=ends - REPORT - 30, ends=ends - 5) == 0
        if not path.exists():
            print("gpu-check: nothing was timed")
            return 1
        machine = read(path)[0]["machine_info"]
        results = folder / f"{stem(machine['gpu']['name'], machine['versions'])}.json"
        folder.mkdir(parents=True, exist_ok=True)
        results.write_bytes(path.read_bytes())
    checked = f"The correctness checks on the device {'passed' if correct else '**failed**'}."
    goals = write(results, [checked])
    for goal in goals:
        verdict = {True: "met", False: "MISSED", None: ""}[goal.met]
        print(f"{goal.name:62} goal {goal.target:8} {goal.measured} {verdict}")
    print(f"gpu-check: {checked} {results.with_suffix('.md')} written, {time() - start:.0f} s", flush=True)
    missed = os.environ.get("REQUIRE_GOALS", "0") not in ("", "0") and not all(goal.met for goal in goals)
    return int(not correct or not timed or missed)


if __name__ == "__main__":
    sys.exit(main())
