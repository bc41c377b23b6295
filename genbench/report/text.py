"""Numbers and cells as people read them: as many digits as the interval supports, units scaled, failures in words."""

from __future__ import annotations

import math

from genbench.report.board import Board, Column, Row

SCALES = {"bytes": ((2**40, " TiB"), (2**30, " GiB"), (2**20, " MiB"), (2**10, " KiB"), (1, " B"))}
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def digits(value: float, spread: float | None) -> int:
    """Return the decimals of `value`: two significant digits of `spread`, or four of the value itself."""
    if spread and math.isfinite(spread):
        return min(4, max(0, 1 - math.floor(math.log10(abs(spread)))))
    return min(4, max(0, 3 - math.floor(math.log10(abs(value))))) if value else 0


def scale(value: float, unit: str) -> tuple[float, str]:
    """Return what `value` is divided by and the letters that say so: binary for bytes, and from 10,000 by 1,000."""
    if unit in SCALES:
        return next(((float(s), name) for s, name in SCALES[unit] if abs(value) >= s), (1.0, " B"))
    if abs(value) < 1e4:
        return 1.0, ""
    return next((s, name) for s, name in PREFIXES if abs(value) >= s)


def fixed(value: float, places: int) -> str:
    """Return `value` with `places` decimals; in powers of ten where that would show a zero that it is not."""
    text = f"{value:.{places}f}"
    return f"{value:.1e}" if (value and not float(text)) or abs(value) >= 1e6 else text


def number(value: float, unit: str = "", spread: float | None = None) -> str:
    """Return `value` with the digits that `spread` supports, scaled as its unit is."""
    if not math.isfinite(value):  # a difference of numbers that are as large as there are
        return str(value)
    by, letters = scale(value, unit)
    value, spread = value / by, (spread or 0) / by
    if letters:
        places = digits(value, spread) if spread else max(0, 2 - int(math.log10(abs(value) or 1)))
        return f"{fixed(value, min(places, 2))}{letters}"
    return fixed(value, digits(value, spread)) if value % 1 or spread else fixed(value, 0)


def shown(mean: float | None, half: float | None, p20: float | None, p80: float | None, unit: str) -> tuple[str, str]:
    """Return a mean with the digits that its interval supports, and the interval: ``± half`` over seeds, or
    ``(p20-p80)`` of a timing's repetitions. Nothing for what there is not."""
    if mean is None:
        return "", ""
    if half is not None:
        return number(mean, unit, half), _half(mean, half, unit)
    if p20 is not None and p80 is not None:
        spread = p80 - p20
        return number(mean, unit, spread), f"({number(p20, unit, spread)}–{number(p80, unit, spread)})"
    return number(mean, unit), ""


def _half(mean: float, half: float, unit: str) -> str:
    by, _ = scale(mean, unit)
    if half == 0:
        return "± 0" if mean % 1 else ""  # a count that all seeds agree on needs no interval
    places = min(digits(mean / by, half / by), 2 if by > 1 else 4)
    return f"± {fixed(half / by, places)}"


def seeds_beside(board: Board, row: Row, column: Column) -> str:
    """Return ``n=2`` where a cell has another number of seeds than is usual in its column."""
    cell = row.cells.get(column)
    return f"n={cell.n}" if cell and not row.published and cell.n != board.usual[column] else ""


def beside(board: Board, row: Row, column: Column) -> str:
    """Return what must be said beside a value of the page: another number of seeds than usual, invalid seeds."""
    parts = (seeds_beside(board, row, column), row.cells[column].invalid_note if column in row.cells else "")
    return ", ".join(part for part in parts if part)


def failed(board: Board, row: Row, column: Column) -> str:
    """Return failures and verdicts of the row, in the first column, and the failures for which a cell may be empty."""
    first, empty = column == board.columns[0], column not in row.cells
    parts = [*((row.failures, row.verdicts) if first else ()), row.later if first or empty else ""]
    return ", ".join(part for part in parts if part)


def notes(board: Board, row: Row, column: Column) -> str:
    """Return what must be said beside a cell."""
    cell = row.cells.get(column)
    invalid = cell.invalid_note if cell and column != board.columns[0] else ""  # the first has all verdicts of the row
    parts = (seeds_beside(board, row, column), invalid, failed(board, row, column))
    return ", ".join(part for part in parts if part)
