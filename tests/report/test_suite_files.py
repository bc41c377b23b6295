"""What suite files add to boards: results from papers, which are never ranked, and the ranking measurement."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest
from rich.console import Console

import genbench
from genbench.errors import UsageError
from genbench.report import leaderboard, write
from genbench.report.columns import Column
from genbench.report.suite_files import published_lines, with_suite_file
from genbench.strict_model import checked
from genbench.suite import Suite
from tests.report.records import HOSTILE, NATS, board_of, measured, record, row_of, suite_with_papers, write_page

BOUND = Column("nats", "bound", "nats", "lower")
MINIMAL = {"suite": "mine", "data": ["moons"], "metrics": ["likelihood"], "models": {"NICE": "flows.nice"}}


def nats(value: float, **fields) -> dict:
    return {"values": {"nats": {"moons": value}}} | fields


def test_published_rows_are_in_order_of_value_and_never_ranked():
    records = [*row_of([1.0, 1.1, 1.2], "A"), *row_of([2.0, 2.1, 2.2], "B"), record("Bad", status="crashed")]
    suite = suite_with_papers(
        Last=nats(9.0), Middle=nats(1.5), First=nats(0.5), Elsewhere={"values": {"nats": {"rings": 1.0}}}
    )
    alone, board = board_of(records), with_suite_file(board_of(records), suite)
    assert [row.label for row in board.rows] == [
        "First, published", "A", "Middle, published", "B", "Last, published", "Bad",
    ]  # fmt: skip
    assert board.measured_rows == alone.rows
    assert board.columns == alone.columns
    assert [row.cells[NATS].rank for row in board.published_rows] == [None] * 3
    assert {row.name: row.published for row in board.published_rows}["Middle"] == "Middle (2017), table 1"


def test_published_rows_are_in_order_among_unranked_rows_and_where_higher_is_better():
    speed = {"unit": "samples/s", "better": "higher", "impl": "throughput 1"}
    records = [record(name, measurements={"m": measured(v, **speed)}) for name, v in (("A", 9.0), ("B", 5.0))]
    board = with_suite_file(board_of(records), suite_with_papers(Paper={"values": {"m": {"moons": 7.0}}}))
    assert [row.name for row in board.rows] == ["A", "Paper", "B"]


def test_a_published_bound_is_in_the_column_of_bounds():
    bounds = [record("VAE", s, measurements={"nats": measured(v, kind="bound")}) for s, v in enumerate([5.0, 5.1])]
    suite = suite_with_papers(Paper=nats(4.0, kind="bound"), Sharp=nats(3.0))
    board = with_suite_file(board_of([*row_of([1.0, 1.1]), *bounds]), suite)
    assert {row.name: list(row.cells) for row in board.published_rows} == {"Paper": [BOUND], "Sharp": [NATS]}
    assert [row.name for row in board.rows] == ["NICE", "Sharp", "Paper", "VAE"]
    assert (board.columns[1].unit, board.columns[1].better) == ("nats", "lower")


def test_a_kind_that_only_papers_have_follows_the_measured_columns():
    board = with_suite_file(board_of(row_of([1.0, 1.1])), suite_with_papers(Paper=nats(0.5, kind="bound")))
    assert board.columns == (NATS, BOUND)
    assert [(row.name, *(cell.rank for cell in row.cells.values())) for row in board.rows] == [
        ("NICE", 1), ("Paper", None),
    ]  # fmt: skip


def test_all_measurements_of_a_paper_share_its_row():
    suite = suite_with_papers(Paper={"values": {"nats": {"moons": 0.5}, "fid": {"moons": 29.3, "rings": 8.0}}})
    board = with_suite_file(board_of(row_of([1.0, 1.1])), suite)
    (paper,) = board.published_rows
    assert {column.measurement: cell.mean for column, cell in paper.cells.items()} == {"nats": 0.5, "fid": 29.3}
    assert [column.measurement for column in board.columns] == ["nats", "fid"]


def test_published_rows_are_marked_in_every_output_and_counted_in_none(tmp_path, monkeypatch, capsys):
    (tmp_path / "suites").mkdir()
    text = suite_with_papers(**{"P|per": nats(1.05, source=HOSTILE)}, Other=nats(17.7)).model_dump_json()
    (tmp_path / "suites" / "papers.yaml").write_text(text.replace('"suite":"flows"', '"suite":"papers"'))
    monkeypatch.chdir(tmp_path)
    records = [r for seed in (0, 1) for r in [record(seed=seed, nats=1.0 + seed, suite="papers")]]
    page = write_page(records, tmp_path)
    row = next(row for row in json.loads(page.scripts[0])["boards"][0]["rows"] if row["published"])
    assert (row["published"], row["cells"][0]["mean_text"], row["runs"]) == (HOSTILE, "1.05", [])
    assert any(tag == "tr" and attributes.get("title") == HOSTILE for tag, attributes in page.tags)
    text = (tmp_path / "out" / "LEADERBOARD.md").read_text(encoding="utf-8")
    assert "| – | *P\\|per, published* | 1.05 |" in text
    assert "*Other*: Other (2017), table 1." in text
    assert "2 seeds; 100 steps, batch 128" in text
    assert "<script" not in text
    frame = pd.read_csv(tmp_path / "out" / "leaderboard.csv")
    assert frame[frame["status"] == "published"]["value"].tolist() == [1.05, 17.7]
    assert frame[frame["status"] == "published"]["impl"].tolist() == [HOSTILE, "Other (2017), table 1"]
    assert genbench.results(tmp_path).empty
    leaderboard(records, Console(width=100))
    assert re.search(r"- +Other, published +17\.7 *\n", capsys.readouterr().out)


def test_without_published_rows_boards_and_the_table_are_unchanged():
    board = board_of(row_of([1.0, 1.1]))
    assert with_suite_file(board, None) == with_suite_file(board, suite_with_papers()) == board
    assert not list(published_lines([board]))


def test_a_record_cannot_decide_which_suite_file_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "suite: mine.yaml\ntitle: Stolen\ndata: [moons]\nmetrics: [likelihood]\nmodels: {A: flows.nice}\n"
    )
    write([record(suite="mine.yaml")], tmp_path, tmp_path / "out")
    assert "Stolen" not in (tmp_path / "out" / "LEADERBOARD.md").read_text()


@pytest.mark.parametrize(("value", "names"), [("fid", ("fid",)), (["fid", "bpd"], ("fid", "bpd"))])
def test_rank_by_is_a_measurement_or_a_list_of_them(value, names):
    assert checked(Suite, MINIMAL | {"rank_by": value}).rank_by == names
    assert checked(Suite, MINIMAL).rank_by == ()


@pytest.mark.parametrize("value", [["fid", "fid"], [""], [1], {"fid": 1}, "a\nb"])
def test_a_rank_by_that_is_no_list_of_distinct_names_is_refused(value):
    with pytest.raises(UsageError, match="rank_by"):
        checked(Suite, MINIMAL | {"rank_by": value})


def test_a_rank_by_that_nothing_measures_is_reported(tmp_path, monkeypatch, capsys):
    (tmp_path / "suites").mkdir()
    text = (
        "suite: mine\nrank_by: [nats, excess_nat]\ndata: [moons]\nmetrics: [likelihood]\nmodels: {NICE: flows.nice}\n"
    )
    (tmp_path / "suites" / "mine.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    records = [record(suite="mine", measurements={"nats": measured(1.0), "excess_nats": measured(0.1)})]
    leaderboard(records, Console(width=100))
    captured = capsys.readouterr()
    message = "suite mine v1: rank_by: no record has a measurement 'excess_nat'; did you mean 'excess_nats'?"
    assert captured.err == f"genbench: {message}\n"
    assert captured.out.index("NLL ↓") < captured.out.index("excess NLL ↓")
    leaderboard([record(suite="mine", status="crashed")], Console(width=100))
    assert capsys.readouterr().err == ""
