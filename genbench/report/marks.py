"""Marks: the values that charts show on one axis, across model families and kinds of values."""

from __future__ import annotations

from typing import NamedTuple

from genbench.report.board import Board, Cell, Row
from genbench.report.columns import Column
from genbench.report.labels import measurement_name

LIKELIHOODS = {"bpd": ("bpd", "ais_bpd"), "nats": ("nats", "ais_nats")}  # measurements that share one axis


class Mark(NamedTuple):
    """The value of a row on an axis; `is_primary` if it is of the measurement that orders the board."""

    row: Row
    column: Column
    cell: Cell
    is_primary: bool


def ranking_marks(board: Board, max_rows: int) -> list[Mark]:
    """Return the marks of the `max_rows` best rows on the axis of the ranking measurement, best row first.

    All kinds share the axis: exact values, bounds, estimates, and likelihoods by annealed importance sampling. A row
    with several marks is placed by its first. Invalid values have no mark.
    """
    measurements = LIKELIHOODS.get(board.primary or "", (board.primary,))
    columns = [column for column in board.columns if column.measurement in measurements]
    by_row = [
        [
            Mark(row, column, row.cells[column], column.measurement == measurements[0])
            for column in columns
            if column in row.cells and row.cells[column].mean is not None and not row.cells[column].n_invalid
        ]
        for row in board.rows
    ]
    by_row = sorted((marks for marks in by_row if marks), key=lambda marks: _best_first(marks[0]))
    return [mark for marks in by_row[:max_rows] for mark in marks]


def _best_first(mark: Mark) -> float:
    return (mark.cell.mean or 0.0) * (-1 if mark.column.better == "higher" else 1)


def fid_column(board: Board) -> Column | None:
    """Return the column of FID, with the features of any network."""
    return next((column for column in board.columns if measurement_name(column.measurement) == "fid"), None)


def model_family(row: Row) -> str:
    """Return the first part of the model's path, ``flows`` of flows.nsf:NSF; "" for a published row."""
    return row.model.partition(":")[0].partition(".")[0]
