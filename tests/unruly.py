"""Performers that do to their process what a run must not do to the next: this module imports no pytest, as each child
of a test imports it."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genbench.records.record import Record
from genbench.runner.worker import new_execution_name, perform
from genbench.suite import Run


def state(run: Run) -> Record:
    """Return a record of what a run can see of its process."""
    seen = {
        "dtype": str(torch.get_default_dtype()),
        "folder": os.getcwd(),
        "path": sys.path[0],
        "variable": os.environ.get("UNRULY"),
        "SIGTERM": str(signal.getsignal(signal.SIGTERM)),
        "SIGINT": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        "randn": torch.randn.__module__ if hasattr(torch.randn, "__module__") else None,
        "draws": f"{torch.rand(()).item()} {np.random.rand()} {random.random()}",
        "pid": os.getpid(),
        "hash": hash("a string"),
    }
    return Record(run=run, execution=new_execution_name(), status="ok", environment=seen)


def leaking(run: Run) -> Record:
    """Change all that `state` sees, and return what it was before."""
    before = state(run)
    torch.set_default_dtype(torch.float64)
    os.chdir("/")
    sys.path.insert(0, "/nowhere")
    os.environ["UNRULY"] = "1"
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.randn = torch.zeros
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    return before


class Unprintable(Exception):
    """An exception that has no message."""

    def __str__(self) -> str:
        raise RuntimeError("no message")


def _raise(error: BaseException) -> None:
    raise error


def _loop(*_: object) -> None:
    while True:
        try:
            time.sleep(60)
        except BaseException:
            continue


ENDS: dict[str, Callable[[], Any]] = {
    "sys.exit(0)": lambda: sys.exit(0),
    "sys.exit(text)": lambda: sys.exit("over"),
    "os._exit(0)": lambda: os._exit(0),
    "os._exit(3)": lambda: os._exit(3),
    "KeyboardInterrupt": lambda: _raise(KeyboardInterrupt("mine")),
    "GeneratorExit": lambda: _raise(GeneratorExit()),
    "BaseException": lambda: _raise(BaseException("bare")),
    "unprintable": lambda: _raise(Unprintable()),
    "surrogate": lambda: _raise(ValueError("\ud800 a\nb")),
    "not a record": lambda: 0.5,
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGSEGV": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "SIGINT": lambda: os.kill(os.getpid(), signal.SIGINT),
    "files closed": lambda: (os.closerange(0, 100), os._exit(0)),
    "sleeps": _loop,
    "loops in C": lambda: sum(itertools.repeat(0)),  # holds the interpreter's lock
}


def ending(run: Run) -> Record:
    """End as the name of `run` says."""
    ended: Record = ENDS[run.name]()
    return ended


def large(run: Run) -> Record:
    """Return a record of a megabyte, and print one."""
    print("to the log")
    os.write(2, b"to the log, too\n")
    return Record(run=run, execution=new_execution_name(), status="ok", files={"a": "x" * 2**20})


def with_offspring(run: Run, *, folder: str) -> Record:
    """Note this process and one that it starts in `folder`; the timeout of `run` decides how it goes on."""
    child = subprocess.Popen(["sleep", "600"])
    Path(folder, "processes").write_text(f"{os.getpid()} {child.pid}")
    if run.resources.timeout:
        sum(itertools.repeat(0))
    return Record(run=run, execution=new_execution_name(), status="ok")


def seeded(run: Run, *, work: str) -> Record:
    """Return the record of `run`, performed after this process has drawn this and that."""
    torch.rand(int(time.time()) % 7 + 1), np.random.rand(os.getpid() % 5 + 1), random.random()
    return perform(run, work=work)
