"""The tidy table: the newest execution counts, failures are lines, text is safe in spreadsheets."""

from __future__ import annotations

import csv
import io
import json

import pytest

import genbench
from genbench.console import printable
from genbench.errors import UsageError
from genbench.records.record import Measurement, Record
from genbench.records.store import Store
from genbench.report import write
from genbench.report.tidy import Line, by_run, lines, tidy, to_csv
from tests.report.records import NATS, PageParser, measured, record, row_of, rows_of


def test_the_newest_execution_counts_and_not_the_best():
    records = [record(nats=1.0, at=1), record(nats=2.0, at=3), record(nats=0.5, at=2)]
    assert tidy(records)["value"].tolist() == [2.0]
    assert tidy(records[::-1])["value"].tolist() == [2.0]


def test_a_measurement_comes_from_the_newest_execution_that_has_it():
    speed = {"train_throughput": measured(50.0, unit="samples/s", better="higher", impl="throughput 1")}
    frame = tidy([record(nats=1.0, at=1), record(at=2, measurements=speed)])
    assert dict(zip(frame["measurement"], frame["value"], strict=True)) == {"nats": 1.0, "train_throughput": 50.0}
    assert frame["id"].nunique() == 1


def test_a_run_that_succeeded_and_then_failed_keeps_its_numbers_and_shows_the_failure():
    frame = tidy([record(nats=1.0, at=1), record(at=2, status="timeout")])
    assert frame["status"].tolist() == ["ok", "timeout"]
    assert frame["value"].isna().tolist() == [False, True]
    row = rows_of([*row_of([1.0, 1.1]), record(at=2, status="timeout")])["NICE"]
    assert (row.failures, row.later_failures, row.cells[NATS].n) == ("", "timeout 1/2", 2)


def test_a_row_has_the_newest_name_of_its_run():
    first, second = record("Old", at=1), record("New", at=2, run={"model": "flows.old"})
    assert first.id == second.id
    assert tidy([first, second])["name"].tolist() == ["New"]


def test_results_is_the_tidy_table_of_a_folder(tmp_path):
    store = Store(tmp_path)
    for r in row_of([1.0, 2.0]):
        store.write(r)
    frame = genbench.results(tmp_path)
    assert tuple(frame.columns) == Line._fields
    assert frame["value"].tolist() == [1.0, 2.0]


def test_results_of_a_missing_folder_are_an_error(tmp_path):
    with pytest.raises(UsageError, match="nowhere"):
        genbench.results(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1"])
def test_names_never_become_formulas_and_numbers_stay_numbers(name):
    read = list(csv.DictReader(io.StringIO(to_csv(lines(by_run(row_of([-1.5, 2.0], name)))))))
    assert [row["value"] for row in read] == ["-1.5", "2.0"]
    assert {row["name"] for row in read} == {f"'{printable(name)}"}
    assert {row["data"] for row in read} == {"moons"}


def test_commit_seconds_and_attempts_are_those_of_the_execution_of_the_value(tmp_path):
    def executed(at: int, status: str, **measurements: Measurement) -> Record:
        about = {"code": {"commit": str(at) * 40, "dirty": at == 2}, "timings": {"total": 10.0 * at}, "attempts": at}
        return record(at=at, status=status, measurements=measurements, data_sha256=f"data {at}", **about)

    speed = measured(9.0, unit="samples/s", better="higher", impl="throughput 1")
    records = [executed(1, "ok", nats=measured(1.0)), executed(2, "ok", rate=speed), executed(3, "timeout")]
    frame = tidy(records).set_index("measurement", drop=False)
    for name, at in (("nats", 1), ("rate", 2)):
        line = frame.loc[name]
        assert (line.commit, line.seconds, line.attempts, line.data_sha256) == (
            str(at) * 40,
            10.0 * at,
            at,
            f"data {at}",
        )
        assert line.dirty == (at == 2)
    failed = frame[frame.status == "timeout"].iloc[0]
    assert (failed.commit, failed.seconds) == ("3" * 40, 30.0)
    write(records, tmp_path, tmp_path)
    data = json.loads(PageParser((tmp_path / "leaderboard.html").read_text()).scripts[0])
    cells = data["boards"][0]["rows"][0]["cells"]
    assert [data["executions"][cell["seeds"][0][-1]]["commit"] for cell in cells] == ["1" * 40, "2" * 40]
    assert [data["executions"][cell["seeds"][0][-1]]["seconds"] for cell in cells] == [10.0, 20.0]


def test_seeds_of_any_size_are_exact_in_frames_and_on_the_page(tmp_path):
    seeds = [2**63, 2**63 + 1, 2**70]
    records = [record(seed=seed, nats=float(i)) for i, seed in enumerate(seeds)]
    assert tidy(records)["seed"].tolist() == seeds
    assert str(tidy(row_of([1.0]))["seed"].dtype) == "int64"
    write(records, tmp_path, tmp_path)
    data = json.loads(PageParser((tmp_path / "leaderboard.html").read_text(encoding="utf-8")).scripts[0])
    assert [seed for seed, *_ in data["boards"][0]["rows"][0]["runs"]] == [str(seed) for seed in seeds]
