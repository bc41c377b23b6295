"""The report: what is said from seeds is what statistics say, failures are seen, and what records say is only text."""

import json
import math
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from scipy import stats

import genbench
from genbench.records.artifacts import Work
from genbench.records.record import Measurement, Point, Record
from genbench.records.store import Store
from genbench.report import compare, leaderboard, show, write
from genbench.report.board import Board, Row, boards
from genbench.report.columns import Column
from genbench.report.comparison import compare_records, regressions
from genbench.report.curves import newest_curves
from genbench.report.figures import figures, plot_quality
from genbench.report.formatting import format_number
from genbench.report.intervals import (
    Sample,
    half_width,
    p_value,
    quantile,
    ranks,
    welch,
    welch_half_width,
)
from genbench.report.markdown import markdown
from genbench.report.markers import family_colors, label_points, marker_meanings
from genbench.report.marks import ranking_marks
from genbench.report.protocol import hardware_by_suite
from genbench.report.suite_files import published_lines, with_suite_file
from genbench.report.tidy import Line, by_run, lines, metrics_by_suite, tidy
from genbench.strict_model import checked
from genbench.suite import Run, Suite

NATS = Column("nats", "exact", "nats", "lower")
OK = {"likelihood": 1.0}


def measured(value: float | None, **changes) -> Measurement:
    said = {"unit": "nats", "better": "lower", "n": 100, "stderr": 0.1, "impl": "likelihood 1"}
    return Measurement(value=value, **(said | changes))


def record(name="NICE", seed=0, nats: float | None = 1.0, at=0, status="ok", data="moons", **changes) -> Record:
    """Return a record as a run would make it; `at` orders executions."""
    options = {"model": f"flows.{name.lower()}", "steps": 100, "metrics": ("likelihood",)} | changes.pop("run", {})
    run = Run(suite=changes.pop("suite", "flows"), name=name, data=data, seed=seed, **options)
    measurements = changes.pop("measurements", {"nats": measured(nats)} if status == "ok" else {})
    said = {"environment": {"processor": "Some CPU", "cores": 2}, "code": {"commit": "c" * 40, "dirty": False}}
    execution = f"20260101T{at:06d}000000Z-abcdef01-{seed:06x}"
    return Record(run=run, execution=execution, status=status, measurements=measurements, **(said | changes))


def row_of(values, name="NICE", **changes) -> list[Record]:
    return [record(name, seed, value, **changes) for seed, value in enumerate(values)]


def board_of(records: list[Record]) -> Board:
    (board,) = boards(lines(by_run(records)), metrics_by_suite(records))
    return board


def rows_of(records: list[Record]) -> dict[str, Row]:
    return {row.name: row for row in board_of(records).rows}


# ------------------------------------------------------------------------------------------------ statistics


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_half_width_is_students_interval(n):
    x = np.random.default_rng(n).normal(3, 2, n)
    low, high = stats.t.interval(0.95, n - 1, x.mean(), stats.sem(x))
    assert half_width(x.std(ddof=1), n) == pytest.approx((high - low) / 2, rel=1e-12)


def test_one_seed_has_no_interval():
    assert math.isnan(half_width(np.array(0.0), np.array(1)))


@pytest.mark.parametrize("seed", range(5))
def test_welch_is_scipys(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 1, 2 + seed), rng.normal(1, 3, 4)
    difference, stderr, freedom = welch(sample(a), sample(b))
    theirs = stats.ttest_ind(b, a, equal_var=False)
    low, high = theirs.confidence_interval(0.95)
    assert freedom == pytest.approx(theirs.df, rel=1e-12)
    assert p_value(difference, stderr, freedom) == pytest.approx(theirs.pvalue, rel=1e-9)
    half = welch_half_width(stderr, freedom)
    assert (difference - half, difference + half) == pytest.approx((low, high), rel=1e-9)


def sample(*groups) -> Sample:
    parts = np.array([(np.mean(g), np.std(g, ddof=1) if len(g) > 1 else np.nan, len(g)) for g in groups]).T
    return Sample(*(parts if len(groups) > 1 else parts[:, 0]))


def test_equal_without_spread_is_equal_and_different_is_different():
    same, other = Sample(*np.array([2.0, 0.0, 3])), Sample(*np.array([2.1, 0.0, 3]))
    assert p_value(*welch(same, same)) == 1
    assert p_value(*welch(same, other)) == 0


@pytest.mark.parametrize("better", ["lower", "higher"])
@pytest.mark.parametrize("seed", range(4))
def test_a_rank_counts_the_rows_that_are_significantly_better_and_none_passes_a_better_mean(better, seed):
    rng = np.random.default_rng(seed)
    groups = [
        rng.normal(mean, 0.3, n) for mean, n in zip(rng.normal(0, 1, 9), [2, 3, 3, 3, 4, 5, 3, 3, 8], strict=True)
    ]
    sign = 1 if better == "lower" else -1

    def beats(a, b) -> bool:
        return sign * (b.mean() - a.mean()) > 0 and stats.ttest_ind(a, b, equal_var=False).pvalue < 0.05

    beaten = [1 + sum(beats(other, group) for other in groups) for group in groups]
    expected = [
        max(b for b, a in zip(beaten, groups, strict=True) if sign * (x.mean() - a.mean()) >= 0) for x in groups
    ]
    assert ranks(sample(*groups), better).tolist() == expected
    assert max(expected) > 1


def test_rows_that_cannot_be_told_apart_share_a_rank():
    tied = sample([1.0, 1.1, 1.2], [1.05, 1.1, 1.16], [9.0, 9.1, 9.2])
    assert ranks(tied, "lower").tolist() == [1, 1, 3]


