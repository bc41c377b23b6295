"""The leaderboard as one HTML page that needs nothing but itself: no network, no other file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup
from pydantic_core import to_json

from genbench.console import printable
from genbench.records.record import Record
from genbench.report.axis import fid_of, marks_of
from genbench.report.board import Board, Cell, Column, Row
from genbench.report.curves import Curves, curve_of, curves_of
from genbench.report.pictures import ABOUT, pictures
from genbench.report.protocol import RULES, Machines, protocol, seeds
from genbench.report.text import beside, failed
from genbench.report.tidy import Runs, code_of

HERE = Path(__file__).parent
AXIS = 40  # rows that a chart has at most
DATA = '<script type="application/json" id="data">'  # the data follow it; records cannot write it, for they are escaped


def page(boards: Sequence[Board], machines: Machines, runs: Runs, work: Path) -> bytes:
    """Return the page for `boards`; `runs` hold what is behind each cell, `work` the pictures that metrics drew.

    The text of records reaches the page only through escaping: by the template, as JSON without angle brackets,
    and by the script as text nodes.
    """
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_spelled)
    functions = (beside, failed, seeds, protocol)
    environment.filters.update({function.__name__: function for function in functions})
    style, script = (Markup(_read(name)) for name in ("page.css", "page.js"))
    html = environment.from_string(_read("page.html")).render(
        suites=_suites(boards, machines), boards=boards, rules=RULES, count=len(runs), style=style, script=script,
        pictures=pictures(boards, runs, work), about=ABOUT, data_sets=len({board.data for board in boards}),
    )  # fmt: skip
    before, tag, after = html.partition(DATA)
    return b"".join((before.encode(), tag.encode(), _embedded(_data(boards, runs)), after.encode()))


def _spelled(value: Any) -> Any:
    return printable(value) if type(value) is str else value


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _embedded(data: Any) -> bytes:
    """Return `data` as JSON that cannot end the script element it stands in."""
    text = to_json(data, inf_nan_mode="null")  # half the time of json
    return text.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")


def _suites(boards: Sequence[Board], machines: Machines) -> list[dict[str, Any]]:
    suites = []
    for suite, group in groupby(boards, key=lambda board: (board.suite, board.version)):
        members = list(group)
        said = {"title": members[0].title or suite[0], "question": members[0].question}
        suites.append({"name": suite[0], "version": suite[1], "boards": members, "machines": machines[suite], **said})
    return suites


# ------------------------------------------------------------------------------------- what is behind the cells


class Numbers(dict[Any, int]):
    """The number of each different thing: what many cells name is told once, and named by its number."""

    def __missing__(self, thing: Any) -> int:
        self[thing] = len(self)
        return self[thing]


@dataclass
class Behind:
    """What there is behind cells, and the numbers of what they name; an execution is named with its suite and run."""

    runs: Runs
    curves: Curves
    executions: Numbers = field(default_factory=Numbers)
    impls: Numbers = field(default_factory=Numbers)


def _data(boards: Sequence[Board], runs: Runs) -> dict[str, Any]:
    """Return what the script needs: boards, and the executions, ways to measure and environments that they name."""
    behind, environments = Behind(runs, curves_of(runs)), Numbers()
    tables = [_board(board, behind) for board in boards]
    records = {(*run, record.execution): record for run, executions in runs.items() for record in executions}
    executions = [_execution(records[name], environments) for name in behind.executions]
    told = {"executions": executions, "impls": [*behind.impls], "environments": [dict(said) for said in environments]}
    return {"boards": tables, **told}


def _execution(record: Record, environments: Numbers) -> dict[str, Any]:
    said = {key: getattr(record, key) for key in ("execution", "status", "attempts", "error", "command")}
    code = dict(zip(("commit", "dirty"), code_of(record), strict=True))
    environment = environments[tuple(sorted((printable(key), value) for key, value in record.environment.items()))]
    return {**said, **code, "seconds": record.timings.get("total"), "environment": environment}


def _board(board: Board, behind: Behind) -> dict[str, Any]:
    places = {id(row): at for at, row in enumerate(board.rows)}
    return {
        "suite": board.suite,
        "data": board.data,
        "columns": [_column(column) for column in board.columns],
        "axis": [(places[id(mark.row)], board.columns.index(mark.column)) for mark in marks_of(board, AXIS)],
        "against": _against(board),
        "rows": [_row(board, row, behind) for row in board.rows],
    }


def _against(board: Board) -> tuple[int, int]:
    """Return the columns that are set against each other at first, across and up.

    They are what orders the rows and speed or FID, or else whatever most of the rows have with it.
    """
    quality = [i for i, column in enumerate(board.columns) if column.measurement == board.primary]
    there = [board.columns.index(column) for column in (board.speed, fid_of(board)) if column]
    preferred = [i for i in there if i not in quality]
    others = [i for i in range(len(board.columns)) if i not in quality]
    pairs = [(x, y) for x in preferred or others for y in quality]
    return max(pairs, key=lambda pair: _both(board, *pair), default=(0, 0))


def _both(board: Board, x: int, y: int) -> int:
    return sum(board.columns[x] in row.cells and board.columns[y] in row.cells for row in board.rows)


def _column(column: Column) -> dict[str, Any]:
    keys = ("measurement", "kind", "unit", "better", "heading", "shown_unit")
    return {key: getattr(column, key) for key in keys}


def _row(board: Board, row: Row, behind: Behind) -> dict[str, Any]:
    last = {seed: (board.suite, run, behind.runs[board.suite, run][-1].execution) for seed, run in row.ids.items()}
    points = [(point.step, point.validation, point.loss) for point in curve_of(board, row, behind.curves)]
    said = {
        key: getattr(row, key)
        for key in (
            "name",
            "label",
            "published",
            "model",
            "settings",
            "failures",
            "later",
            "verdicts",
            "hue",
            "weights",
        )
    }
    ends = [(_exact(seed), row.ids[seed], behind.executions[name]) for seed, name in last.items()]
    cells = [_cell(row.cells.get(column), behind) for column in board.columns]
    return {**said, "runs": ends, "curve": points, "cells": cells}


def _cell(cell: Cell | None, behind: Behind) -> dict[str, Any] | None:
    if cell is None:
        return None
    impls, executions = behind.impls, behind.executions
    seeds = [
        (_exact(s.seed), s.value, s.stderr, s.n, s.verdict, impls[s.impl], executions[s.suite, s.id, s.execution])
        for s in cell.seeds
    ]
    return {**vars(cell), "seeds": seeds}


def _exact(seed: int) -> int | str:
    """Return a seed as the script can hold it: as text where its numbers would round it."""
    return seed if seed < 2**53 else str(seed)
