"""Records on disk: whole or not there, damaged ones named, never deleted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from genbench.run import Measurement, Record, Run, Suite, UsageError
from genbench.store import Store
from genbench.work import Work, write_whole

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


def test_suites_asked_for_twice_are_read_once_and_no_other(tmp_path: Path) -> None:
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


def test_the_newest_file_of_a_suites_version_is_kept(tmp_path: Path) -> None:
    def suite(version: int, title: str) -> Suite:
        said = {"suite": "s", "version": version, "title": title}
        return Suite.model_validate({**said, "data": ["d"], "metrics": ["m"], "models": {"n": "m"}})

    store = Store(tmp_path)
    assert store.kept("s", 1) is None
    for made in (suite(1, "one"), suite(2, "two"), suite(1, "one, again")):
        store.keep(made, made.model_dump_json().encode())
    assert [store.kept("s", version) for version in (1, 2, 3)] == [suite(1, "one, again"), suite(2, "two"), None]
    store.keep(suite(1, ""), b"suite: [")
    assert store.kept("s", 1) is None
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


def test_a_record_in_anothers_place_is_damaged(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.write(record("1-a-x"))
    path.rename(path.with_name("2-a-y.json"))
    assert store.records() == []
    assert "than its name says" in store.damaged[0][1]


def test_what_is_held_is_what_ok_records_were_asked_for(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.held(RUN) == set()
    store.write(record("1-a-x", status="diverged", measurements={}))
    assert store.held(RUN) == set()
    store.write(record("2-a-y"))
    speed = RUN.model_copy(update={"metrics": ("throughput",)})
    store.write(record("3-a-z", run=speed))
    assert store.held(RUN) == {"likelihood", "throughput"}
    assert store.held(RUN.model_copy(update={"name": "renamed"})) == set()


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
