"""What suite files add to leaderboards: column order, ranking, title, question, and results from papers.

Results from papers are shown among the measured rows, never ranked, and not part of any statistic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from genbench.errors import UsageError, nearest
from genbench.notices import notify
from genbench.records.record import Record
from genbench.records.store import Store
from genbench.report.aggregate import SuiteKey
from genbench.report.board import Board, Cell, Row, boards
from genbench.report.columns import Column, is_named
from genbench.report.tidy import Line, evaluated_weights, metrics_by_suite
from genbench.suite import Published, Suite, read_suite, suite_paths

GREY = 7  # color index


def suite_files(records: Iterable[Record], folder: Path | None = None) -> dict[SuiteKey, Suite]:
    """Return the suites of `records` by name and version.

    A suite comes from the file saved next to its records under `folder`, or else from suites/ if the file there has the
    same name and version. Suites without a file are absent.
    """
    keys = sorted({(record.run.suite, record.run.version) for record in records}, reverse=True)
    saved = {key: Store(folder).load_suite(*key) if folder else None for key in keys}
    suites = {key: suite or _suite_by_name(*key) for key, suite in saved.items()}
    return {key: suite for key, suite in suites.items() if suite}


def _suite_by_name(name: str, version: int) -> Suite | None:
    path = suite_paths().get(name)  # only by name: a record must not decide which file is read
    try:
        suite = read_suite(path) if path else None
    except UsageError:
        return None
    if suite is None:
        return None
    return suite if (suite.suite, suite.version) == (name, version) else None


def leaderboards(records: Sequence[Record], lines: Sequence[Line], suites: Mapping[SuiteKey, Suite]) -> list[Board]:
    """Return the boards of `records`, of which `lines` is the tidy table, with what their suite files add."""
    for key, suite in suites.items():
        _report_unknown_rank_by(key, suite, lines)
    rank_by = {key: suite.rank_by for key, suite in suites.items()}
    metrics = metrics_by_suite(records, suites.values())
    tables = boards(lines, metrics, evaluated_weights(records), rank_by)
    return [with_suite_file(board, suites.get(board.suite_key)) for board in tables]


def _report_unknown_rank_by(key: SuiteKey, suite: Suite, lines: Sequence[Line]) -> None:
    """Print a notice for each measurement in `rank_by` that no data set of the suite has."""
    if not suite.rank_by:
        return
    measured = {line.measurement for line in lines if (line.suite, line.version) == key and line.measurement}
    for name in suite.rank_by:
        if measured and not any(is_named(measurement, name) for measurement in measured):
            notify(f"suite {key[0]} v{key[1]}: rank_by: no record has a measurement {name!r}{nearest(name, measured)}")


# ---------------------------------------------------------------------------------------------- results from papers


def with_suite_file(board: Board, suite: Suite | None) -> Board:
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