@pytest.mark.parametrize(("better", "sign"), [("lower", 1.0), ("higher", -1.0)])
def test_a_row_of_scattered_seeds_does_not_rank_before_a_better_mean(better, sign):
    rows = np.array([[1.0, 1.001, 1.002], [1.1, 1.101, 1.102], [0.9, 1.2, 2.1]])
    assert ranks(sample(*(sign * rows)), better).tolist() == [1, 2, 2]


@pytest.mark.parametrize("q", [0, 0.2, 0.5, 0.8, 1])
def test_quantiles_are_numpys(q):
    x = tuple(np.random.default_rng(0).normal(size=7))
    assert quantile(x, q) == pytest.approx(np.quantile(x, q), rel=1e-12)
    assert quantile((2.0,), q) == 2.0


# -------------------------------------------------------------------------------------------------- executions


def test_the_newest_execution_counts_and_not_the_best():
    records = [record(nats=1.0, at=1), record(nats=2.0, at=3), record(nats=0.5, at=2)]
    assert tidy(records)["value"].tolist() == [2.0]
    assert tidy(records[::-1])["value"].tolist() == [2.0]


def test_a_measurement_is_taken_from_the_newest_execution_that_holds_it():
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


def test_the_newest_name_of_a_run_names_its_row():
    first, second = record("Old", at=1), record("New", at=2, run={"model": "flows.old"})
    assert first.id == second.id
    assert tidy([first, second])["name"].tolist() == ["New"]


# -------------------------------------------------------------------------------------------------------- cells


def test_a_cell_is_mean_and_interval_over_seeds_with_the_test_sets_error_apart():
    values, errors = [1.0, 1.3, 1.1], [0.1, 0.2, 0.3]
    records = [
        record(seed=s, measurements={"nats": measured(v, stderr=e)})
        for s, (v, e) in enumerate(zip(values, errors, strict=True))
    ]
    cell = rows_of(records)["NICE"].cells[NATS]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (cell.n, cell.mean, cell.half_width) == (3, pytest.approx(np.mean(values)), pytest.approx((high - low) / 2))
    assert cell.stderr == pytest.approx(math.sqrt(np.mean(np.square(errors))))
    assert [seed.value for seed in cell.lines] == values


def test_a_failure_is_counted_shown_and_never_a_number():
    failed = [*row_of([0.1, 0.1], "NSF"), record("NSF", 2, status="diverged")]
    records = [*row_of([1.0, 1.1, 1.2]), *failed, record("Glow", status="crashed")]
    rows = rows_of(records)
    assert (rows["NSF"].failures, rows["NSF"].cells[NATS].n) == ("diverged 1/3", 2)
    assert rows["NSF"].cells[NATS].rank is None
    assert (rows["Glow"].failures, rows["Glow"].cells) == ("crashed 1/1", {})
    assert list(rows) == ["NICE", "NSF", "Glow"]
    assert "diverged 1/3" in markdown([board_of(records)], hardware_by_suite(records))
    frame = tidy(records)
    assert frame[frame["status"] != "ok"]["value"].isna().all()


def test_the_spread_of_a_timing_is_of_the_one_seed_that_has_a_value():
    speed = {"unit": "samples/s", "better": "higher"}
    there, none = measured(2.0, raw=(1.0, 2.0, 3.0), **speed), measured(None, **speed)
    records = [record(seed=0, measurements={"rate": there}), record(seed=1, measurements={"rate": none})]
    (cell,) = rows_of(records)["NICE"].cells.values()
    assert (cell.n, cell.p20, cell.p80) == (1, pytest.approx(1.4), pytest.approx(2.6))


def test_different_failures_are_counted_apart():
    records = [record(seed=0, status="timeout"), record(seed=1, status="diverged"), record(seed=2, status="timeout")]
    assert rows_of(records)["NICE"].failures == "diverged 1/3, timeout 2/3"


def test_what_a_number_says_of_a_run_is_counted_beside_its_row_and_is_no_failure():
    verdicts = ["collapsed", "collapsed", None]
    records = [record("GAN", s, measurements={"nats": measured(1.0 + s, verdict=v)}) for s, v in enumerate(verdicts)]
    board = board_of([*records, *row_of([1.0, 1.1, 1.2])])
    row = {row.name: row for row in board.rows}["GAN"]
    assert (row.failures, row.verdicts, row.cells[NATS].n) == ("", "collapsed 2/3", 3)
    assert row.cells[NATS].rank == 1
    assert "collapsed 2/3" in markdown([board], hardware_by_suite(records))


def test_exact_values_bounds_and_estimates_share_neither_column_nor_rank():
    bound = [
        record("VAE", seed, measurements={"nats": measured(value, kind="bound")})
        for seed, value in enumerate([5.0, 5.1])
    ]
    board = board_of([*row_of([1.0, 1.1]), *bound])
    assert [(column.measurement, column.kind) for column in board.columns] == [("nats", "exact"), ("nats", "bound")]
    assert [cell.rank for row in board.rows for cell in row.cells.values()] == [1, 1]


def test_values_in_different_units_are_never_averaged():
    bits = [record(seed=seed, at=1, measurements={"nats": measured(2.0, unit="bits")}) for seed in (1, 2)]
    board = board_of([*row_of([1.0, 1.1, 1.2]), *bits])
    cells = {column.unit: (cell.n, cell.mean) for column, cell in board.rows[0].cells.items()}
    assert cells == {"nats": (1, 1.0), "bits": (2, 2.0)}


