"""Fails if this version of the kernels is slower than another: `python -m bench.compare BASE`, a git revision.

Both versions run in this process, in the order old, new, new, old (`ratio.py`). Exit code 0: not slower; 1: slower; 2:
could not run. Without a GPU, `--device cpu` compares the reference at tiny sizes, to test the gate itself.
"""

from __future__ import annotations

import argparse
import importlib
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from time import perf_counter
from types import ModuleType

import torch

from bench.cases import Calls, Case, Direction, build, cases, phase
from bench.ratio import LIMIT, PAIRS, Verdict, judge, paired_ratios
from bench.timing import Call, queued, without_collection

KERNELS = Path(__file__).parents[1]
NAME = "genbench_kernels"
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward", "both")
Clock = Callable[[Call, Call], float]  # (call, untimed call that prepares it) -> seconds


def load(source: Path, name: str, folder: Path) -> ModuleType:
    """Return the package in `source`, imported as `name` from a copy in `folder`.

    The copy is renamed throughout, including ops registered with torch, so that two versions can be loaded at once.
    """
    for path in source.rglob("*.py"):
        text = path.read_text().replace(NAME, name).replace('"genbench::', f'"{name}::')
        copy = folder / name / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text)
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


def checkout(revision: str, folder: Path) -> Path:
    """Return the package's folder at a git revision, unpacked into `folder`; ValueError if git does not have it."""
    command = ["git", "-C", str(KERNELS), "archive", "--format=tar", revision, NAME]  # NAME is relative to -C
    archived = subprocess.run(command, capture_output=True, check=False)
    if archived.returncode:
        raise ValueError(f"no kernels at {revision!r}: {archived.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder / NAME


def compare(
    old: ModuleType, new: ModuleType, device: torch.device, *, only: str = "*", pairs: int = PAIRS, tiny: bool = False
) -> Iterator[tuple[str, Verdict]]:
    """Yield ("case direction clock", verdict) for every case that both versions have, for each clock."""
    before = {case.name: case for case in cases(old, tiny=tiny)}
    for case in cases(new, tiny=tiny):
        if case.name in before and fnmatch(case.name, only):
            yield from _compared(before[case.name], case, device, pairs)


def _compared(old: Case, new: Case, device: torch.device, pairs: int) -> Iterator[tuple[str, Verdict]]:
    calls = [build(case, "ours", device) for case in (old, new)]
    for direction in DIRECTIONS:
        for name, clock in (_GPU if device.type == "cuda" else _CPU).items():
            old_time, new_time = (_timer(each, direction, clock) for each in calls)
            with without_collection():
                yield (
                    f"{new.name} {direction} {name}",
                    judge(lambda o=old_time, n=new_time: paired_ratios(o, n, pairs)),  # type: ignore[misc]
                )


def _timer(calls: Calls, direction: Direction, clock: Clock) -> Callable[[], float]:
    """Return a function that times one call, each time on the next set of inputs; it is warmed up."""
    call, prepare = phase(calls, direction, "warm")
    k = 0

    def timed() -> float:
        nonlocal k
        k = (k + 1) % len(calls.sets)
        return clock(lambda _: call(k), lambda _: prepare(k))

    for _ in range(5):
        timed()
    return timed


def _on_cpu(call: Call, prepare: Call) -> float:
    """Return the seconds of a call, the minimum of seven, which leaves out most delays by other processes."""
    fastest = float("inf")
    for _ in range(7):
        prepare(0)
        start = perf_counter()
        call(0)
        fastest = min(fastest, perf_counter() - start)
    return fastest


def _on_device(call: Call, prepare: Call) -> float:
    """Return the seconds of a call on the device, its launches queued behind a wait."""
    return queued(call, prepare, lambda: None, rounds=1, sets=1)[0][0]


def _from_end_to_end(call: Call, prepare: Call) -> float:
    """Return the seconds from a call on an idle device until the device is done; host time if launches dominate."""
    prepare(0)
    torch.cuda.synchronize()
    start = perf_counter()
    call(0)
    torch.cuda.synchronize()
    return perf_counter() - start


_CPU: dict[str, Clock] = {"wall": _on_cpu}
_GPU: dict[str, Clock] = {"device": _on_device, "wall": _from_end_to_end}


def main(arguments: list[str] | None = None) -> int:
    """Compare and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__.split("\n")[0])
    parser.add_argument("base", help="git revision to compare with, or a folder that contains another genbench_kernels")
    parser.add_argument("--new", type=Path, default=KERNELS / NAME, help="the package to compare (default: this one)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", default="*", metavar="GLOB", help="cases to compare, such as 'coupling-*'")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("kernels-compare: did not run: no GPU (--device cpu tests the gate on the reference)")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        try:
            return _run(options, Path(folder))
        except ValueError as error:
            print(f"kernels-compare: {error}", file=sys.stderr)
            return 2


def _run(options: argparse.Namespace, folder: Path) -> int:
    base = Path(options.base)
    source = base / NAME if (base / NAME).is_dir() else checkout(options.base, folder / "base")
    old, new = load(source, f"{NAME}_old", folder), load(options.new, f"{NAME}_new", folder)
    device, slower, total = torch.device(options.device), 0, 0
    compared = compare(old, new, device, only=options.only, pairs=options.pairs, tiny=options.device == "cpu")
    print(f"new / old, from {options.pairs} interleaved groups; slower if the lower bound exceeds {LIMIT} twice")
    for name, verdict in compared:
        rounds = ", then ".join(f"{ratio:.3f} (at least {bound:.3f})" for ratio, bound in verdict.rounds)
        print(f"{name:44} {rounds}{'  SLOWER' * verdict.slower}", flush=True)
        slower, total = slower + verdict.slower, total + 1
    print(f"kernels-compare: {slower} of {total} slower than {options.base}")
    return 1 if slower else 0 if total else 2


if __name__ == "__main__":
    sys.exit(main())
