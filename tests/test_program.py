"""The process of the command line: interrupts at any moment end it with 130, and a failing disk with one line and 2."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = "suite: s\ndefaults: {steps: 1, seeds: [0]}\ndata: [toys:moons]\nmetrics: [parameters]\nmodels: {M: MODEL}\n"
INTERRUPTS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def genbench(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    command = [sys.executable, "-m", "genbench", *words]
    return subprocess.run(command, cwd=folder, env=os.environ | path, capture_output=True, text=True, timeout=120)


def interrupting(name: signal.Signals, then: str = "") -> str:
    return f"import os, time\nos.kill(os.getpid(), {int(name)})\n{then}\ntime.sleep(60)\n"


@pytest.mark.parametrize("name", INTERRUPTS)
def test_an_interrupt_while_the_program_is_imported_exits_with_130(name: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text(interrupting(name))
    done = genbench(tmp_path, "list", "models")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("name", INTERRUPTS)
def test_an_interrupt_while_a_plug_in_is_imported_exits_with_130(name: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(interrupting(name))
    (tmp_path / "s.yaml").write_text(SUITE.replace("MODEL", "own:Model"))
    done = genbench(tmp_path, "run", "s.yaml", "--dry-run")
    assert (done.returncode, done.stderr) == (130, "")


def test_an_interrupt_that_a_callback_swallows_is_raised_later(tmp_path: Path) -> None:
    swallow = f"class Callback:\n    def __del__(self): os.kill(os.getpid(), {int(signal.SIGTERM)})\ndel Callback\n"
    swallow = swallow.replace("del Callback\n", "Callback()\nclass A: pass\n")
    (tmp_path / "own.py").write_text(f"import os\n{swallow}")
    (tmp_path / "s.yaml").write_text(SUITE.replace("MODEL", "own:A"))
    done = genbench(tmp_path, "run", "s.yaml", "--dry-run")
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda r: r.write_text(""), "r"),
        (lambda r: (r.mkdir(), (r / ".work").write_text("")), ".work"),
        (lambda r: (r / ".work" / "driver.log").mkdir(parents=True), "driver.log"),
        (lambda r: r.symlink_to(r), "r"),
    ],
    ids=["a file", "work is a file", "the log is a folder", "a loop of links"],
)
def test_a_results_folder_that_is_none_is_named_in_one_line(make, named: str, tmp_path: Path) -> None:
    make(tmp_path / "r")
    (tmp_path / "s.yaml").write_text(SUITE.replace("MODEL", "flows.linear:Linear"))
    done = genbench(tmp_path, "run", "s.yaml", "--executor", "process", "--results", "r")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert named in done.stderr


def test_a_lock_that_is_a_folder_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SUITE.replace("MODEL", "flows.linear:Linear"))
    run = genbench(tmp_path, "run", "s.yaml", "--dry-run").stdout.split()[0]
    (tmp_path / "r" / ".work" / f"{run}.lock").mkdir(parents=True)
    done = genbench(tmp_path, "run", "s.yaml", "--executor", "process", "--results", "r")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{run}.lock" in done.stderr
