"""Records on disk: complete or absent, damaged ones named, never deleted."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from pydantic import ValidationError

import genbench
from genbench.errors import UsageError
from genbench.records.artifacts import StorageError, Work, write_whole
from genbench.records.record import Measurement, Record
from genbench.records.store import Store
from genbench.suite import Run, Suite

RUN = Run(suite="s", name="n", model="m", data="d", metrics=("likelihood",))
NATS = Measurement(value=1.5, unit="nats", better="lower", n=10, stderr=0.1, impl="likelihood 1")


def record(execution: str, **changes: object) -> Record:
    return Record(**({"run": RUN, "execution": execution, "status": "ok", "measurements": {"nats": NATS}} | changes))


def test_what_is_written_is_read_and_sorted_by_time(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    for execution in ("20260102T0Z-a-2", "20260101T0Z-b-1"):
        path = store.write(record(execution))
        assert path == tmp_path / "s" / RUN.id / f"{execution}.json"
    assert [r.execution for r in store.records()] == ["20260101T0Z-b-1", "20260102T0Z-a-2"]
    assert store.records()[0] == record("20260101T0Z-b-1")
    assert store.records("other") == []
    assert not list(tmp_path.rglob("*.new")), "no temporary file is left"
    parts = json.loads(path.read_text(), object_pairs_hook=list)
    assert [key for key, _ in parts] == sorted(key for key, _ in parts), "keys in order: versions compare line by line"


def test_a_renamed_metric_of_an_older_record_counts_under_its_new_name(tmp_path: Path) -> None:
    old = record("1-a-x").model_dump(mode="json") | {"completed": ["evaluations"], "not_applicable": ["evaluations"]}
    old["run"]["metrics"] = ["likelihood", "evaluations"]
    store = Store(tmp_path)
    store.prepare()
    path = tmp_path / "s" / RUN.id / "1-a-x.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(old))
    (new,) = store.records()
    assert (new.run.metrics, new.completed, new.not_applicable) == (("likelihood", "nfe"), ("nfe",), ("nfe",))


def test_selected_suites_are_read_once_and_no_other(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(record("1-a-x"))
    store.write(record("2-a-y", run=RUN.model_copy(update={"suite": "other"})))
    (tmp_path / "s" / ".hidden").mkdir()
    (tmp_path / "s" / ".hidden" / "3-a-z.json").write_text("{}")
    assert [r.execution for r in store.records(["s", "s"])] == ["1-a-x"]
    assert store.suites() == {"s", "other"}
    assert store.damaged == []


def test_a_folder_that_cannot_be_read_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(record("1-a-x"))
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "s" / "notes.txt").write_text("no folder")
    assert [r.execution for r in store.records()] == ["1-a-x"]
    assert [path for path, _ in store.damaged] == [tmp_path / "loop"]


def test_merging_two_machines_is_copying(tmp_path: Path) -> None:
    a, b = Store(tmp_path / "a"), Store(tmp_path / "b")
    a.write(record("1-a-x"))
    path = b.write(record("2-b-y"))
    (tmp_path / "a" / path.relative_to(tmp_path / "b")).write_bytes(path.read_bytes())
    assert [r.execution for r in a.records()] == ["1-a-x", "2-b-y"]


def test_the_newest_file_of_a_suites_version_is_saved(tmp_path: Path) -> None:
    def suite(version: int, title: str) -> Suite:
        fields = {"suite": "s", "version": version, "title": title}
        return Suite.model_validate({**fields, "data": ["d"], "metrics": ["m"], "models": {"n": "m"}})

    store = Store(tmp_path)
    assert store.load_suite("s", 1) is None
    for made in (suite(1, "one"), suite(2, "two"), suite(1, "one, again")):
        store.save_suite(made, made.model_dump_json().encode())
    assert [store.load_suite("s", version) for version in (1, 2, 3)] == [suite(1, "one, again"), suite(2, "two"), None]
    store.save_suite(suite(1, ""), b"suite: [")
    assert store.load_suite("s", 1) is None
    assert store.records() == []
    assert store.suites() == set()


@pytest.mark.parametrize("damage", [b"", b"{", b'{"schema_version": 2}', b"\xff\x00", b"null"])
def test_a_damaged_record_is_named_and_skipped_and_stays(tmp_path: Path, damage: bytes) -> None:
    store = Store(tmp_path)
    store.write(record("1-a-x"))
    bad = store.write(record("2-a-y"))
    bad.write_bytes(damage)
    assert [r.execution for r in store.records()] == ["1-a-x"]
    assert [path for path, _ in store.damaged] == [bad]
    assert bad.read_bytes() == damage


@pytest.mark.parametrize("place", ["s/{id}/2-a-y", "s/0123456789abcdef/1-a-x", "other/{id}/1-a-x"])
def test_a_record_of_another_execution_run_or_suite_is_damaged(place: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.write(record("1-a-x"))
    moved = tmp_path / f"{place.format(id=RUN.id)}.json"
    moved.parent.mkdir(parents=True, exist_ok=True)
    path.rename(moved)
    assert store.records() == []
    assert store.damaged == [(moved, "it belongs to another suite, run or execution than its path")]
    assert moved.exists()


def folder_of_that_name(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def endless_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def link_to_nothing(path: Path) -> None:
    path.symlink_to(path.with_name("nothing"))


@pytest.mark.parametrize("make", [folder_of_that_name, pipe, link_to_itself, endless_device, link_to_nothing])
def test_what_is_no_file_is_named_and_skipped(make: Callable[[Path], None], tmp_path: Path) -> None:
    store = Store(tmp_path)
    bad = store.write(record("1-a-x")).with_name("2-a-y.json")
    make(bad)
    assert [r.execution for r in store.records()] == ["1-a-x"]
    assert [path for path, _ in store.damaged] == [bad]


OPTIONS = [
    "[" * 199 + "]" * 199,  # nested too deeply for the reader
    "[" * 150 + "]" * 150,
    "9" * 5000,  # more digits than Python turns into an integer
    "9" * 4000,
    "NaN",
    "-Infinity",
    "1e999",
    r'"\ud800"',
    r'"\u0000"',
]


@pytest.mark.parametrize("value", OPTIONS, ids=range(len(OPTIONS)))
@pytest.mark.parametrize("key", ['"options": {}', '"value": 1.5', '"timings": {}', '"seed": 0', '"status": "ok"'])
def test_a_value_that_no_record_has_is_one_line(key: str, value: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(record("1-a-x"))
    bad = store.write(record("2-a-y"))
    name, _, old = key.partition(" ")
    text = bad.read_text()
    assert key in text
    bad.write_text(text.replace(key, f'{name} {{"a": {value}}}' if old == "{}" else f"{name} {value}", 1))
    assert [r.execution for r in store.records()] == ["1-a-x"]
    ((path, problem),) = store.damaged
    assert path == bad
    assert problem.isprintable()
    assert len(problem) <= 200


def test_random_bytes_for_any_of_a_record_are_one_line_or_a_record(tmp_path: Path) -> None:
    store, random = Store(tmp_path), Random(0)
    path = store.write(record("1-a-x"))
    good = path.read_bytes()
    for _ in range(500):
        start, length = random.randrange(len(good)), random.choice((0, 1, 2, 40))
        path.write_bytes(good[:start] + random.randbytes(random.choice((0, 1, 3))) + good[start + length :])
        assert len(store.records()) + len(store.damaged) == 1


def test_the_newest_record_has_the_latest_name_also_when_the_clock_is_set_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    names = ["20260102T000000999999Z-a-1", "20260101T000000000000Z-b-2", "20250101T000000000000Z-c-3"]
    paths = [store.write(record(name, measurements={}, error=name)) for name in names]
    assert [r.error for r in store.records()] == names
    assert [path.stem for path in paths] == [names[0], "20260102T000001000000Z-b-2", "20260102T000001000001Z-c-3"]
    assert store.damaged == []
    (paths[0].parent / "99991231T235959999999Z-x-y.json").touch()  # nothing can be later
    assert store.write(record("20260103T000000000000Z-a-1")).stem == "20260103T000000000000Z-a-1"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("function", ["open", "fsync", "replace", "mkdir", "listdir"])
def test_an_error_of_the_disk_leaves_every_record(
    code: int, function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    path = store.write(record("1-a-x"))
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(Path if function in ("open", "mkdir") else os, function, fail)
        with pytest.raises(StorageError, match=f"cannot be written.*{os.strerror(code)}"):
            store.write(record("2-a-y"))
    assert path.read_bytes() == before
    assert [r.execution for r in store.records()] == ["1-a-x"]
    assert list(path.parent.iterdir()) == [path]


def test_results_of_a_missing_folder_are_an_error_and_damaged_ones_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=r"there is no results folder .*/nowhere"):
        genbench.results(tmp_path / "nowhere")
    store = Store(tmp_path)
    store.write(record("1-a-x"))
    bad = store.write(record("2-a-y"))
    bad.write_text("{")
    assert genbench.results(tmp_path)["value"].tolist() == [1.5]
    assert capsys.readouterr().err.startswith(f"genbench: {bad}: skipped, damaged: Invalid JSON")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is not writable: ") as error:
        Store(tmp_path / "file" / "results").prepare()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_measurement_is_a_number_or_nothing(value: float) -> None:
    with pytest.raises(ValidationError):
        Measurement(value=value, unit="nats", impl="x")
    none = record("1-a-x", measurements={"nats": Measurement(value=None, unit="nats", impl="x")})
    assert json.loads(none.model_dump_json())["measurements"]["nats"]["value"] is None


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    write_whole(path, b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("power cut")))
    with pytest.raises(OSError, match="power cut"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("where", ["{tmp}/work", "memory://genbench-test/work"])
def test_the_work_folder_is_a_path_or_a_url(tmp_path: Path, where: str) -> None:
    work = Work(where.format(tmp=tmp_path))
    assert work.load("a/b") is None
    work.save("a/b", b"1")
    work.save("a/b", b"22")
    assert work.load("a/b") == b"22"
    name = work.put(b"picture", ".png")
    assert work.put(b"picture", ".png") == name
    assert work.load(name) == b"picture"
    work.remove("a/b")
    work.remove("a/b")
    assert work.load("a/b") is None
