"""Notes next to the values of a board: unusual numbers of seeds, invalid seeds, failures and verdicts."""

from __future__ import annotations

from collections.abc import Iterable

from genbench.report.board import Board, Row
from genbench.report.columns import Column


def cell_notes(board: Board, row: Row, column: Column) -> str:
    """Return all notes of a cell, as "n=2, diverged 1/3"; failures and verdicts of the row are in its first column."""
    cell = row.cells.get(column)
    invalid = cell.invalid_note if cell and column != board.columns[0] else ""  # in the first it is among the verdicts
    return _joined((seeds_note(board, row, column), invalid, failure_notes(board, row, column)))


def value_notes(board: Board, row: Row, column: Column) -> str:
    """Return the notes on the value of a cell alone: an unusual number of seeds, invalid seeds."""
    invalid = row.cells[column].invalid_note if column in row.cells else ""
    return _joined((seeds_note(board, row, column), invalid))


def seeds_note(board: Board, row: Row, column: Column) -> str:
    """Return ``n=2`` if a cell has another number of seeds than most cells of its column, else ""."""
    cell = row.cells.get(column)
    return f"n={cell.n}" if cell and not row.published and cell.n != board.usual_n[column] else ""


def failure_notes(board: Board, row: Row, column: Column) -> str:
    """Return failures and verdicts of the row in the first column, and later failures, which can leave a cell empty."""
    first, empty = column == board.columns[0], column not in row.cells
    of_row = (row.failures, row.verdicts) if first else ()
    return _joined((*of_row, row.later_failures if first or empty else ""))


def _joined(notes: Iterable[str]) -> str:
    return ", ".join(note for note in notes if note)
