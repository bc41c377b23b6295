"""Every call of the system on files of results and of the work folder fails once, in turn.

After each no earlier record is lost or torn, and the same call without a fault gives the same values, bit for bit.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from genbench.errors import UsageError
from genbench.records.record import Record
from genbench.records.store import Store
from genbench.runner.driver import drive
from genbench.runner.executors import in_process
from genbench.runner.progress import ProgressReporter
from genbench.runner.worker import perform
from genbench.suite import Run
from tests.faulty import a_run

ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.ENOLCK)
FUNCTIONS = {  # what is patched: modules and names
    "open": [(builtins, "open"), (io, "open")],
    "open descriptor": [(os, "open")],
    "fsync": [(os, "fsync")],
    "replace": [(os, "replace")],
    "make folder": [(os, "mkdir")],
    "list folder": [(os, "listdir")],
    "remove": [(os, "unlink"), (os, "remove")],
}


@contextmanager
def failing(folder: Path, function: str, at: int | None, code: int = 0) -> Iterator[list[str]]:
    """Let call number `at` of `function` on what is in `folder` fail; yields the paths of the calls so far."""
    calls: list[str] = []

    def patched(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *args: Any, **kwargs: Any) -> Any:
            path = f"/proc/self/fd/{first}" if isinstance(first, int) else str(first)
            path = os.readlink(path) if path.startswith("/proc/self/fd") else path
            if str(folder) in path:
                calls.append(path)
                if len(calls) - 1 == at:
                    raise OSError(code, os.strerror(code), path)
            return original(first, *args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for module, name in FUNCTIONS[function]:
            patch.setattr(module, name, patched(getattr(module, name)))
        yield calls


def drawn(run: Run, *, work: str) -> Record:
    """Perform the run, with a picture, with a checkpoint after every step."""
    return perform(run, work=work, checkpoint_every=0.0)


def call(folder: Path, runs: list[Run]) -> None:
    store = Store(folder)
    drive(runs, store, in_process, perform=partial(drawn, work=str(store.work)), progress=ProgressReporter())


def runs(seed: int) -> list[Run]:
    return [a_run(seed, steps=4, checks=1, metrics=("tests.faulty:nats", "samples"))]


def files(folder: Path) -> dict[Path, bytes]:
    """Return the records and suites in `folder`, and whatever else is there but the work folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".work" not in path.parts}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a record of seed 0."""
    folder = tmp_path_factory.mktemp("template") / "results"
    call(folder, runs(0))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_error_of_any_call_loses_nothing(function: str, template: Path, tmp_path: Path) -> None:
    """All calls that one run makes fail in turn: with five errors each, 370 faults over all functions."""
    shutil.copytree(template, tmp_path / "whole")
    with failing(tmp_path, function, None) as calls:
        call(tmp_path / "whole", runs(1))
    (expected,) = Store(tmp_path / "whole").of(runs(1)[0])
    for at, code in product(range(len(calls)), ERRORS):
        folder = tmp_path / f"{at}-{code}"
        shutil.copytree(template, folder)
        before = files(folder)
        with failing(folder, function, at, code) as done, contextlib.suppress(OSError, UsageError):
            call(folder, runs(1))
        assert len(done) > at
        after = files(folder)
        assert {path: after.get(path) for path in before} == before, f"{function} {at}"
        store = Store(folder)
        assert {record.status for record in store.records()} == {"ok"}, f"{function} {at}"
        assert store.damaged == []
        call(folder, runs(1))
        records = store.of(runs(1)[0])
        assert records
        assert all(record.measurements == expected.measurements for record in records)
        assert all(record.files == expected.files for record in records)
        assert {path.suffix for path in files(folder)} == {".json"}
        shutil.rmtree(folder)


@pytest.mark.slow
def test_5000_records_of_random_damage_are_read_or_named(tmp_path: Path) -> None:
    store, generator = Store(tmp_path), random.Random(0)
    call(tmp_path, runs(0))
    (path,) = tmp_path.glob("faulty/*/*.json")
    good = path.read_bytes()
    tokens = [
        b"null",
        b"1e999",
        b"NaN",
        b"-1",
        b'"\\u0000"',
        b'"\\ud800"',
        b"[" * 300,
        b"{",
        b"9" * 5000,
        b"\xff",
        b"true",
    ]
    for _ in range(5000):
        content = bytearray(good)
        for _ in range(generator.choice((1, 1, 2, 5))):
            start = generator.randrange(len(content) + 1)
            stop = start + generator.choice((0, 1, 1, 3, 30, 1000))
            content[start:stop] = generator.choice((b"", *tokens, generator.randbytes(3)))
        path.write_bytes(content)
        read = store.records()
        assert len(read) + len(store.damaged) == 1
        assert all(problem.isprintable() and problem for _, problem in store.damaged)
        for record in read:
            record.model_dump_json()
    assert path.read_bytes() == content
