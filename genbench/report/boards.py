"""Records folded into leaderboards: one for each (suite, version, data), rows and columns in order."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from genbench.report.board import Board, Cell, Column, Row
from genbench.report.cells import Fold, Key, Place, cells, failures, later, rows, verdicts
from genbench.report.text import shown
from genbench.report.tidy import Line

PRIMARY = (
    "cas",
    "excess_nats",
    "bpd",
    "jensen_shannon",
)  # these rank a board; else the first with a better end
WEIGHTS = ("best-validation", "last")
KINDS = ("exact", "bound", "estimate")


def boards(
    lines: Iterable[Line], metrics: Mapping[str, Sequence[str]], weights: Mapping[str, str] | None = None
) -> list[Board]:
    """Return the boards of `lines` (see tidy), by suite, version and data.

    Args:
        metrics: those of each suite, in the order that columns follow.
        weights: which weights of each run were measured, by its id.
    """
    folded = rows(lines)
    folds, hues = cells(folded), _hues(folded)
    tables: dict[Place, list[Row]] = defaultdict(list)
    impls: dict[Place, dict[Column, str]] = defaultdict(dict)
    for key, mine in folded.items():
        *_, label = key
        tables[key[:3]].append(_row(label, mine, folds[key], hues[key[0], label], weights or {}))
        impls[key[:3]] |= {column: fold.impl for column, fold in folds[key].items()}
    columns = {place: _ordered(impls[place], metrics.get(place[0], ())) for place in sorted(tables)}
    return [_board(place, tables[place], columns[place]) for place in columns]


def _hues(rows: Iterable[Key]) -> dict[tuple[str, str], int]:
    """Return by suite and label a number: labels count up as they come."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for suite, *_, label in rows:
        found[suite].setdefault(label, len(found[suite]))
    return {(suite, label): hue for suite, labels in found.items() for label, hue in labels.items()}


def _board(place: Place, rows: list[Row], columns: list[Column]) -> Board:
    return Board(*place, tuple(columns), tuple(sorted(rows, key=lambda row: _place(row, columns))))


def _row(label: str, lines: list[Line], folds: Mapping[Column, Fold], hue: int, weights: Mapping[str, str]) -> Row:
    last, measured = lines[-1], {weights.get(line.id, "") for line in lines}
    return Row(
        name=label,
        model=last.model,
        settings=last.settings,
        ids={line.seed: line.id for line in sorted(lines, key=lambda line: line.seed)},
        dirty=any(line.dirty for line in lines),
        hue=hue,
        failures=failures(lines),
        later=later(lines),
        verdicts=verdicts(lines),
        cells={column: _cell(fold) for column, fold in folds.items()},
        weights=next((name for name in WEIGHTS if name in measured), ""),
    )


def _cell(fold: Fold) -> Cell:
    valued = [line for line in fold.lines if line.value is not None]
    p20, p80 = (valued[0].p20, valued[0].p80) if fold.n == 1 else (None, None)
    texts = shown(fold.mean, fold.half, p20, p80, fold.column.unit)
    spreads = (fold.stderr, p20, p80)
    return Cell(
        fold.n, fold.mean, fold.half, *texts, *spreads, fold.rank, fold.unranked, tuple(fold.lines), fold.invalid
    )


def _ordered(impls: dict[Column, str], metrics: Sequence[str]) -> list[Column]:
    """Return the columns: the primary first, then as the suite's metrics come, exact before bound before estimate.

    A measurement belongs to the metric whose name begins its `impl`, or whose module's does, as in likelihood:L100.
    """
    names = [*(metric.rpartition(":")[2] for metric in metrics), *(metric.partition(":")[0] for metric in metrics)]

    def place(column: Column) -> tuple[int, str, int]:
        at = [i % len(metrics) for i, name in enumerate(names) if impls[column].startswith(name)]
        return (at[0] if at else len(metrics), column.measurement, KINDS.index(column.kind))

    columns = sorted(impls, key=place)
    first = _primary(columns)
    return sorted(columns, key=lambda column: column.measurement != first)


def _primary(columns: Sequence[Column]) -> str | None:
    there = [column.measurement for column in columns]
    directed = [column.measurement for column in columns if column.better]
    return next((name for name in (*PRIMARY, *directed, *there) if name in there), None)


def _place(row: Row, columns: Sequence[Column]) -> tuple[Any, ...]:
    """Return where a row stands: by the first column it is in; there the ranked, the unranked, and last those with
    failures or invalid values; then by value."""
    for i, column in enumerate(columns):
        cell = row.cells.get(column)
        if cell and cell.mean is not None:
            sign = -1 if column.better == "higher" else 1
            return (i, row.failures != "" or cell.invalid > 0, cell.rank or math.inf, sign * cell.mean, row.name)
    return (len(columns), row.failures != "", math.inf, 0.0, row.name)