def test_a_row_that_lacks_a_seed_of_the_others_is_shown_and_not_ranked():
    rows = rows_of([*row_of([1.0, 1.1, 1.2], "A"), *row_of([2.0, 2.1, 2.2], "B"), *row_of([0.1, 0.1], "C")])
    assert [rows[name].cells[NATS].rank for name in "ABC"] == [1, 2, None]
    assert "missing" in rows["C"].cells[NATS].unranked_reason


def test_more_seeds_of_one_row_do_not_make_the_others_incomplete():
    rows = rows_of([*row_of([1.0, 1.1, 1.2, 1.0, 1.1], "A"), *row_of([2.0, 2.1], "B"), *row_of([3.0, 3.1], "C")])
    assert [rows[name].cells[NATS].rank for name in "ABC"] == [1, 2, 3]


def test_a_value_that_is_none_is_no_value_and_no_rank():
    cell = rows_of([record(measurements={"nats": measured(None)})])["NICE"].cells[NATS]
    assert (cell.mean, cell.n, cell.rank) == (None, 0, None)


def test_one_seed_is_not_ranked_and_a_timing_shows_the_spread_of_its_repetitions():
    raw = (90.0, 100.0, 101.0, 103.0, 140.0)
    speed = measured(101.0, unit="samples/s", better="higher", raw=raw, impl="throughput 1")
    (cell,) = rows_of([record(measurements={"train_throughput": speed})])["NICE"].cells.values()
    assert (cell.rank, cell.half_width, cell.mean) == (None, None, 101.0)
    assert (cell.p20, cell.p80) == pytest.approx(tuple(np.quantile(raw, [0.2, 0.8])))


def test_what_has_no_better_end_is_not_ranked():
    size = measured(10.0, unit="parameters", better=None, impl="parameters 1")
    rows = rows_of([record(seed=seed, measurements={"parameters": size}) for seed in range(3)])
    assert [cell.rank for cell in rows["NICE"].cells.values()] == [None]


def test_another_version_of_a_metric_is_not_ranked_with_the_newest():
    old = [
        record("Old", seed, measurements={"nats": measured(value, impl="likelihood 0")})
        for seed, value in enumerate([0.1, 0.2])
    ]
    rows = rows_of([*old, *row_of([1.0, 1.1], at=5)])
    assert rows["NICE"].cells[NATS].rank == 1
    assert "version" in rows["Old"].cells[NATS].unranked_reason


def test_rows_measured_on_other_data_than_the_newest_are_not_ranked():
    rows = rows_of([*row_of([0.1, 0.2], "Old", data_sha256="a"), *row_of([1.0, 1.1], at=5, data_sha256="b")])
    assert [rows[name].cells[NATS].rank for name in ("NICE", "Old")] == [1, None]


def test_one_name_under_two_protocols_is_two_rows():
    short = [record(seed=seed, nats=9.0, at=3, run={"model": "flows.nice", "steps": 10}) for seed in (0, 1)]
    rows = rows_of([*row_of([1.0, 1.2]), *short])
    assert {name: row.cells[NATS].mean for name, row in rows.items()} == {
        "NICE (steps=100)": pytest.approx(1.1),
        "NICE (steps=10)": 9.0,
    }


@pytest.mark.parametrize(("dirty", "marked"), [(True, True), (False, False), (None, False)])
def test_uncommitted_code_is_marked(dirty, marked):
    records = [record(seed=0), record(seed=1, code={"commit": "c" * 40, "dirty": dirty})]
    assert rows_of(records)["NICE"].dirty is marked
    assert ("†" in markdown([board_of(records)], hardware_by_suite(records))) is marked


def test_several_machines_are_named():
    records = [record(), record(seed=1, environment={"gpu": "Some GPU", "processor": "Some CPU"})]
    text = markdown([board_of(records)], hardware_by_suite(records))
    assert "Measured on Some CPU, 2 cores; Some GPU. Speeds from different machines are not comparable." in text


def test_suites_versions_and_data_have_boards_of_their_own():
    records = [record(), record(data="rings"), record(suite="other"), record(run={"version": 2, "model": "flows.nice"})]
    found = [
        (board.suite, board.version, board.data) for board in boards(lines(by_run(records)), metrics_by_suite(records))
    ]
    assert found == [("flows", 1, "moons"), ("flows", 1, "rings"), ("flows", 2, "moons"), ("other", 1, "moons")]


def test_another_suite_beside_does_not_move_columns():
    def of(suite: str, metrics: tuple[str, ...]) -> Record:
        found = {
            "elbo": measured(1.0, better="higher", impl="latents 1"),
            "probe": measured(1.0, better="higher", impl="representation 1"),
        }
        return record(suite=suite, run={"metrics": metrics}, measurements=found)

    records = [of("vaes", ("latents", "representation")), of("autoencoders", ("representation", "latents"))]
    orders = {
        b.suite: [c.measurement for c in b.columns] for b in boards(lines(by_run(records)), metrics_by_suite(records))
    }
    assert orders == {"vaes": ["elbo", "probe"], "autoencoders": ["probe", "elbo"]}


def test_columns_follow_the_suites_file_where_it_is_at_hand():
    found = {
        "nats": measured(1.0, impl="likelihood 1, L_100"),
        "elbo": measured(1.0, better="higher", impl="latents 1"),
        "probe": measured(1.0, better="higher", impl="representation 1"),
    }
    records = [record(run={"metrics": ("representation", "latents", "likelihood:L100")}, measurements=found)]
    said = papers().model_copy(update={"metrics": ("latents", "likelihood:L100", "representation")})
    (board,) = boards(lines(by_run(records)), metrics_by_suite(records, [said]))
    assert [column.measurement for column in board.columns] == ["elbo", "nats", "probe"]
    assert [column.measurement for column in board_of(records).columns] == ["probe", "elbo", "nats"]


