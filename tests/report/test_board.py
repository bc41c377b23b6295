"""Boards: one per suite, version and data set, rows in order, uncertain rows marked."""

from __future__ import annotations

import csv
import json

import pytest
from rich.console import Console

from genbench.report import write
from genbench.report.board import boards
from genbench.report.figures import plot_intervals
from genbench.report.markdown import markdown
from genbench.report.protocol import hardware_by_suite
from genbench.report.tidy import by_run, lines, metrics_by_suite
from tests.report.records import NATS, PageParser, board_of, invalid_row, record, row_of, rows_of


def test_each_suite_version_and_data_set_has_its_own_board():
    records = [record(), record(data="rings"), record(suite="other"), record(run={"version": 2, "model": "flows.nice"})]
    keys = [
        (board.suite, board.version, board.data) for board in boards(lines(by_run(records)), metrics_by_suite(records))
    ]
    assert keys == [("flows", 1, "moons"), ("flows", 1, "rings"), ("flows", 2, "moons"), ("other", 1, "moons")]


@pytest.mark.parametrize(("dirty", "marked"), [(True, True), (False, False), (None, False)])
def test_uncommitted_code_is_marked(dirty, marked):
    records = [record(seed=0), record(seed=1, code={"commit": "c" * 40, "dirty": dirty})]
    assert rows_of(records)["NICE"].dirty is marked
    assert ("†" in markdown([board_of(records)], hardware_by_suite(records))) is marked


def test_a_row_with_one_invalid_seed_is_shown_last_marked_and_never_ranked(tmp_path, capsys):
    records = [
        *invalid_row([-9.0, -9.1, -9.2], [None, "invalid", None]),
        *row_of([1.0, 1.1, 1.2]),
        *row_of([2.0, 2.1], "Few"),
    ]
    board = board_of(records)
    cell = {row.name: row for row in board.rows}["Liar"].cells[NATS]
    assert [row.name for row in board.rows] == ["NICE", "Few", "Liar"]
    assert (cell.rank, cell.mean, cell.unranked_reason) == (
        None,
        pytest.approx(-9.1),
        "invalid: a seed has an impossible value",
    )
    write(records, tmp_path, tmp_path / "out", console=Console(width=100))
    text = (tmp_path / "out" / "LEADERBOARD.md").read_text()
    assert "| – | Liar | -9.10 ± 0.25 (invalid 1/3) |" in text
    assert "| 1 | NICE | **1.10** ± 0.25 |" in text
    assert "-9.10 ± 0.25 (invalid 1/3)" in capsys.readouterr().out
    page = PageParser((tmp_path / "out" / "leaderboard.html").read_text())
    data = json.loads(page.scripts[0])["boards"][0]
    assert [at for at, _ in data["marks"]] == [0, 1], "no mark in charts"
    assert data["rows"][2]["cells"][0]["n_invalid"] == 1
    assert [
        row["verdict"] for row in csv.DictReader((tmp_path / "out" / "leaderboard.csv").open()) if row["name"] == "Liar"
    ] == ["", "invalid", ""]
    assert len(plot_intervals(board).axes[0].texts) == 2, "nor in plots"
