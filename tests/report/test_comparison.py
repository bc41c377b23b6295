"""`genbench compare`: verdicts, what was not compared and why, and the exit code."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from genbench.command_line import main
from genbench.records.record import Record
from genbench.records.store import Store
from genbench.report import compare
from genbench.report.comparison import compare_records, count_verdicts, describe_uncompared, regressions
from tests.report.records import measured, record, row_of

A = [*row_of([1.0, 1.1, 1.2]), *row_of([2.0, 2.1, 2.2], "Glow")]

OTHER = {"impl": "likelihood 2"}


def folder_of(path: Path, records: list[Record]) -> Path:
    path.mkdir()
    for r in records:
        Store(path).write(r)
    return path


def exit_code(tmp_path: Path, a: list[Record], b: list[Record], *words: str) -> int:
    return main(["compare", *(str(folder_of(tmp_path / name, side)) for name, side in (("a", a), ("b", b))), *words])


def row_with(values, name="NICE", **fields) -> list[Record]:
    changes = {key: fields.pop(key) for key in ("data_sha256", "at") if key in fields}
    return [record(name, s, measurements={"nats": measured(v, **fields)}, **changes) for s, v in enumerate(values)]


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
def test_a_change_beyond_seed_noise_has_a_verdict_and_welchs_interval(better, shift, verdict):
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


def test_compare_counts_cells_that_got_worse(capsys):
    a, b = row_of([1.0, 1.1, 1.2]), row_of([2.0, 2.1, 2.2])
    assert compare(a, b, Console(width=200)) == (1, 0, 1)
    assert re.search(r"regressed +flows +moons +NICE +NLL", capsys.readouterr().out)
    assert compare(b, a, Console(width=200)) == (1, 0, 0)


def test_equal_results_pass_and_one_seed_of_equal_numbers_too(tmp_path, capsys):
    assert exit_code(tmp_path, [*A, *row_of([3.0], "One")], [*A, *row_of([3.0], "One")], "--fail-on", "regress") == 0
    assert capsys.readouterr().out.strip() == "3 same"


@pytest.mark.parametrize(("words", "expected"), [((), 0), (("--fail-on", "regress"), 3)])
@pytest.mark.parametrize("how", ["regressed", "failed", "invalid"])
def test_regressions_exit_with_3_only_on_request(tmp_path, words, expected, how, capsys):
    worse = {
        "regressed": row_of([5.0, 5.1, 5.2], "Glow"),
        "failed": [*row_of([2.0, 2.1], "Glow"), record("Glow", 2, status="diverged")],
        "invalid": row_with([2.0, 2.1, -9.0], "Glow", verdict="invalid"),
    }
    assert exit_code(tmp_path, A, [*row_of([1.0, 1.1, 1.2]), *worse[how]], *words) == expected
    assert f"1 {how}" in capsys.readouterr().out


def test_improvements_pass(tmp_path):
    assert (
        exit_code(tmp_path, A, [*row_of([1.0, 1.1, 1.2]), *row_of([0.5, 0.6, 0.4], "Glow")], "--fail-on", "regress")
        == 0
    )


MIXED = [*row_of([2.5, 2.6], "Glow"), record("Glow", 2, measurements={"nats": measured(2.7, **OTHER)})]

UNCOMPARED = {  # why, and B's rows of Glow
    "missing in B: flows v1 / moons / Glow (NLL)": [],
    "without a value in B": row_with([None] * 3, "Glow"),
    "versions of the metric ('likelihood 1' and 'likelihood 2')": row_with([2.5, 2.6, 2.7], "Glow", **OTHER),
    "on different data:": row_with([2.0, 2.1, 2.2], "Glow", data_sha256="other"),
    "with one seed only": row_with([2.5], "Glow"),
    "different versions of the metric, or": MIXED,
    "missing in B": row_of([2.0, 2.1], "Glow", data="rings"),
    "missing in B:": row_with([2.0, 2.1, 2.2], "Glow", unit="bits"),
    "missing in B: flows": row_with([2.0, 2.1, 2.2], "Glow", kind="bound"),
}


@pytest.mark.parametrize("reason", UNCOMPARED)
def test_an_uncompared_cell_is_named_with_the_reason_and_exits_with_1(tmp_path, reason, capsys):
    b = [*row_of([1.0, 1.1, 1.2]), *UNCOMPARED[reason]]
    assert exit_code(tmp_path, A, b, "--fail-on", "regress") == 1
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("not compared: ")]
    assert reason in line
    assert "Glow" in line
    assert "1 same" in out


def test_nothing_in_common_exits_with_1_and_a_message(tmp_path, capsys):
    assert exit_code(tmp_path, A, row_of([1.0, 1.1], suite="other")) == 1
    assert "nothing was compared" in capsys.readouterr().out


def test_a_row_that_failed_in_a_and_is_absent_from_b_is_missing(tmp_path, capsys):
    assert exit_code(tmp_path, [*A, record("Bad", status="crashed")], A) == 1
    assert "missing in B (crashed 1/1 in A): flows v1 / moons / Bad" in capsys.readouterr().out


def test_a_row_that_failed_on_both_sides_is_unchanged(tmp_path):
    bad = [*A, record("Bad", status="crashed")]
    assert exit_code(tmp_path, bad, bad, "--fail-on", "regress") == 0


def test_more_failed_runs_than_before_are_worse():
    a = [record("N", 0, status="diverged"), *(record("N", seed, 1.0 + seed) for seed in (1, 2))]
    b = [*(record("N", seed, status="diverged") for seed in (0, 1)), record("N", 2, 3.0)]
    assert "failed" in set(compare_records(a, b)["verdict"])
    assert "failed" not in set(compare_records(b, a)["verdict"])


@pytest.mark.parametrize("what", ["missing", "empty", "damaged", "file"])
@pytest.mark.parametrize("side", [0, 1])
def test_a_folder_without_records_exits_with_2_and_one_line(tmp_path, what, side, capsys):
    good, bad = folder_of(tmp_path / "good", A), tmp_path / "bad"
    if what in ("empty", "damaged"):
        folder_of(bad, A if what == "damaged" else [])
    if what == "damaged":
        for path in bad.glob("*/*/*.json"):
            path.write_text("{")
    if what == "file":
        bad.write_text("")
    folders = [str(good), str(good)]
    folders[side] = str(bad)
    assert main(["compare", *folders]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith("genbench: ")
    assert str(bad) in captured.err.splitlines()[-1]


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_damaged_record_among_good_ones_is_named_and_exits_with_1(tmp_path, side, capsys):
    for name in ("a", "b"):
        folder_of(tmp_path / name, A)
    damaged = next((tmp_path / side).glob("*/*/*.json"))
    again = damaged.with_name("20250101T000000000000Z-x.json")
    again.write_bytes(damaged.read_bytes()[:50])
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert str(again) in capsys.readouterr().err


def test_rows_that_only_b_has_change_nothing(tmp_path):
    assert exit_code(tmp_path, A, [*A, *row_of([9.0, 9.1], "New")], "--fail-on", "regress") == 0


def timing(*rates: float) -> list[Record]:
    speed = measured(rates[1], unit="samples/s", better="higher", raw=rates, impl="throughput 1")
    return [record(measurements={"rate": speed})]


@pytest.mark.parametrize(
    ("rates", "verdict"), [((90, 100, 110), "same"), ((50, 55, 60), "slower"), ((190, 200, 210), "faster")]
)
def test_a_timing_of_one_seed_is_compared_by_its_repetitions_and_is_no_regression(rates, verdict):
    comparison = compare_records(timing(99.0, 101.0, 105.0), timing(*rates))
    assert comparison["verdict"].tolist() == [verdict]
    assert count_verdicts(comparison) == (1, 0, 0)


def test_a_measurement_without_a_better_direction_has_changed_or_not():
    def sizes(*values: float) -> list[Record]:
        return row_with(values, better=None, unit="parameters")

    assert compare_records(sizes(5, 5, 5), sizes(5, 5, 5))["verdict"].tolist() == ["same"]
    assert compare_records(sizes(5, 5, 5), sizes(9, 9, 9))["verdict"].tolist() == ["changed"]


def test_rows_of_one_name_are_matched_by_their_settings():
    def steps(n: int, *values: float) -> list[Record]:
        return row_of(values, run={"model": "flows.nice", "steps": n})

    comparison = compare_records(steps(10, 1.0, 1.1, 1.2), [*steps(10, 1.0, 1.1, 1.3), *steps(20, 9.0, 9.1, 9.3)])
    assert comparison["verdict"].tolist() == ["same"]
    other = compare_records(steps(10, 1.0, 1.1, 1.2), steps(20, 9.0, 9.1, 9.3))
    assert other["verdict"].tolist() == ["regressed"], "one row on each side, of one name: what --set changed"


def test_of_many_uncompared_cells_some_are_named_in_one_line():
    a = [r for i in range(50) for r in row_of([1.0, 1.1], f"R{i}")]
    message = describe_uncompared(compare_records(a, row_of([1.0, 1.1], "R0")))
    assert message.startswith("not compared: 49 missing in B: ")
    assert message.endswith("and 45 more rows")
    assert "\n" not in message