@pytest.mark.parametrize(
    ("names", "primary"),
    [
        (("nats", "excess_nats", "bpd"), "excess_nats"),
        (("nats", "bpd"), "bpd"),
        (("parameters", "fid"), "fid"),
    ],
)
def test_the_primary_measurement_comes_first(names, primary):
    found = {name: measured(1.0, better=None if name == "parameters" else "lower") for name in names}
    assert board_of([record(measurements=found)]).primary == primary


# --------------------------------------------------------------------------------------------------- published

BOUND = Column("nats", "bound", "nats", "lower")


def papers(**rows) -> Suite:
    """Return a suite whose published rows are `rows`: name -> fields beside the source."""
    said = {name: {"source": f"{name} (2017), table 1"} | fields for name, fields in rows.items()}
    return checked(
        Suite,
        {
            "suite": "flows",
            "data": ["moons", "rings"],
            "metrics": ["likelihood"],
            "models": {"NICE": "flows.nice"},
            "published": said,
        },
    )


def nats(value: float, **fields) -> dict:
    return {"values": {"nats": {"moons": value}}} | fields


def test_what_papers_report_stands_in_order_of_value_and_is_never_ranked():
    records = [*row_of([1.0, 1.1, 1.2], "A"), *row_of([2.0, 2.1, 2.2], "B"), record("Bad", status="crashed")]
    said = papers(Last=nats(9.0), Middle=nats(1.5), First=nats(0.5), Elsewhere={"values": {"nats": {"rings": 1.0}}})
    alone, board = board_of(records), with_suite_file(board_of(records), said)
    assert [row.label for row in board.rows] == [
        "First, published", "A", "Middle, published", "B", "Last, published", "Bad",
    ]  # fmt: skip
    assert board.measured_rows == alone.rows
    assert board.columns == alone.columns
    assert [row.cells[NATS].rank for row in board.published_rows] == [None] * 3
    assert {row.name: row.published for row in board.published_rows}["Middle"] == "Middle (2017), table 1"


def test_published_values_are_in_order_among_unranked_rows_and_where_more_is_better():
    speed = {"unit": "samples/s", "better": "higher", "impl": "throughput 1"}
    records = [record(name, measurements={"m": measured(v, **speed)}) for name, v in (("A", 9.0), ("B", 5.0))]
    board = with_suite_file(board_of(records), papers(Paper={"values": {"m": {"moons": 7.0}}}))
    assert [row.name for row in board.rows] == ["A", "Paper", "B"]


def test_a_published_bound_stands_in_the_column_of_bounds():
    bounds = [record("VAE", s, measurements={"nats": measured(v, kind="bound")}) for s, v in enumerate([5.0, 5.1])]
    said = papers(Paper=nats(4.0, kind="bound"), Sharp=nats(3.0))
    board = with_suite_file(board_of([*row_of([1.0, 1.1]), *bounds]), said)
    assert {row.name: list(row.cells) for row in board.published_rows} == {"Paper": [BOUND], "Sharp": [NATS]}
    assert [row.name for row in board.rows] == ["NICE", "Sharp", "Paper", "VAE"]
    assert (board.columns[1].unit, board.columns[1].better) == ("nats", "lower")


def test_a_kind_that_only_papers_have_follows_what_is_measured():
    board = with_suite_file(board_of(row_of([1.0, 1.1])), papers(Paper=nats(0.5, kind="bound")))
    assert board.columns == (NATS, BOUND)
    assert [(row.name, *(cell.rank for cell in row.cells.values())) for row in board.rows] == [
        ("NICE", 1), ("Paper", None),
    ]  # fmt: skip


def test_several_measurements_of_a_paper_share_its_row_and_none_is_lost():
    said = papers(Paper={"values": {"nats": {"moons": 0.5}, "fid": {"moons": 29.3, "rings": 8.0}}})
    board = with_suite_file(board_of(row_of([1.0, 1.1])), said)
    (paper,) = board.published_rows
    assert {column.measurement: cell.mean for column, cell in paper.cells.items()} == {"nats": 0.5, "fid": 29.3}
    assert [column.measurement for column in board.columns] == ["nats", "fid"]


def test_published_rows_are_marked_in_every_output_and_counted_in_none(tmp_path, monkeypatch, capsys):
    (tmp_path / "suites").mkdir()
    text = papers(**{"P|per": nats(1.05, source=HOSTILE)}, Other=nats(17.7)).model_dump_json()
    (tmp_path / "suites" / "papers.yaml").write_text(text.replace('"suite":"flows"', '"suite":"papers"'))
    monkeypatch.chdir(tmp_path)
    records = [made for seed in (0, 1) for made in [record(seed=seed, nats=1.0 + seed, suite="papers")]]
    page = written(records, tmp_path)
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


def test_without_published_rows_a_board_and_the_table_are_as_they_were():
    board = board_of(row_of([1.0, 1.1]))
    assert with_suite_file(board, None) == with_suite_file(board, papers()) == board
    assert not list(published_lines([board]))


# ----------------------------------------------------------------------------------------------------- outputs


