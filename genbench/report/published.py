"""Results from papers, shown among the measured rows: never ranked, and not part of any statistic."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from genbench.report.board import Board, Cell, Row
from genbench.report.columns import Column
from genbench.report.tidy import Line
from genbench.suite import Published, Suite

GREY = 7  # color index


def with_published(board: Board, suite: Suite | None) -> Board:
    """Return `board` with the title, question and published rows of `suite`, each row before the first worse one.

    A published value has the unit and better direction of the board's measurement of that name, and is in the column of
    its kind, which is added if there is none.
    """
    if suite is None:
        return board
    cells_by_name = {
        name: cells for name, paper in suite.published.items() if (cells := _published_cells(board, paper))
    }
    columns = _with_columns(board.columns, [column for cells in cells_by_name.values() for column in cells])
    rows = list(board.rows)
    for name, cells in cells_by_name.items():
        row = _published_row(name, suite.published[name], cells)
        worse = (i for i, other in enumerate(rows) if _value_order(other, columns) > _value_order(row, columns))
        rows.insert(next(worse, len(rows)), row)
    title, question = (" ".join(text.split()) for text in (suite.title, suite.question))
    return replace(board, columns=tuple(columns), rows=tuple(rows), title=title, question=question)


def _published_cells(board: Board, paper: Published) -> dict[Column, Cell]:
    """Return the values of `paper` on the data set of `board`."""
    measured = {column.measurement: column for column in board.columns}
    cells = {}
    for name, values in paper.values.items():
        if board.data in values:
            column = measured.get(name, Column(name, paper.kind, "", None))._replace(kind=paper.kind)
            cells[column] = _published_cell(values[board.data])
    return cells


def _published_cell(value: float) -> Cell:
    return Cell(
        n=0,
        mean=value,
        half_width=None,
        mean_text=f"{value:g}",
        interval_text="",
        stderr=None,
        p20=None,
        p80=None,
        rank=None,
        unranked_reason="published",
        lines=(),
    )


def _published_row(name: str, paper: Published, cells: dict[Column, Cell]) -> Row:
    blank = {"model": "", "settings": "{}", "failures": "", "later_failures": "", "verdicts": ""}
    return Row(name=name, run_ids={}, dirty=False, color_index=GREY, cells=cells, published=paper.source, **blank)


def _with_columns(measured: Sequence[Column], published: Sequence[Column]) -> list[Column]:
    """Return the measured columns and, after those of the same measurement, the columns that only papers fill."""
    columns = list(dict.fromkeys([*measured, *published]))
    measurements = dict.fromkeys(column.measurement for column in columns)
    positions = {measurement: position for position, measurement in enumerate(measurements)}
    return sorted(columns, key=lambda column: positions[column.measurement])


def _value_order(row: Row, columns: Sequence[Column]) -> tuple[int, bool, float]:
    """Return the sort key of a row: its first column with a value, whether it has failures or is invalid, the value."""
    for i, column in enumerate(columns):
        cell = row.cells.get(column)
        if cell and cell.mean is not None:
            return i, row.failures != "" or cell.n_invalid > 0, cell.mean * (-1 if column.better == "higher" else 1)
    return len(columns), row.failures != "", math.inf


def published_lines(boards: Iterable[Board]) -> Iterator[Line]:
    """Yield the published values as lines of the tidy table, with status "published" and the source as impl."""
    blank = Line(*(None,) * len(Line._fields))._replace(status="published")  # type: ignore[arg-type]
    for board in boards:
        of_board = blank._replace(suite=board.suite, version=board.version, data=board.data)
        for row in board.published_rows:
            for column, cell in row.cells.items():
                column_fields = {key: getattr(column, key) for key in ("measurement", "kind", "unit", "better")}
                yield of_board._replace(name=row.name, value=cell.mean, impl=row.published, **column_fields)
