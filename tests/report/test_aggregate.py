"""Aggregation over seeds: means, intervals, failures, and which cells are ranked."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from genbench.report.aggregate import _mean_and_std, _root_mean_square
from genbench.report.markdown import markdown
from genbench.report.protocol import hardware_by_suite
from genbench.report.tidy import tidy
from tests.report.records import NATS, board_of, invalid_row, measured, record, row_of, rows_of

FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def test_a_cell_has_mean_and_interval_over_seeds_and_a_separate_test_set_error():
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


def test_a_timing_has_the_spread_of_its_only_seed_with_a_value():
    speed = {"unit": "samples/s", "better": "higher"}
    valued, empty = measured(2.0, raw=(1.0, 2.0, 3.0), **speed), measured(None, **speed)
    records = [record(seed=0, measurements={"rate": valued}), record(seed=1, measurements={"rate": empty})]
    (cell,) = rows_of(records)["NICE"].cells.values()
    assert (cell.n, cell.p20, cell.p80) == (1, pytest.approx(1.4), pytest.approx(2.6))


def test_different_failures_are_counted_separately():
    records = [record(seed=0, status="timeout"), record(seed=1, status="diverged"), record(seed=2, status="timeout")]
    assert rows_of(records)["NICE"].failures == "diverged 1/3, timeout 2/3"


def test_verdicts_are_counted_per_row_and_are_not_failures():
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


def test_a_row_without_a_seed_of_the_others_is_shown_but_not_ranked():
    rows = rows_of([*row_of([1.0, 1.1, 1.2], "A"), *row_of([2.0, 2.1, 2.2], "B"), *row_of([0.1, 0.1], "C")])
    assert [rows[name].cells[NATS].rank for name in "ABC"] == [1, 2, None]
    assert "missing" in rows["C"].cells[NATS].unranked_reason


def test_more_seeds_of_one_row_do_not_make_the_others_incomplete():
    rows = rows_of([*row_of([1.0, 1.1, 1.2, 1.0, 1.1], "A"), *row_of([2.0, 2.1], "B"), *row_of([3.0, 3.1], "C")])
    assert [rows[name].cells[NATS].rank for name in "ABC"] == [1, 2, 3]


def test_a_seed_that_exactly_half_of_the_rows_have_is_not_required():
    rows = rows_of([*row_of([1.0, 1.1, 1.2], "A"), *row_of([2.0, 2.1], "B")])
    assert [rows[name].cells[NATS].rank for name in "AB"] == [1, 2]
    rows = rows_of([*row_of([1.0, 1.1, 1.2], "A"), *row_of([2.0, 2.1], "B"), *row_of([3.0, 3.1, 3.2], "C")])
    assert [rows[name].cells[NATS].rank for name in "ABC"] == [1, None, 3 - 1]


def test_none_is_not_a_value_and_has_no_rank():
    cell = rows_of([record(measurements={"nats": measured(None)})])["NICE"].cells[NATS]
    assert (cell.mean, cell.n, cell.rank) == (None, 0, None)


def test_one_seed_is_not_ranked_and_a_timing_shows_the_spread_of_its_repetitions():
    raw = (90.0, 100.0, 101.0, 103.0, 140.0)
    speed = measured(101.0, unit="samples/s", better="higher", raw=raw, impl="throughput 1")
    (cell,) = rows_of([record(measurements={"train_throughput": speed})])["NICE"].cells.values()
    assert (cell.rank, cell.half_width, cell.mean) == (None, None, 101.0)
    assert (cell.p20, cell.p80) == pytest.approx(tuple(np.quantile(raw, [0.2, 0.8])))


def test_a_measurement_without_a_better_direction_is_not_ranked():
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


def test_a_row_whose_seeds_were_measured_with_different_versions_is_not_ranked():
    mixed = [
        record("Mixed", seed, at=seed, measurements={"nats": measured(1.0 + seed, impl=f"likelihood {max(1, seed)}")})
        for seed in range(3)
    ]
    rows = rows_of([*mixed, *row_of([5.0, 5.1, 5.2], at=9)])
    assert rows["Mixed"].cells[NATS].rank is None
    assert "version" in rows["Mixed"].cells[NATS].unranked_reason
    same = [
        record("Same", seed, measurements={"nats": measured(1.0 + seed)}, data_sha256="b" if seed else "a", at=9 - seed)
        for seed in range(3)
    ]
    assert "data" in rows_of(same)["Same"].cells[NATS].unranked_reason


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


def test_invalid_rows_do_not_decide_which_version_and_seeds_the_others_need():
    liars = [r for name in "XYZ" for r in invalid_row([-9.0] * 4, ["invalid"] * 4, name, at=9)]
    for r in liars:
        object.__setattr__(r.measurements["nats"], "impl", "likelihood 2")
    rows = rows_of([*liars, *row_of([1.0, 1.1, 1.2], "A"), *row_of([2.0, 2.1, 2.2], "B")])
    assert [rows[name].cells[NATS].rank for name in "ABXYZ"] == [1, 2, None, None, None]


def test_a_collapsed_run_is_still_ranked():
    assert rows_of(invalid_row([1.0, 1.1], ["collapsed"] * 2))["Liar"].cells[NATS].rank == 1


def root(square: Fraction) -> float:
    """Return the square root, correct to a hundred digits; infinite beyond the floats."""
    try:
        return float(Fraction(math.isqrt(int(square * 10**1600)), 10**800))
    except OverflowError:
        return math.inf


@given(st.lists(FLOATS, min_size=2, max_size=6))
def test_mean_and_deviation_of_any_floats_are_those_of_exact_arithmetic(values):
    exact, largest = [Fraction(value) for value in values], max(map(abs, values))
    true = sum(exact) / len(exact)
    mean, std = _mean_and_std(values)
    assert mean == pytest.approx(float(true), rel=1e-12, abs=largest * 1e-15 + 5e-324)
    deviation = root(sum((value - true) ** 2 for value in exact) / (len(exact) - 1))
    assert std == pytest.approx(deviation, rel=1e-9, abs=largest * 1e-15 + 1e-323)
    assert _root_mean_square(values) == pytest.approx(
        root(sum(v**2 for v in exact) / len(exact)), rel=1e-12, abs=1e-323
    )


def test_the_largest_floats_have_a_mean_and_an_infinite_interval():
    cell = rows_of(row_of([1.7e308, -1.7e308, 1.7e308]))["NICE"].cells[NATS]
    assert cell.mean == pytest.approx(1.7e308 / 3, rel=1e-12)
    assert cell.half_width == math.inf
    assert cell.interval_text == "± inf"
