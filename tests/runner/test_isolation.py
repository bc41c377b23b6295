"""Runs in processes of their own: nothing leaks from one to the next, and whatever ends a process is a record."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from genbench.records.record import Record
from genbench.runner import isolation as isolation
from genbench.runner.isolation import error_line, isolate
from genbench.runner.worker import perform
from genbench.suite import ROOT
from tests.faulty import a_run, on_linux, weights
from tests.unruly import ending, large, leaking, seeded, state, with_offspring


def alive(pid: int) -> bool:
    """Return whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until_gone(*pids: int) -> None:
    """Wait until none of `pids` is alive; raises AssertionError after ten seconds."""
    limit = time.monotonic() + 10
    while any(map(alive, pids)):
        assert time.monotonic() < limit, [pid for pid in pids if alive(pid)]
        time.sleep(0.02)


def test_a_run_finds_nothing_of_the_run_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("/a/folder")
    before, after = isolate(leaking)(a_run()), isolate(state)(a_run())
    assert (before.status, after.status, after.error) == ("ok", "ok", None)
    assert before.environment["pid"] != after.environment["pid"]
    same = set(before.environment) - {"pid", "draws"}
    assert {key: after.environment[key] for key in same} == {key: before.environment[key] for key in same}
    assert after.environment["folder"] == str(tmp_path)
    assert after.environment["path"] == "/a/folder"
    assert after.environment["dtype"] == "torch.float32"


def test_every_generator_is_seeded_by_the_run(tmp_path: Path) -> None:
    run = a_run(model="tests.faulty:Drawing")
    records = [isolate(partial(seeded, work=str(tmp_path / name)))(run) for name in "ab"]
    assert {record.status for record in records} == {"ok"}
    assert records[0].measurements == records[1].measurements
    assert weights(tmp_path / "a", run) == weights(tmp_path / "b", run)


@pytest.mark.parametrize(
    ("how", "status", "attempts", "message"),
    [
        ("sys.exit(0)", "error", 1, "SystemExit: 0"),
        ("sys.exit(text)", "error", 1, "SystemExit: over"),
        ("os._exit(0)", "crashed", 1, "its process exited with code 0 and left no record"),
        ("os._exit(3)", "crashed", 1, "its process exited with code 3 and left no record"),
        ("KeyboardInterrupt", "error", 1, "KeyboardInterrupt: mine"),
        ("GeneratorExit", "error", 1, "GeneratorExit:"),
        ("BaseException", "error", 1, "BaseException: bare"),
        ("unprintable", "error", 1, "Unprintable: (its message cannot be printed)"),
        ("surrogate", "error", 1, "ValueError: \\ud800 a b"),
        ("not a record", "crashed", 1, "its process exited with code 0 and left no record"),
        ("SIGKILL", "crashed", 3, "killed by SIGKILL; if nobody did so by hand, the system was out of memory"),
        ("SIGSEGV", "crashed", 3, "its process was killed by SIGSEGV"),
        ("SIGTERM", "crashed", 3, "its process was killed by SIGTERM"),
        ("SIGINT", "error", 1, "KeyboardInterrupt:"),
        ("files closed", "crashed", 1, "its process exited with code 0 and left no record"),
    ],
)
def test_whatever_ends_a_process_is_a_record(how: str, status: str, attempts: int, message: str) -> None:
    record = isolate(ending)(a_run(name=how))
    assert (record.status, record.attempts) == (status, attempts)
    assert message in str(record.error)


@pytest.mark.parametrize("how", ["sleeps", "loops in C"])
def test_a_timeout_ends_what_never_returns(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "LEAST_GRACE", 0.2)
    record = isolate(ending)(a_run(name=how, resources={"timeout": 0.1}))
    assert (record.status, record.attempts) == ("timeout", 1)
    assert "its timeout of 0.1 s" in str(record.error)
    assert isolate(state)(a_run()).status == "ok", "the server serves on"


def test_a_record_of_any_size_comes_and_output_goes_to_the_log(tmp_path: Path) -> None:
    record = isolate(large, log=str(tmp_path / "log"))(a_run())
    assert len(record.files["a"]) == 2**20
    assert (tmp_path / "log").read_text().split("\n") in (
        ["to the log", "to the log, too", ""],
        ["to the log, too", "to the log", ""],
    )


def test_a_killed_process_costs_an_attempt_and_no_bit(tmp_path: Path) -> None:
    run = a_run(options={"fault": "killed", "at": 15, "folder": str(tmp_path)})
    record = isolate(partial(perform, work=str(tmp_path / "killed"), checkpoint_every=0.0))(run)
    assert (record.status, record.attempts) == ("ok", 2)
    assert list(Counter((tmp_path / "steps").read_text().split()).values()) == [15, 26]
    undisturbed = perform(run, work=str(tmp_path / "undisturbed"))
    assert record.measurements == undisturbed.measurements
    assert weights(tmp_path / "killed", run) == weights(tmp_path / "undisturbed", run)


def test_two_threads_have_a_server_each(tmp_path: Path) -> None:
    records: list[Record] = []
    threads = [threading.Thread(target=lambda: records.append(isolate(state)(a_run()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [record.status for record in records] == ["ok", "ok"]


@on_linux
@pytest.mark.parametrize("timeout", [None, 0.1])
def test_what_a_run_starts_ends_with_it(timeout: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "LEAST_GRACE", 2.0)
    resources = {"timeout": timeout} if timeout else {}
    record = isolate(partial(with_offspring, folder=str(tmp_path)))(a_run(resources=resources))
    assert record.status == ("timeout" if timeout else "ok")
    until_gone(*map(int, (tmp_path / "processes").read_text().split()))


CALLER = """
from functools import partial
from genbench.runner.isolation import isolate
from tests.faulty import a_run
from tests.unruly import with_offspring
isolate(partial(with_offspring, folder={folder!r}))(a_run(resources={{"timeout": 3600}}))
"""


@on_linux
@pytest.mark.parametrize("victim", ["caller", "server"])
def test_a_run_dies_with_its_caller_and_with_its_server(victim: str, tmp_path: Path) -> None:
    code = CALLER.format(folder=str(tmp_path))
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    limit = time.monotonic() + 120
    while not (tmp_path / "processes").exists() or not (tmp_path / "processes").read_text():
        assert time.monotonic() < limit
        assert caller.poll() is None
        time.sleep(0.05)
    run = int((tmp_path / "processes").read_text().split()[0])
    server = int(Path(f"/proc/{run}/stat").read_text().rpartition(")")[2].split()[1])
    if victim == "caller":
        caller.kill()
        until_gone(run, server)
    else:
        os.kill(server, 9)
        until_gone(run)
    caller.kill()
    caller.wait()


def test_an_error_is_one_line_of_at_most_500_characters() -> None:
    assert error_line(ValueError("a\n\n  b")) == "ValueError: a b"
    assert error_line("plain") == "plain"
    assert len(error_line(ValueError("x" * 1000))) == 500