@pytest.mark.parametrize(
    ("value", "unit", "spread", "text"),
    [
        (2.16342, "bits/dim", 0.0123, "2.163"),
        (2.16342, "bits/dim", None, "2.163"),
        (0.00012, "nats", None, "0.0001"),
        (101.94, "nats", 2.3, "101.9"),
        (1577984, "parameters", None, "1.58M"),
        (48_000_000, "bytes", None, "45.8 MiB"),
        (29_941.0, "samples/s", None, "29.9k"),
        (0.0, "nats", None, "0"),
        (-0.0031, "nats", 0.0042, "-0.0031"),
        (999_999.0, "samples/s", None, "1000k"),
        (0.0, "bytes", None, "0.00 B"),
        (1.5e-6, "", 2e-7, "1.5e-06"),
        (1e30, "nats", None, "1.0e+18T"),
    ],
)
def test_numbers_have_the_digits_their_spread_supports(value, unit, spread, text):
    assert format_number(value, unit, spread) == text


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "bytes", "nats"]),
    st.none() | st.floats(0, 1e6),
)
def test_any_number_is_written_short_and_is_zero_only_if_it_is(value, unit, spread):
    text = format_number(value, unit, spread)
    assert len(text) <= 16
    assert (float(re.sub(r"[^-+.e0-9]", "", text)) == 0) == (value == 0)


HOSTILE = '$\\frac{$</script><script>alert("1|2")</script><img src=x onerror=alert(1)>`*_[a](b)'


def hostile() -> list[Record]:
    bad = {"error": HOSTILE, "command": HOSTILE, "environment": {HOSTILE: HOSTILE}, "code": {"commit": HOSTILE}}
    values = [record(HOSTILE, seed, 1.0 + seed, run={"model": HOSTILE}, **bad) for seed in (0, 1)]
    return [*values, record("Bad", status="error", **bad)]


