"""Rows of several families and kinds of numbers on one axis, each told apart."""

from __future__ import annotations

from typing import NamedTuple

from genbench.report.board import Board, Cell, Column, Row

LIKELIHOODS = {"bpd": ("bpd", "ais_bpd"), "nats": ("nats", "ais_nats")}  # what shares an axis with the first


class Mark(NamedTuple):
    """A row's number on the axis; `first` where it is of the measurement that orders the board."""

    row: Row
    column: Column
    cell: Cell
    first: bool


def marks_of(board: Board, most: int) -> list[Mark]:
    """Return the marks of the `most` best rows on the axis of what orders the board, the best row first.

    They are of every kind: exact values, bounds and estimates; and a likelihood by annealing stands on the axis of
    likelihoods. A row is placed by its first. What is invalid has no mark.
    """
    alike = LIKELIHOODS.get(board.primary or "", (board.primary,))
    columns = [column for column in board.columns if column.measurement in alike]
    found = [
        [
            Mark(row, column, row.cells[column], column.measurement == alike[0])
            for column in columns
            if column in row.cells and row.cells[column].mean is not None and not row.cells[column].invalid
        ]
        for row in board.rows
    ]
    found = sorted((marks for marks in found if marks), key=lambda marks: _place(marks[0]))
    return [mark for marks in found[:most] for mark in marks]


def _place(mark: Mark) -> float:
    return (mark.cell.mean or 0.0) * (-1 if mark.column.better == "higher" else 1)


def fid_of(board: Board) -> Column | None:
    """Return the column of FID, by whatever network's features."""
    return next((column for column in board.columns if column.measurement.partition("[")[0] == "fid"), None)


def family(row: Row) -> str:
    """Return the first part of the model's path: ``flows`` of flows.nsf:NSF; "" for a row of a paper."""
    return row.model.partition(":")[0].partition(".")[0]
