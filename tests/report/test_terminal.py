"""The terminal: tables that fit, any encoding, nothing heavy imported."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import pytest
from rich.console import Console

from genbench.command_line import main
from genbench.console import accept_any_text, printable
from genbench.records.store import Store
from genbench.report import leaderboard, show
from genbench.runner.progress import Lines
from tests.report.records import measured, record, row_of, suite_records


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


def test_hidden_columns_are_counted_and_not_all_listed(capsys):
    measurements = {f"m{i}": measured(1.0) for i in range(3000)}
    leaderboard([record(measurements=measurements)], Console(width=80))
    out = capsys.readouterr().out
    assert len(out) < 3000
    assert "more" in out


def test_the_terminal_imports_no_plotting_library():
    code = (
        "import sys, genbench.report.terminal; assert not {'matplotlib', 'pandas', 'torch', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_show_prints_each_execution_and_measurement(capsys):
    show([record(nats=1.0, at=1), record(at=2, status="error", error="ValueError: bad [red]")], Console(width=200))
    out = capsys.readouterr().out
    assert "ValueError: bad [red]" in out
    assert re.search(r"NLL +1\.00 +nats +exact +100 +0\.1", out)


def test_markup_and_escapes_in_names_are_plain_text_in_progress_and_show(capsys):
    failed = record("[/]", status="error", error="\x1b[2J [red]no")
    Lines(sys.stderr).say(failed.error)
    show([failed, record("[/]", measurements={"[/red]\x1b": measured(1.0)}, at=1)], Console(width=200))
    captured = capsys.readouterr()
    assert captured.err == "\\x1b[2J [red]no\n"
    assert "\x1b" not in captured.out
    assert "[/red]\\x1b" in captured.out


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\tc\x00", "a\\nb\\tc\\x00"),
        ("\u202e\u2028", "\\u202e\\u2028"),
        ("é 中文 👍🏽\u200d", "é 中文 👍🏽\u200d"),
    ],
)
def test_control_characters_are_escaped_and_letters_are_not(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_a_report_is_printed_on_a_terminal_of_any_encoding(tmp_path, monkeypatch, encoding):
    store, streams = Store(tmp_path), [io.BytesIO(), io.BytesIO()]
    for r in [*row_of([1.0, 1.1], "中文 ±"), *row_of([2.0, 2.3], "Ünïcode")]:
        store.write(r)
    for name, stream in zip(("stdout", "stderr"), streams, strict=True):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(stream, encoding=encoding, write_through=True))
    assert main(["report", "--results", str(tmp_path)]) == 0
    printed = streams[0].getvalue().decode(encoding)
    assert ("±" if encoding != "ascii" else "+-") in printed
    assert ("↓" if encoding == "utf-8" else " v") in printed
    assert ("中文" if encoding == "utf-8" else "\\u4e2d\\u6587") in printed
    assert streams[1].getvalue() == b""


def test_an_error_handler_chosen_by_the_user_stays(monkeypatch):
    for errors, expected in (("strict", "readable"), ("replace", "replace")):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=errors)
        monkeypatch.setattr(sys, "stdout", stream)
        accept_any_text()
        assert stream.errors == expected
