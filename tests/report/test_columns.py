"""Columns: their order, and which one ranks the rows."""

from __future__ import annotations

import pytest

from genbench.records.record import Record
from genbench.report.board import boards
from genbench.report.tidy import by_run, lines, metrics_by_suite
from tests.report.records import board_of, measured, record, suite_with_papers


def test_columns_of_a_suite_do_not_depend_on_other_suites():
    def suite_record(suite: str, metrics: tuple[str, ...]) -> Record:
        measurements = {
            "elbo": measured(1.0, better="higher", impl="latents 1"),
            "probe": measured(1.0, better="higher", impl="representation 1"),
        }
        return record(suite=suite, run={"metrics": metrics}, measurements=measurements)

    records = [
        suite_record("vaes", ("latents", "representation")),
        suite_record("autoencoders", ("representation", "latents")),
    ]
    tables = boards(lines(by_run(records)), metrics_by_suite(records))
    orders = {board.suite: [column.measurement for column in board.columns] for board in tables}
    assert orders == {"vaes": ["elbo", "probe"], "autoencoders": ["probe", "elbo"]}


def test_columns_follow_the_suite_file_if_it_is_available():
    measurements = {
        "nats": measured(1.0, impl="likelihood 1, L_100"),
        "elbo": measured(1.0, better="higher", impl="latents 1"),
        "probe": measured(1.0, better="higher", impl="representation 1"),
    }
    records = [record(run={"metrics": ("representation", "latents", "likelihood:L100")}, measurements=measurements)]
    suite = suite_with_papers().model_copy(update={"metrics": ("latents", "likelihood:L100", "representation")})
    (board,) = boards(lines(by_run(records)), metrics_by_suite(records, [suite]))
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
def test_the_ranking_measurement_comes_first(names, primary):
    measurements = {name: measured(1.0, better=None if name == "parameters" else "lower") for name in names}
    assert board_of([record(measurements=measurements)]).primary == primary


@pytest.mark.parametrize(
    ("rank_by", "primary"),
    [
        ((), "bpd"),
        (("nats",), "nats"),
        (("excess_nats", "fid", "nats"), "fid[net]"),
        (("fid[net]",), "fid[net]"),
        (("fid[other]", "parameters"), "parameters"),
        (("unknown",), "bpd"),
    ],
)
def test_a_suite_decides_what_ranks_the_rows(rank_by, primary):
    measurements = {name: measured(1.0) for name in ("nats", "bpd", "fid[net]")}
    records = [record(measurements=measurements | {"parameters": measured(9.0, better=None)})]
    table = lines(by_run(records))
    (board,) = boards(table, metrics_by_suite(records), rank_by={("flows", 1): rank_by})
    assert board.primary == primary
    (other,) = boards(table, metrics_by_suite(records), rank_by={("flows", 2): rank_by})
    assert other.primary == "bpd"


def test_rows_are_ordered_by_what_the_suite_ranks_by():
    def row(name: str, bpd: float, fid: float) -> list[Record]:
        values = {"bpd": bpd, "fid": fid}
        measurements = [{key: measured(value + seed / 100) for key, value in values.items()} for seed in range(3)]
        return [record(name, seed, measurements=measurements[seed]) for seed in range(3)]

    records = [*row("A", 1.0, 9.0), *row("B", 2.0, 5.0)]
    (board,) = boards(lines(by_run(records)), {}, rank_by={("flows", 1): ("fid",)})
    assert [(row.name, row.cells[board.columns[0]].rank) for row in board.rows] == [("B", 1), ("A", 2)]
    assert [row.name for row in board_of(records).rows] == ["A", "B"]
