"""The files of a report: reproducible, all or none, and never outside the folder."""

from __future__ import annotations

import csv
import errno
import io
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from rich.console import Console

from genbench.command_line import main
from genbench.records.artifacts import StorageError
from genbench.records.record import Point
from genbench.records.store import Store
from genbench.report import files, write
from genbench.report.tidy import tidy
from tests.report.records import CURVE, HOSTILE, PageParser, measured, record, row_of, suite_records


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


def test_plots_are_small_pngs_linked_from_the_markdown_and_old_ones_are_removed(tmp_path):
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


def test_no_records_give_an_empty_report(tmp_path):
    paths = write([], tmp_path, tmp_path / "out")
    assert sorted(path.name for path in paths) == ["LEADERBOARD.md", "leaderboard.csv", "leaderboard.html"]
    assert len(tidy([])) == 0


@pytest.mark.parametrize("what", ["link", "file"])
def test_a_plots_folder_that_is_no_folder_is_refused_and_nothing_is_written(tmp_path, what, capsys):
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
def test_a_full_disk_leaves_the_last_report_unchanged(tmp_path, monkeypatch, failing):
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
    write_page = csv.DictReader((tmp_path / "leaderboard.csv").open())
    assert {float(row["value"]) for row in write_page if row["measurement"] == "nats"} == {value, 1.0, 1.1}


ODD_NAMES = [
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


def test_odd_names_are_plain_text_in_every_output(tmp_path, capsys):
    records = [
        record(name, seed, run={"model": name}, curve=CURVE, error=name, command=name, environment={name: name})
        for name in ODD_NAMES
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
    page = PageParser((tmp_path / "leaderboard.html").read_text(encoding="utf-8"))
    assert [tag for tag, _ in page.tags].count("script") == 2
    names = [attributes["data-name"] for tag, attributes in page.tags if tag == "tr" and "data-name" in attributes]
    assert {"\\x1b[31mred\\x1b[0m", "a\\nb", "NUL\\x00", "\\u202eback", HOSTILE, "=1+1"} <= set(names)


def test_boards_with_similar_names_have_distinct_files_and_anchors(tmp_path):
    data = ["a:b", "a-b", "a/b", "a b", "中", "文", "x" * 400, "x" * 401, "../up"]
    records = [r for name in data for r in row_of([1.0, 1.1], data=name)]
    records += row_of([1.0, 1.1], suite="flows-v1", data="b")
    paths = write(records, tmp_path, tmp_path / "out", max_plots=100)
    plots = [path for path in paths if path.parent.name == "plots"]
    assert len({path.name.lower() for path in plots}) == len(data) + 1
    assert all(path.is_file() and path.parent == tmp_path / "out" / "plots" for path in plots)
    page = PageParser((tmp_path / "out" / "leaderboard.html").read_text(encoding="utf-8"))
    assert len({attributes["id"] for tag, attributes in page.tags if tag == "article"}) == len(data) + 1
    text = (tmp_path / "out" / "LEADERBOARD.md").read_text(encoding="utf-8")
    assert all(f"(plots/{path.name})" in text for path in plots)


def test_no_leak_is_reported_at_exit():
    code = "import torch._inductor, triton\nfrom genbench.report import gc_paused\nwith gc_paused(): pass"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stderr == b""
