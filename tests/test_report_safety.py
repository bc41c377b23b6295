"""Reports of what genbench itself would not write: extreme values, odd names, foreign files; whole files or none."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import math
import os
import sys
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from scipy import stats

import genbench
from genbench.command_line import main
from genbench.console import accept_any_text, printable
from genbench.errors import UsageError
from genbench.records.artifacts import StorageError
from genbench.records.record import Measurement, Point, Record
from genbench.records.store import Store
from genbench.report import files, fonts, leaderboard, show, write
from genbench.report.aggregate import _mean_and_std, _root_mean_square
from genbench.report.curves import newest_curves
from genbench.report.figures import figures, plot_intervals, plot_learning_curves, sample_panels
from genbench.report.gallery import split
from genbench.report.intervals import Sample, p_value, ranks, welch
from genbench.report.markdown import escape_markdown, inline_code, markdown
from genbench.report.protocol import hardware_by_suite
from genbench.report.tidy import by_run, lines, tidy, to_csv
from genbench.runner.progress import Lines
from tests.test_report import CURVE, HOSTILE, NATS, Tags, board_of, measured, record, row_of, rows_of

FLOATS = st.floats(allow_nan=False, allow_infinity=False)


# ---------------------------------------------------------------------------------------------------- values


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


def test_largest_floats_have_a_mean_and_an_interval_without_bounds():
    cell = rows_of(row_of([1.7e308, -1.7e308, 1.7e308]))["NICE"].cells[NATS]
    assert cell.mean == pytest.approx(1.7e308 / 3, rel=1e-12)
    assert cell.half_width == math.inf
    assert cell.interval_text == "± inf"


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1.0, 1e200, 1e307])
def test_ranks_and_tests_do_not_depend_on_the_scale_of_values(scale):
    rng = np.random.default_rng(0)
    groups = [rng.normal(mean, 0.1, 4) for mean in (1.0, 1.05, 2.0, 3.0)]

    def sample(by: float) -> Sample:
        return Sample(*np.array([(np.mean(g) * by, np.std(g, ddof=1) * by, len(g)) for g in groups]).T)

    with warnings.catch_warnings(action="error"):
        assert ranks(sample(scale), "lower").tolist() == ranks(sample(1.0), "lower").tolist()
        first, last = (Sample(*(part[i] for part in sample(scale))) for i in (0, 1))
        p = p_value(*welch(first, last))
    if scale > 1e-300:  # smaller numbers have few digits
        assert p == pytest.approx(stats.ttest_ind(groups[0], groups[1], equal_var=False).pvalue, rel=1e-6)


def test_thousands_of_rows_are_ranked_as_in_one_block(monkeypatch):
    rng = np.random.default_rng(1)
    many = Sample(rng.normal(0, 3, 700), rng.uniform(0.1, 1, 700), np.full(700, 3.0))
    blocks = ranks(many, "higher")
    monkeypatch.setattr("genbench.report.intervals.BLOCK", 1000)
    assert ranks(many, "higher").tolist() == blocks.tolist()
    assert len(set(blocks)) > 10


@pytest.mark.parametrize("value", [1e308, -1e308, 5e-324, -1e-310])
def test_records_of_extreme_values_are_written_without_a_warning(tmp_path, value):
    curve = (Point(step=1, seconds=1.0, loss=value), Point(step=10**30, seconds=1e308, loss=-value))
    measurements = {
        "nats": measured(value, stderr=abs(value), raw=(value, -value)),
        "train_throughput": measured(abs(value), unit="samples/s", better="higher", raw=(value, value)),
        "fid[net]": measured(value),
        "fid_floor[net]": measured(value),
    }
    records = [
        record(name, seed, measurements=measurements, curve=curve, timings={"total": 1e308}, attempts=10**40)
        for name in ("A", "B")
        for seed in (0, 1)
    ]
    with warnings.catch_warnings(action="error"):
        write([*records, *row_of([1.0, 1.1], "C")], tmp_path, tmp_path, console=Console(file=io.StringIO()))
    written = csv.DictReader((tmp_path / "leaderboard.csv").open())
    assert {float(row["value"]) for row in written if row["measurement"] == "nats"} == {value, 1.0, 1.1}


def test_seeds_of_any_size_are_told_apart_in_frames_and_on_the_page(tmp_path):
    seeds = [2**63, 2**63 + 1, 2**70]
    records = [record(seed=seed, nats=float(i)) for i, seed in enumerate(seeds)]
    assert tidy(records)["seed"].tolist() == seeds
    assert str(tidy(row_of([1.0]))["seed"].dtype) == "int64"
    write(records, tmp_path, tmp_path)
    data = json.loads(Tags((tmp_path / "leaderboard.html").read_text(encoding="utf-8")).scripts[0])
    assert [seed for seed, *_ in data["boards"][0]["rows"][0]["runs"]] == [str(seed) for seed in seeds]


def test_results_of_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="nowhere"):
        genbench.results(tmp_path / "nowhere")


# ----------------------------------------------------------------------------------------------------- names

ODD = [
    "\x1b[31mred\x1b[0m",
    "a\nb",
    "NUL\x00",
    "\u202eback",
    "tab\t",
    HOSTILE,
    "中文",
    "😀",
    "=1+1",
    "_x",
    "x" * 300,
    "`a``b`",
]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\tc\x00", "a\\nb\\tc\\x00"),
        ("\u202e\u2028", "\\u202e\\u2028"),
        ("é 中文 👍🏽\u200d", "é 中文 👍🏽\u200d"),
    ],
)
def test_control_characters_are_spelled_out_and_letters_are_not(text, shown):
    assert printable(text) == shown


def test_odd_names_reach_no_output_as_more_than_text(tmp_path, capsys):
    records = [
        record(name, seed, run={"model": name}, curve=CURVE, error=name, command=name, environment={name: name})
        for name in ODD
        for seed in (0, 1)
    ]
    records.append(record("Bad", status="error", error="\x1b[2J\n"))
    with warnings.catch_warnings(action="error"):
        write(records, tmp_path, tmp_path, console=Console(width=100, force_terminal=True, color_system=None))
    text = (tmp_path / "LEADERBOARD.md").read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert "\x1b" not in text + printed
    assert "\\\\x1b\\[31mred" in text
    assert "\\x1b[31mred" in printed
    assert len({line.count(" | ") for line in text.splitlines() if line.startswith("|")}) == 1
    page = Tags((tmp_path / "leaderboard.html").read_text(encoding="utf-8"))
    assert [tag for tag, _ in page.tags].count("script") == 2
    names = [attributes["data-name"] for tag, attributes in page.tags if tag == "tr" and "data-name" in attributes]
    assert {"\\x1b[31mred\\x1b[0m", "a\\nb", "NUL\\x00", "\\u202eback", HOSTILE, "=1+1"} <= set(names)


def test_markdown_takes_names_literally():
    assert escape_markdown("a|b`c`<i>$x$~~") == "a\\|b\\`c\\`&lt;i&gt;\\$x\\$\\~\\~"
    assert (inline_code("plain"), inline_code("a`b"), inline_code("``")) == ("`plain`", "`` a`b ``", "``` `` ```")
    hostile = board_of(row_of([1.0, 1.1], suite="x` <img src=y onerror=alert(1)> `"))
    text = markdown([hostile], hardware_by_suite(row_of([1.0], suite=hostile.suite)))
    assert "``` " not in text
    assert "Suite `` x` <img src=y onerror=alert(1)> ` ``, version 1." in text


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1"])
def test_a_spreadsheet_runs_no_name_and_numbers_stay_numbers(name):
    read = list(csv.DictReader(io.StringIO(to_csv(lines(by_run(row_of([-1.5, 2.0], name)))))))
    assert [row["value"] for row in read] == ["-1.5", "2.0"]
    assert {row["name"] for row in read} == {f"'{printable(name)}"}
    assert {row["data"] for row in read} == {"moons"}


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_a_report_is_printed_on_a_terminal_of_any_encoding(tmp_path, monkeypatch, encoding):
    store, streams = Store(tmp_path), [io.BytesIO(), io.BytesIO()]
    for made in [*row_of([1.0, 1.1], "中文 ±"), *row_of([2.0, 2.3], "Ünïcode")]:
        store.write(made)
    for name, stream in zip(("stdout", "stderr"), streams, strict=True):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(stream, encoding=encoding, write_through=True))
    assert main(["report", "--results", str(tmp_path)]) == 0
    printed = streams[0].getvalue().decode(encoding)
    assert ("±" if encoding != "ascii" else "+-") in printed
    assert ("↓" if encoding == "utf-8" else " v") in printed
    assert ("中文" if encoding == "utf-8" else "\\u4e2d\\u6587") in printed
    assert streams[1].getvalue() == b""


def test_an_error_handler_that_the_user_chose_stays(monkeypatch):
    for errors, expected in (("strict", "readable"), ("replace", "replace")):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=errors)
        monkeypatch.setattr(sys, "stdout", stream)
        accept_any_text()
        assert stream.errors == expected


def test_boards_of_names_that_look_alike_have_files_and_anchors_of_their_own(tmp_path):
    data = ["a:b", "a-b", "a/b", "a b", "中", "文", "x" * 400, "x" * 401, "../up"]
    records = [made for name in data for made in row_of([1.0, 1.1], data=name)]
    records += row_of([1.0, 1.1], suite="flows-v1", data="b")
    paths = write(records, tmp_path, tmp_path / "out", most=100)
    plots = [path for path in paths if path.parent.name == "plots"]
    assert len({path.name.lower() for path in plots}) == len(data) + 1
    assert all(path.is_file() and path.parent == tmp_path / "out" / "plots" for path in plots)
    page = Tags((tmp_path / "out" / "leaderboard.html").read_text(encoding="utf-8"))
    assert len({attributes["id"] for tag, attributes in page.tags if tag == "article"}) == len(data) + 1
    text = (tmp_path / "out" / "LEADERBOARD.md").read_text(encoding="utf-8")
    assert all(f"(plots/{path.name})" in text for path in plots)


def test_rows_named_with_an_underscore_stand_in_the_legend():
    records = [*row_of([1.0, 1.1], "_x", curve=CURVE), *row_of([1.0, 1.1], "y", curve=CURVE)]
    figure = plot_learning_curves(board_of(records), newest_curves(by_run(records)))
    (axes,) = figure.axes
    assert {text.get_text().strip() for text in axes.get_legend().get_texts()} == {"_x", "y"}


def test_letters_that_no_font_has_are_escapes_and_never_boxes(monkeypatch):
    monkeypatch.setattr(fonts, "_drawable_codes", lambda: frozenset(map(ord, "é±")))
    assert fonts.drawable("é 中😀") == "é \\u4e2d\\U0001f600"
    monkeypatch.undo()
    records = [
        *row_of([1.0, 1.1], "中文😀", curve=CURVE, data="數據"),
        *row_of([1.0, 1.1], "é", curve=CURVE, data="數據"),
    ]
    with warnings.catch_warnings(action="error"):  # matplotlib warns of each letter that it draws as a box
        assert len(dict(figures([board_of(records)], newest_curves(by_run(records)), 9))) == 2


def test_long_names_leave_room_for_the_plot():
    text = fonts.fit_text("x" * 100_000, 8, 180)
    assert text.endswith("…")
    assert fonts.text_width(text, 8) <= 180


# -------------------------------------------------------------------------------------------------- pictures


def png(colour: str = "red", size: tuple[int, int] = (8, 8)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "png")
    return file.getvalue()


def shown_pictures(tmp_path: Path, path: str) -> int:
    """Return how many pictures a report has of a row whose record names `path`."""
    write(row_of([1.0], files={"samples.png": path}), tmp_path, tmp_path / "out")
    page = Tags((tmp_path / "out" / "leaderboard.html").read_text(encoding="utf-8"))
    return sum(tag == "img" for tag, _ in page.tags)


@pytest.mark.parametrize(
    "path", ["../secret.png", "link.png", "loop.png", "files", "x\x00.png", "a" * 5000, "", "pipe.png"]
)
def test_pictures_are_read_from_the_work_folder_only_and_from_files_only(tmp_path, path, capsys):
    work = tmp_path / ".work"
    (work / "files").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(png())
    (work / "link.png").symlink_to(tmp_path / "secret.png")
    (work / "loop.png").symlink_to(work / "loop.png")
    os.mkfifo(work / "pipe.png")
    assert shown_pictures(tmp_path, path) == 0
    assert shown_pictures(tmp_path, str(tmp_path / "secret.png")) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damage", ["empty", "cut", "bit", "jpeg", "bomb", "content"])
def test_a_damaged_picture_is_named_and_left_out(tmp_path, damage, capsys):
    files_folder = tmp_path / ".work" / "files"
    files_folder.mkdir(parents=True)
    good = png(size=(50, 50))
    jpeg = io.BytesIO()
    Image.new("RGB", (8, 8)).save(jpeg, "jpeg")
    bomb = good[:16] + (60_000).to_bytes(4, "big") * 2 + good[24:]
    flipped = good[:60] + bytes([good[60] ^ 4]) + good[61:]
    content = {
        "empty": b"",
        "cut": good[:-30],
        "bit": flipped,
        "jpeg": jpeg.getvalue(),
        "bomb": bomb,
        "content": png("blue"),
    }
    name = f"{hashlib.sha256(good).hexdigest()[:32]}.png" if damage == "content" else "a.png"
    (files_folder / name).write_bytes(content[damage])
    assert shown_pictures(tmp_path, f"files/{name}") == 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"files/{name}: damaged picture, left out of the report: " in error
    (files_folder / name).write_bytes(good)
    assert shown_pictures(tmp_path, f"files/{name}") == 1


def test_a_picture_is_split_at_its_gap_whatever_its_proportions():
    left, right = Image.new("RGB", (30, 100), "red"), Image.new("RGB", (30, 100), "blue")
    whole = Image.new("RGB", (72, 100), "white")
    whole.paste(left, (0, 0))
    whole.paste(right, (42, 0))
    assert [part.getcolors() for part in split(whole)] == [left.getcolors(), right.getcolors()]
    assert split(left) == (left, None)
    figure = sample_panels("t", [("tall", left)])
    (axes,) = figure.axes
    shown = np.asarray(axes.images[0].get_array())
    assert shown.shape[0] == shown.shape[1]
    assert (shown[:, 0] == 255).all(), "white beside it, not stretched"


# ----------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("what", ["link", "file"])
def test_plots_that_is_no_folder_is_refused_and_nothing_is_written(tmp_path, what, capsys):
    out, outside = tmp_path / "out", tmp_path / "outside"
    out.mkdir()
    outside.mkdir()
    Store(tmp_path / "r").write(record())
    (out / "plots").symlink_to(outside) if what == "link" else (out / "plots").write_text("mine")
    assert main(["report", "--results", str(tmp_path / "r"), "--out", str(out)]) == 2
    assert str(out / "plots") in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["plots"]
    assert not list(outside.iterdir())


def test_a_table_that_is_a_link_is_replaced_and_not_written_through(tmp_path):
    (tmp_path / "mine.md").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "LEADERBOARD.md").symlink_to(tmp_path / "mine.md")
    write([record()], tmp_path, tmp_path / "out")
    assert (tmp_path / "mine.md").read_text() == "mine"
    assert "# Leaderboard" in (tmp_path / "out" / "LEADERBOARD.md").read_text()


@pytest.mark.parametrize("failing", [0, 1, 3])
def test_a_full_disk_leaves_the_last_report_whole(tmp_path, monkeypatch, failing):
    write(row_of([1.0, 1.1]), tmp_path, tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    left = [failing]

    def full(_: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write([*row_of([2.0, 2.1]), *row_of([3.0, 3.1], data="rings")], tmp_path, tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_a_report_is_written_before_it_is_printed(tmp_path):
    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input"):
        write([record()], tmp_path, tmp_path, console=Console(file=Closed()))
    assert (tmp_path / "LEADERBOARD.md").exists()


def test_columns_without_room_are_counted_and_not_all_named(capsys):
    measurements = {f"m{i}": measured(1.0) for i in range(3000)}
    leaderboard([record(measurements=measurements)], Console(width=80))
    out = capsys.readouterr().out
    assert len(out) < 3000
    assert "more" in out


def test_a_record_names_no_file_to_read_its_suite_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "suite: mine.yaml\ntitle: Stolen\ndata: [moons]\nmetrics: [likelihood]\nmodels: {A: flows.nice}\n"
    )
    write([record(suite="mine.yaml")], tmp_path, tmp_path / "out")
    assert "Stolen" not in (tmp_path / "out" / "LEADERBOARD.md").read_text()


# --------------------------------------------------------------------------------------------------- invalid


def invalid_row(values, verdicts, name="Liar", **changes) -> list[Record]:
    return [
        record(name, seed, measurements={"nats": measured(v, verdict=verdict)}, **changes)
        for seed, (v, verdict) in enumerate(zip(values, verdicts, strict=True))
    ]


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
    page = Tags((tmp_path / "out" / "leaderboard.html").read_text())
    data = json.loads(page.scripts[0])["boards"][0]
    assert [at for at, _ in data["marks"]] == [0, 1], "no mark in charts"
    assert data["rows"][2]["cells"][0]["n_invalid"] == 1
    assert [
        row["verdict"] for row in csv.DictReader((tmp_path / "out" / "leaderboard.csv").open()) if row["name"] == "Liar"
    ] == ["", "invalid", ""]
    assert len(plot_intervals(board).axes[0].texts) == 2, "nor in plots"


def test_invalid_rows_decide_neither_which_version_nor_which_seeds_the_others_need():
    liars = [made for name in "XYZ" for made in invalid_row([-9.0] * 4, ["invalid"] * 4, name, at=9)]
    for made in liars:
        object.__setattr__(made.measurements["nats"], "impl", "likelihood 2")
    rows = rows_of([*liars, *row_of([1.0, 1.1, 1.2], "A"), *row_of([2.0, 2.1, 2.2], "B")])
    assert [rows[name].cells[NATS].rank for name in "ABXYZ"] == [1, 2, None, None, None]


def test_a_collapsed_run_is_still_ranked():
    assert rows_of(invalid_row([1.0, 1.1], ["collapsed"] * 2))["Liar"].cells[NATS].rank == 1


# -------------------------------------------------------------------------------------------- folds over seeds


def test_a_seed_that_exactly_half_of_the_rows_have_is_not_needed():
    rows = rows_of([*row_of([1.0, 1.1, 1.2], "A"), *row_of([2.0, 2.1], "B")])
    assert [rows[name].cells[NATS].rank for name in "AB"] == [1, 2]
    rows = rows_of([*row_of([1.0, 1.1, 1.2], "A"), *row_of([2.0, 2.1], "B"), *row_of([3.0, 3.1, 3.2], "C")])
    assert [rows[name].cells[NATS].rank for name in "ABC"] == [1, None, 3 - 1]


def test_a_row_whose_seeds_were_measured_by_different_versions_is_not_ranked():
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


def test_commit_seconds_and_attempts_are_of_the_execution_that_gave_the_number(tmp_path):
    def made(at: int, status: str, **measurements: Measurement) -> Record:
        about = {"code": {"commit": str(at) * 40, "dirty": at == 2}, "timings": {"total": 10.0 * at}, "attempts": at}
        return record(at=at, status=status, measurements=measurements, data_sha256=f"data {at}", **about)

    speed = measured(9.0, unit="samples/s", better="higher", impl="throughput 1")
    records = [made(1, "ok", nats=measured(1.0)), made(2, "ok", rate=speed), made(3, "timeout")]
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
    data = json.loads(Tags((tmp_path / "leaderboard.html").read_text()).scripts[0])
    cells = data["boards"][0]["rows"][0]["cells"]
    assert [data["executions"][cell["seeds"][0][-1]]["commit"] for cell in cells] == ["1" * 40, "2" * 40]
    assert [data["executions"][cell["seeds"][0][-1]]["seconds"] for cell in cells] == [10.0, 20.0]


def test_executions_of_one_name_in_two_suites_are_told_apart_on_the_page(tmp_path):
    records = [record(suite=suite, code={"commit": suite * 20, "dirty": None}) for suite in ("aa", "bb")]
    write(records, tmp_path, tmp_path)
    data = json.loads(Tags((tmp_path / "leaderboard.html").read_text()).scripts[0])
    places = [board["rows"][0]["cells"][0]["seeds"][0][-1] for board in data["boards"]]
    assert [data["executions"][place]["commit"] for place in places] == ["aa" * 20, "bb" * 20]


# ----------------------------------------------------------------------------------------- weights and points

LOSSES = (Point(step=1, seconds=1.0, loss=2.0), Point(step=100, seconds=2.0, loss=1.0))


def protocol_line(records: list[Record], tmp_path: Path) -> str:
    write(records, tmp_path, tmp_path)
    text = (tmp_path / "LEADERBOARD.md").read_text(encoding="utf-8")
    return next(line for line in text.splitlines() if " steps, batch " in line)


def test_the_protocol_says_which_rows_have_their_best_weights_and_which_the_last(tmp_path):
    validated, never = row_of([1.0, 1.1], "VAE", curve=CURVE), row_of([1.0, 1.1], "AE", curve=LOSSES)
    assert protocol_line(validated, tmp_path).endswith("float32, best-validation weights.")
    assert protocol_line(never, tmp_path).endswith("float32, last weights.")
    more = [*validated, *never, *row_of([2.0, 2.1], "IWAE", curve=CURVE)]
    assert protocol_line(more, tmp_path).endswith("float32, best-validation weights (last weights: AE).")
    last = row_of([1.0, 1.1], "Last", curve=CURVE, run={"model": "flows.last", "selection": "last"})
    assert protocol_line(last, tmp_path).endswith("float32, last weights.")
    closed = row_of([1.0, 1.1], "PCA", run={"model": "flows.pca", "steps": 0})
    assert protocol_line(closed, tmp_path).endswith("float32.")


def test_what_another_suite_trained_is_known_by_its_curve_there(tmp_path):
    trained = row_of([1.0, 1.1], "AE", curve=LOSSES, suite="autoencoders")
    measured_here = row_of([1.0, 1.1], "AE", suite="digits")
    write([*trained, *measured_here], tmp_path, tmp_path)
    assert (tmp_path / "LEADERBOARD.md").read_text().count("float32, last weights.") == 2


def test_likelihoods_of_different_numbers_of_points_say_so(tmp_path):
    measurements = {"nats": measured(1.0, kind="bound", n=5000), "ais_nats": measured(1.0, kind="bound", n=200)}
    assert "test points: 5000 for NLL, 200 for AIS NLL" in protocol_line([record(measurements=measurements)], tmp_path)
    measurements["ais_nats"] = measured(1.0, kind="bound", n=5000)
    assert "test points" not in protocol_line([record(measurements=measurements)], tmp_path)


def test_names_that_are_markup_or_escapes_are_text_in_progress_and_show(capsys):
    made = record("[/]", status="error", error="\x1b[2J [red]no")
    Lines(sys.stderr).say(made.error)
    show([made, record("[/]", measurements={"[/red]\x1b": measured(1.0)}, at=1)], Console(width=200))
    captured = capsys.readouterr()
    assert captured.err == "\\x1b[2J [red]no\n"
    assert "\x1b" not in captured.out
    assert "[/red]\\x1b" in captured.out