class Tags(HTMLParser):
    """The tags of a page, and the text of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.scripts += [""] if tag == "script" else []

    def handle_data(self, text):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += text


def written(records: list[Record], folder: Path) -> Tags:
    write(records, folder, folder / "out")
    return Tags((folder / "out" / "leaderboard.html").read_text(encoding="utf-8"))


def test_what_records_say_never_becomes_markup(tmp_path):
    page = written(hostile(), tmp_path)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert "img" not in [tag for tag, _ in page.tags]
    data = json.loads(page.scripts[0])
    assert data["boards"][0]["rows"][0]["name"] == HOSTILE
    text = (tmp_path / "out" / "LEADERBOARD.md").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<img" not in text
    tables = [re.sub(r"\\\|", "", line) for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in tables}) == 1


def test_the_page_asks_for_nothing_but_itself(tmp_path):
    page = written([*row_of([1.0, 1.1]), *row_of([2.0, 2.1], "Glow")], tmp_path)
    links = [attributes[key] for _, attributes in page.tags for key in ("src", "href") if key in attributes]
    assert all(link.startswith(("data:", "#")) for link in links)
    text = (tmp_path / "out" / "leaderboard.html").read_text(encoding="utf-8")
    assert not re.findall(r"url\((?!#|\$)|@import|fetch\(|XMLHttpRequest", text)
    assert "default-src 'none'" in text


def test_behind_every_cell_are_commit_environment_command_and_single_values(tmp_path):
    records = row_of([1.0, 1.5], command="genbench run flows")
    data = json.loads(written(records, tmp_path).scripts[0])
    (row,) = data["boards"][0]["rows"]
    (cell,) = row["cells"]
    for (seed, value, *_, impl, place), run, made in zip(cell["seeds"], row["runs"], records, strict=True):
        execution = data["executions"][place]
        assert (seed, value) == (made.run.seed, made.measurements["nats"].value)
        assert data["impls"][impl] == made.measurements["nats"].impl
        assert run == [made.run.seed, made.id, place]
        assert (execution["execution"], execution["commit"]) == (made.execution, "c" * 40)
        assert execution["command"] == "genbench run flows"
        assert data["environments"][execution["environment"]] == made.environment


def test_pictures_are_embedded_once_a_row_and_only_from_the_work_folder(tmp_path):
    files = tmp_path / ".work" / "files"
    files.mkdir(parents=True)
    for path in (files / "a.png", tmp_path / "secret.png"):
        Image.new("RGB", (8, 8), "red").save(path)
    (files / "fake.png").write_bytes(b"<svg onload=alert(1)>")
    rows = [
        *row_of([1.0, 1.1], "A", files={"samples.png": "files/a.png"}),
        *row_of([1.0, 1.1], "Missing", files={"samples.png": "files/none.png"}),
        *row_of([1.0, 1.1], "Outside", files={"samples.png": "../secret.png"}),
        *row_of([1.0, 1.1], "Fake", files={"samples.png": "files/fake.png"}),
    ]
    images = [attributes["alt"] for tag, attributes in written(rows, tmp_path).tags if tag == "img"]
    assert images == ["samples.png of A on moons, seed 0"]


def suite_records() -> list[Record]:
    curve = tuple(Point(step=step, seconds=1.0, loss=10 / step, validation=11 / step) for step in range(1, 90))
    speeds = [
        record(
            name,
            0,
            at=9,
            measurements={"train_throughput": measured(v, unit="samples/s", better="higher", raw=(v - 2, v, v + 9))},
        )
        for name, v in (("A", 90.0), ("B", 500.0), ("A very long name of a row that goes on and on", 100.0))
    ]
    rows = [row_of([i + 1.0, i + 1.1, i + 1.2], s.run.name, curve=curve) for i, s in enumerate(speeds)]
    return [*speeds, *(made for row in rows for made in row), record("A", 2, at=1, data="rings", status="cuda_oom")]


def test_writing_twice_gives_the_same_bytes_and_leaves_nothing_else(tmp_path):
    records = suite_records()
    first, second = (write(records, tmp_path, tmp_path / name, svg=True) for name in ("one", "two"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert {path for path in (tmp_path / "one").rglob("*") if path.is_file()} == set(first)
    names = {path.name for path in first}
    assert {"LEADERBOARD.md", "leaderboard.html", "leaderboard.csv"} < names
    assert {
        f"flows-v1-moons.{plot}.{form}" for plot in ("intervals", "speed", "learning") for form in ("png", "svg")
    } < names


def test_plots_are_small_pngs_that_the_markdown_shows_and_what_is_not_drawn_again_goes(tmp_path):
    files = write(suite_records(), tmp_path, tmp_path)
    plots = {path.relative_to(tmp_path).as_posix() for path in files if path.parent.name == "plots"}
    assert {path.suffix for path in map(Path, plots)} == {".png"}
    assert max((tmp_path / plot).stat().st_size for plot in plots) < 40_000
    text = (tmp_path / "LEADERBOARD.md").read_text(encoding="utf-8")
    assert set(re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)) == plots
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) == set(re.findall(r'<a id="([^"]+)">', text))
    (tmp_path / "plots" / "mine.png").write_bytes(b"")
    write([record(data="rings")], tmp_path, tmp_path)
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"mine.png", "flows-v1-rings.intervals.png"}


def test_every_board_has_its_first_plot_before_any_has_a_second():
    records = [made for i in range(5) for made in row_of([1.0, 1.2], data=f"d{i}", curve=CURVE)]
    tables = boards(lines(by_run(records)), metrics_by_suite(records))
    names = [name for name, _ in figures(tables, newest_curves(by_run(records)), 7)]
    assert [name.split(".")[-2] for name in names] == ["intervals"] * 5 + ["learning"] * 2


# ----------------------------------------------------------------------------------------- families on one axis

CURVE = (Point(step=1, seconds=1.0, loss=2.0, validation=2.0), Point(step=2, seconds=2.0, loss=1.0, validation=1.0))
BITS = {"unit": "bits/dim"}
FID = {"unit": "", "impl": "fidelity 1"}


def family_records() -> list[Record]:
    """Return rows of five families: exact, bounds, an estimate, and one with both a bound and a bound by annealing."""
    drawn = "likelihood 1, L_16"
    said = {
        ("PixelCNN", "autoregressive.pixelcnn:PixelCNN"): {"bpd": measured(1.7, **BITS)},
        ("NSF", "flows.nsf:NSF"): {"bpd": measured(1.8, kind="bound", impl=drawn, **BITS)},
        ("VAE", "vaes.vae:VAE"): {
            "bpd": measured(2.0, kind="bound", impl=drawn, **BITS),
            "ais_bpd": measured(1.9, kind="bound", impl="ais 1, 2 chains", **BITS),
            "ais_nats": measured(90.0, kind="bound", impl="ais 1, 2 chains"),
        },
        ("GMM", "mixtures.gmm:GMM"): {"bpd": measured(2.7, kind="bound", impl=drawn, **BITS)},
        ("GAN", "gans.gan:GAN"): {"ais_bpd": measured(2.5, kind="estimate", impl="ais 1, sigma 0.25", **BITS)},
    }
    fids = {"GMM": 3.0, "GAN": 20.0, "VAE": 50.0}
    return [
        record(name, seed, run={"model": model}, measurements=found | fid)
        for (name, model), found in said.items()
        for fid in [
            {"fid[net]": measured(fids[name], **FID), "fid_floor[net]": measured(2.0, **FID)} if name in fids else {}
        ]
        for seed in range(3)
    ]


def test_exact_values_bounds_and_estimates_of_every_family_stand_on_one_axis_each_told_apart():
    board = board_of(family_records())
    marks = ranking_marks(board, 20)
    assert [(mark.row.name, mark.column.measurement, mark.column.kind) for mark in marks] == [
        ("PixelCNN", "bpd", "exact"),
        ("NSF", "bpd", "bound"),
        ("VAE", "bpd", "bound"),
        ("VAE", "ais_bpd", "bound"),
        ("GAN", "ais_bpd", "estimate"),
        ("GMM", "bpd", "bound"),
    ]
    assert marker_meanings(marks) == {
        "o": "exact",
        "<": "bound, at most: L_16",
        "D": "bound by annealing, at most: 2 chains",
        "s": "estimate by annealing: sigma 0.25",
    }
    assert list(family_colors(board)) == ["flows", "vaes", "autoregressive", "gans", "mixtures"]
    assert len(set(family_colors(board).values())) == 5
    assert next(cell.rank for row in board.rows for cell in row.cells.values() if row.name == "GAN") == 1


def test_a_familys_colour_is_the_same_on_every_board_and_one_family_needs_none():
    few = [made for made in family_records() if made.run.name in ("VAE", "GMM")]
    assert family_colors(board_of(few)).items() < family_colors(board_of(family_records())).items()
    assert family_colors(board_of([*row_of([1.0]), *row_of([2.0], "MAF")])) == {}
    other = record("Theirs", run={"model": "zuko_flows:NSF"})
    assert list(family_colors(board_of([*row_of([1.0]), other]))) == ["flows", "zuko_flows"]


def test_fid_is_set_against_likelihood_where_two_rows_have_both():
    board = board_of(family_records())
    figure = plot_quality(board)
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
    assert {text.get_text() for text in axes.texts} == {"VAE", "GAN", "GMM", "new data"}
    assert plot_quality(board_of([made for made in family_records() if made.run.name in ("VAE", "NSF")])) is None
    assert plot_quality(board_of(row_of([1.0, 2.0]))) is None


def test_names_cover_neither_each_other_nor_points_nor_leave_the_axes():
    rng = np.random.default_rng(0)
    figure = Figure(figsize=(6.5, 4))
    axes, points = figure.subplots(), [tuple(xy) for xy in rng.uniform(size=(12, 2))]
    axes.plot(*zip(*points, strict=True), "o")
    label_points(axes, points, [f"row number {i}" for i in range(12)])
    FigureCanvasAgg(figure).draw()
    boxes, inside = [text.get_window_extent() for text in axes.texts], axes.get_window_extent()
    assert not any(a.padded(-2).overlaps(b.padded(-2)) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(box.padded(-3).x0 > inside.x0 and box.padded(-3).x1 < inside.x1 for box in boxes)
    assert not any(box.padded(-2).contains(*axes.transData.transform(point)) for box in boxes for point in points)


def test_a_gallery_is_kept_while_it_is_of_the_pictures_asked_for(tmp_path):
    work, records = tmp_path / ".work", []
    for made in family_records():
        Image.new("RGB", (20, 8), "red").save(tmp_path / "a.png")
        name = Work(work).put((tmp_path / "a.png").read_bytes() + made.run.name.encode(), ".png")
        records.append(made.model_copy(update={"files": {"samples.png": name}}))
    path = tmp_path / "plots" / "flows-v1-moons.samples.png"
    write(records, tmp_path, tmp_path)
    drawn = path.read_bytes()
    assert Image.open(path).text["Source"].count(".png") == 5, "the best of each family"
    shutil.rmtree(work)
    write(records, tmp_path, tmp_path)
    assert path.read_bytes() == drawn
    assert "flows-v1-moons.samples.png" in (tmp_path / "LEADERBOARD.md").read_text()
    write([made for made in records if made.run.name != "GAN"], tmp_path, tmp_path)
    assert not path.exists(), "it showed a row that is no more"


@pytest.mark.parametrize("colours", [16, 400])
def test_a_gallery_of_photographs_keeps_their_colours(tmp_path, colours):
    pixels = np.random.default_rng(0).integers(0, 256, (colours, 3), dtype=np.uint8)[np.arange(400) % colours]
    Image.fromarray(pixels.reshape(20, 20, 3)).resize((400, 400), Image.Resampling.NEAREST).save(tmp_path / "a.png")
    name = Work(tmp_path / ".work").put((tmp_path / "a.png").read_bytes(), ".png")
    write(row_of([1.0, 1.1], files={"samples.png": name}), tmp_path, tmp_path)
    shown = Image.open(tmp_path / "plots" / "flows-v1-moons.samples.png").convert("RGB").getcolors(1 << 20)
    assert (len(shown) > 256) == (colours > 256)


def test_curves_are_thinned_and_keep_their_ends(tmp_path):
    data = json.loads(written(suite_records(), tmp_path).scripts[0])
    curve = data["boards"][0]["rows"][0]["curve"]
    assert len(curve) == 60
    assert (curve[0][0], curve[-1][0]) == (1, 89)


CLICKS = """
const board = document.querySelector(".board"), heads = all("thead button", board), said = [];
const rows = () => all("tbody tr:not([hidden])").map(row => row.dataset.name[0]).join("");
for (const head of [heads[1], heads[2], heads[2], heads[3], heads[0]]) { head.click(); said.push(rows()); }
form.q.value = "b moons"; filter(); said.push(rows(), location.hash);
board.querySelector("tr:not([hidden]) .cell").click(); said.push(dialog.open, dialog.querySelector("h3").textContent);
document.body.replaceChildren(JSON.stringify(said));
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
def test_a_browser_sorts_filters_and_shows_what_is_behind_a_cell(tmp_path):
    records = [made for made in suite_records() if made.run.data == "moons"]
    (tmp_path / "page.html").write_text(
        write(records, tmp_path, tmp_path / "out")[1]
        .read_text()
        .replace("</body>", f"<script>{CLICKS}</script></body>")
    )
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--dump-dom"]
    options += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = ["chromium", *options, f"--user-data-dir={tmp_path / 'profile'}", f"file://{tmp_path / 'page.html'}"]
    page = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    said = json.loads(re.search(r"<body>(\[.*\])", page).group(1))
    by_name, by_nats, by_nats_again, by_speed, as_reported = said[:5]
    assert (by_name, by_nats, by_nats_again, by_speed, as_reported) == ("AAB", "ABA", "ABA", "BAA", "ABA")
    assert said[5:] == ["B", "#q=b+moons", True, "B, NLL (nats) ↓ on moons"]


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_the_terminal_table_never_wraps(width, capsys):
    console = Console(width=width)
    leaderboard(suite_records(), console)
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(" 1 "))
    assert [line[:3] for line in lines[start : start + 3]] == [" 1 ", " 2 ", " 3 "]
    assert max(map(len, lines)) <= width
    assert "\x1b" not in "".join(lines)


