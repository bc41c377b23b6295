"""What papers report, set among the rows that were measured: never ranked, no part of any statistic."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from genbench.report.board import Board, Cell, Column, Row
from genbench.report.tidy import Line
from genbench.suite import Published, Suite

GREY = 7  # of the colours


def with_published(board: Board, suite: Suite | None) -> Board:
    """Return `board` with the title and question of `suite`, and the rows that it says papers report for its data, each
    before the first that is worse.

    A value takes the unit and the better end of what the board measures under its name, and stands in the column of
    its kind, which is added where there is none.
    """
    if suite is None:
        return board
    said = suite.published
    found = {name: cells for name, paper in said.items() if (cells := _cells(board, paper))}
    columns = _ordered(board.columns, [column for cells in found.values() for column in cells])
    rows = list(board.rows)
    for name, cells in found.items():
        row = _row(name, said[name], cells)
        worse = (i for i, other in enumerate(rows) if _place(other, columns) > _place(row, columns))
        rows.insert(next(worse, len(rows)), row)
    return replace(
        board, columns=tuple(columns), rows=tuple(rows), title=_line(suite.title), question=_line(suite.question)
    )


def _line(text: str) -> str:
    return " ".join(text.split())


def _cells(board: Board, paper: Published) -> dict[Column, Cell]:
    """Return what `paper` says of the data of `board`."""
    like = {column.measurement: column for column in board.columns}
    cells = {}
    for name, values in paper.values.items():
        if board.data in values:
            column = like.get(name, Column(name, paper.kind, "", None))._replace(kind=paper.kind)
            value = values[board.data]
            cells[column] = Cell(0, value, None, f"{value:g}", "", None, None, None, None, "published", ())
    return cells


def _row(name: str, paper: Published, cells: dict[Column, Cell]) -> Row:
    blank = {"model": "", "settings": "{}", "failures": "", "later": "", "verdicts": ""}
    return Row(name=name, ids={}, dirty=False, hue=GREY, cells=cells, published=paper.source, **blank)


def _ordered(measured: Sequence[Column], said: Sequence[Column]) -> list[Column]:
    """Return the columns there are, and after those of its measurement each that only papers fill."""
    columns = list(dict.fromkeys([*measured, *said]))
    names = dict.fromkeys(column.measurement for column in columns)
    places = {name: place for place, name in enumerate(names)}
    return sorted(columns, key=lambda column: places[column.measurement])


def _place(row: Row, columns: Sequence[Column]) -> tuple[int, bool, float]:
    """Return the first column in which a row has a value, whether it has failures or the value is invalid, and the
    value, the best first."""
    for i, column in enumerate(columns):
        cell = row.cells.get(column)
        if cell and cell.mean is not None:
            return i, row.failures != "" or cell.invalid > 0, cell.mean * (-1 if column.better == "higher" else 1)
    return len(columns), row.failures != "", math.inf


def published_lines(boards: Iterable[Board]) -> Iterator[Line]:
    """Yield the published values as lines of a tidy table: status "published", impl the source."""
    blank = Line(*(None,) * len(Line._fields))._replace(status="published")  # type: ignore[arg-type]
    for board in boards:
        said = blank._replace(suite=board.suite, version=board.version, data=board.data)
        for row in board.papers:
            for column, cell in row.cells.items():
                numbers = {key: getattr(column, key) for key in ("measurement", "kind", "unit", "better")}
                yield said._replace(name=row.name, value=cell.mean, impl=row.published, **numbers)
