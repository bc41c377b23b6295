"""The leaderboard as one self-contained HTML page: it loads nothing from the network or from other files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup
from pydantic_core import to_json

from genbench.console import printable
from genbench.records.record import Record
from genbench.report.aggregate import SuiteKey
from genbench.report.board import Board, Cell, Row
from genbench.report.columns import Column
from genbench.report.curves import Curves, newest_curves, row_curve
from genbench.report.markdown import group_by_suite
from genbench.report.marks import fid_column, ranking_marks
from genbench.report.notes import failure_notes, value_notes
from genbench.report.pictures import PICTURE_CAPTIONS, embedded_pictures
from genbench.report.protocol import RULES, describe_protocol, describe_seeds
from genbench.report.tidy import Runs, commit_of

FOLDER = Path(__file__).parent
MAX_CHART_ROWS = 40
DATA_TAG = (
    '<script type="application/json" id="data">'  # cannot occur earlier in the page: text from records is escaped
)
COLUMN_FIELDS = (  # that the page's script reads, as those below
    *("measurement", "kind", "unit", "better"),
    *("label", "unit_label", "title", "axis_title"),
)
ROW_FIELDS = (
    *("name", "label", "published", "model", "settings", "failures", "later_failures", "verdicts"),
    *("color_index", "weights"),
)
CELL_FIELDS = (
    *("n", "mean", "half_width", "mean_text", "interval_text", "stderr", "p20", "p80", "rank", "unranked_reason"),
    "n_invalid",
)


def page(boards: Sequence[Board], hardware: Mapping[SuiteKey, str], runs: Runs, work: Path) -> bytes:
    """Return the page of `boards`: tables, charts, the executions in `runs` behind each cell, pictures from `work`.

    Text from records reaches the page only escaped: by the template, as JSON without angle brackets, and by the script
    as text nodes.
    """
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_escape_control)
    filters = (value_notes, failure_notes, describe_seeds, describe_protocol)
    environment.filters.update({function.__name__: function for function in filters})
    style, script = (Markup(_read(name)) for name in ("page.css", "page.js"))
    html = environment.from_string(_read("page.html")).render(
        suites=_suites(boards, hardware),
        boards=boards,
        rules=RULES,
        n_runs=len(runs),
        n_data=len({board.data for board in boards}),
        pictures=embedded_pictures(boards, runs, work),
        captions=PICTURE_CAPTIONS,
        style=style,
        script=script,
    )
    before, tag, after = html.partition(DATA_TAG)
    return b"".join((before.encode(), tag.encode(), _script_json(_page_data(boards, runs)), after.encode()))


def _escape_control(value: Any) -> Any:
    return printable(value) if type(value) is str else value


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _script_json(data: Any) -> bytes:
    """Return `data` as JSON that cannot close the script element around it."""
    text = to_json(data, inf_nan_mode="null")  # twice as fast as json
    return text.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")


def _suites(boards: Sequence[Board], hardware: Mapping[SuiteKey, str]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "version": version,
            "title": members[0].title or name,
            "question": members[0].question,
            "hardware": hardware[name, version],
            "boards": members,
        }
        for (name, version), members in group_by_suite(boards)
    ]


# ---------------------------------------------------------------------------------------- data for the page's script


class Interner(dict[Any, int]):
    """Numbers distinct values 0, 1, ... in order of first use, so that each is stored once and referred to by index."""

    def __missing__(self, value: Any) -> int:
        self[value] = len(self)
        return self[value]


@dataclass
class CellDetails:
    """Where the details of cells come from, and the indices of the executions and metric versions they refer to.

    An execution is interned as (suite, run id, execution).
    """

    runs: Runs
    curves: Curves
    executions: Interner = field(default_factory=Interner)
    impls: Interner = field(default_factory=Interner)


def _page_data(boards: Sequence[Board], runs: Runs) -> dict[str, Any]:
    """Return the data of the script: boards, and the executions, metric versions and environments they refer to."""
    details, environments = CellDetails(runs, newest_curves(runs)), Interner()
    board_data = [_board_data(board, details) for board in boards]
    records = {(*run, record.execution): record for run, executions in runs.items() for record in executions}
    executions = [_execution_data(records[key], environments) for key in details.executions]
    return {
        "boards": board_data,
        "executions": executions,
        "impls": [*details.impls],
        "environments": [dict(items) for items in environments],
    }


def _execution_data(record: Record, environments: Interner) -> dict[str, Any]:
    commit, dirty = commit_of(record)
    environment = tuple(sorted((printable(key), value) for key, value in record.environment.items()))
    return {
        **{key: getattr(record, key) for key in ("execution", "status", "attempts", "error", "command")},
        "commit": commit,
        "dirty": dirty,
        "seconds": record.timings.get("total"),
        "environment": environments[environment],
    }


def _board_data(board: Board, details: CellDetails) -> dict[str, Any]:
    indices = {id(row): index for index, row in enumerate(board.rows)}
    marks = ranking_marks(board, MAX_CHART_ROWS)
    return {
        "suite": board.suite,
        "data": board.data,
        "columns": [_column_data(column) for column in board.columns],
        "marks": [(indices[id(mark.row)], board.columns.index(mark.column)) for mark in marks],
        "axes": _scatter_axes(board),
        "rows": [_row_data(board, row, details) for row in board.rows],
    }


def _scatter_axes(board: Board) -> tuple[int, int]:
    """Return the indices of the columns on the axes of the scatter chart at first, horizontal and vertical.

    The vertical axis is the ranking measurement, the horizontal one speed or FID, or else whichever column most rows
    share with it.
    """
    quality = [i for i, column in enumerate(board.columns) if column.measurement == board.primary]
    preferred = [board.columns.index(column) for column in (board.speed, fid_column(board)) if column]
    preferred = [i for i in preferred if i not in quality]
    others = [i for i in range(len(board.columns)) if i not in quality]
    pairs = [(x, y) for x in preferred or others for y in quality]
    return max(pairs, key=lambda pair: _count_rows_with(board, *pair), default=(0, 0))


def _count_rows_with(board: Board, x: int, y: int) -> int:
    return sum(board.columns[x] in row.cells and board.columns[y] in row.cells for row in board.rows)


def _column_data(column: Column) -> dict[str, Any]:
    return {key: getattr(column, key) for key in COLUMN_FIELDS}


def _row_data(board: Board, row: Row, details: CellDetails) -> dict[str, Any]:
    runs = []
    for seed, run_id in row.run_ids.items():
        last = details.runs[board.suite, run_id][-1].execution
        runs.append((_exact_seed(seed), run_id, details.executions[board.suite, run_id, last]))
    return {
        **{key: getattr(row, key) for key in ROW_FIELDS},
        "runs": runs,
        "curve": [(point.step, point.validation, point.loss) for point in row_curve(board, row, details.curves)],
        "cells": [_cell_data(row.cells.get(column), details) for column in board.columns],
    }


def _cell_data(cell: Cell | None, details: CellDetails) -> dict[str, Any] | None:
    if cell is None:
        return None
    impls, executions = details.impls, details.executions
    seeds = [
        (_exact_seed(s.seed), s.value, s.stderr, s.n, s.verdict, impls[s.impl], executions[s.suite, s.id, s.execution])
        for s in cell.lines
    ]
    return {**{key: getattr(cell, key) for key in CELL_FIELDS}, "seeds": seeds}


def _exact_seed(seed: int) -> int | str:
    """Return a seed as JavaScript can hold it: as text from 2^53, where its numbers would round."""
    return seed if seed < 2**53 else str(seed)