def test_of_many_tables_the_terminal_shows_those_with_the_newest_records(capsys):
    leaderboard([record(data=f"d{i}", at=i) for i in reversed(range(22))], Console(width=80))
    out = capsys.readouterr().out
    assert re.findall(r"flows v1 / d(\d+)", out) == sorted(map(str, range(2, 22)))
    assert "and 2 more tables in the report" in out


def test_no_records_give_an_empty_report(tmp_path):
    paths = write([], tmp_path, tmp_path / "out")
    assert sorted(path.name for path in paths) == ["LEADERBOARD.md", "leaderboard.csv", "leaderboard.html"]
    assert len(tidy([])) == 0


def test_the_terminal_needs_no_plots():
    code = (
        "import sys, genbench.report.terminal; assert not {'matplotlib', 'pandas', 'torch', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_show_says_each_execution_and_measurement(capsys):
    show([record(nats=1.0, at=1), record(at=2, status="error", error="ValueError: bad [red]")], Console(width=200))
    out = capsys.readouterr().out
    assert "ValueError: bad [red]" in out
    assert re.search(r"NLL +1\.00 +nats +exact +100 +0\.1", out)


def test_results_is_the_tidy_table_of_a_folder(tmp_path):
    store = Store(tmp_path)
    for made in row_of([1.0, 2.0]):
        store.write(made)
    frame = genbench.results(tmp_path)
    assert tuple(frame.columns) == Line._fields
    assert frame["value"].tolist() == [1.0, 2.0]


# -------------------------------------------------------------------------------------------------- comparison


def test_equal_results_have_not_changed():
    records = [*row_of([1.0, 1.1, 1.3]), *row_of([2.0, 2.1, 2.4], "B")]
    assert set(compare_records(records, records)["verdict"]) == {"same"}


@pytest.mark.parametrize(
    ("better", "shift", "verdict"),
    [
        ("lower", 1.0, "regressed"),
        ("lower", -1.0, "improved"),
        ("higher", 1.0, "improved"),
        ("higher", -1.0, "regressed"),
    ],
)
def test_a_change_beyond_what_seeds_explain_is_named_and_has_welchs_interval(better, shift, verdict):
    values = np.array([1.0, 1.1, 1.3])
    a, b = (
        [record(seed=i, measurements={"m": measured(v, better=better)}) for i, v in enumerate(x)]
        for x in (values, values + shift)
    )
    (line,) = compare_records(a, b).to_dict("records")
    half = stats.ttest_ind(values + shift, values, equal_var=False).confidence_interval(0.95).high - shift
    assert (line["verdict"], line["difference"], line["half_width"]) == (
        verdict,
        pytest.approx(shift),
        pytest.approx(half),
    )


def test_one_seed_is_untested_and_a_new_failure_is_worse():
    assert compare_records(row_of([1.0]), row_of([9.0]))["verdict"].tolist() == ["untested"]
    worse = compare_records(row_of([1.0, 1.1]), [record(seed=0, nats=1.0), record(seed=1, status="diverged")])
    assert regressions(worse)["measurement"].tolist() == ["diverged 1/2"]


def test_compare_says_whether_anything_got_worse(capsys):
    a, b = row_of([1.0, 1.1, 1.2]), row_of([2.0, 2.1, 2.2])
    assert compare(a, b, Console(width=200)) == (1, 0, 1)
    assert re.search(r"regressed +flows +moons +NICE +NLL", capsys.readouterr().out)
    assert compare(b, a, Console(width=200)) == (1, 0, 0)


# ------------------------------------------------------------------------------------------------------- speed


def many_records() -> Iterator[Record]:
    """Yield 10,000 records as suites leave them: 8,000 runs, and speed on the first seeds in executions of its own."""
    rng, speed = np.random.default_rng(0), {"unit": "samples/s", "better": "higher", "impl": "throughput 1"}
    curve = tuple(Point(step=s, seconds=s, loss=1.0, validation=1.0 / s) for s in range(1, 21))
    for suite, data, row, seed in np.ndindex(5, 8, 50, 4):
        where = {"data": f"d{data}", "suite": f"s{suite}"}
        noise = rng.normal(0, 0.05, 8)
        measurements = {f"m{i}": measured(row / 10 + i + noise[i]) for i in range(5)}
        status = "diverged" if row == 49 and seed == 1 else "ok"
        yield record(
            f"R{row}", seed, measurements=measurements if status == "ok" else {}, curve=curve, status=status, **where
        )
        if seed == 0:
            measurements = {f"s{i}": measured(100.0 + noise[i], raw=tuple(100 + noise), **speed) for i in range(3)}
            yield record(f"R{row}", seed, at=1, measurements=measurements, **where)


def test_nothing_is_said_to_have_leaked_after_a_report():
    code = "import torch._inductor, triton\nfrom genbench.report import uncollected\nwith uncollected(): pass"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stderr == b""


def times_json(store: Path) -> float:
    """Return how many times as long `genbench report` takes, in seconds of one core, as json takes to read `store`."""
    texts = [path.read_text() for path in store.glob("*/*/*.json")]
    before, reading = resource.getrusage(resource.RUSAGE_CHILDREN), seconds_of_json(texts)
    command = [sys.executable, "-m", "genbench", "report", "--results", str(store)]
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return 2 * took / (reading + seconds_of_json(texts))


def seconds_of_json(texts: list[str]) -> float:
    """Return the seconds of one core that json takes to read `texts`: the mean of three times."""
    began = time.process_time()
    for text in 3 * texts:
        json.loads(text)
    return (time.process_time() - began) / 3


@pytest.mark.slow
@pytest.mark.alone
def test_ten_thousand_records_are_reported_in_ten_seconds(tmp_path):
    store = tmp_path / "results"
    for made in many_records():
        folder = store / made.run.suite / made.id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{made.execution}.json").write_text(made.model_dump_json())
    eight_seconds = 17  # times what json takes to read them, on a core on which that is 0.47 s: speeds go up and down
    assert any(times_json(store) < eight_seconds for _ in range(3))
    assert len(pd.read_csv(store / "leaderboard.csv")) == 5 * (8000 - 40) + 40 + 3 * 2000
    assert (store / "leaderboard.html").stat().st_size < 20e6
