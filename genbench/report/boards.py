"""Records folded into leaderboards: one for each (suite, version, data), rows and columns in order."""

from __future__ import annotations

import math
from collections import defaultdict, namedtuple
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from genbench.report.board import Board, Cell, Column, Row, Seed
from genbench.report.cells import CELL, ROW, cells, labelled, rows

PRIMARY = (
    "cas",
    "excess_nats",
    "bpd",
    "jensen_shannon",
)  # these rank a board; else the first with a better end
KINDS = ("exact", "bound", "estimate")


def boards(frame: pd.DataFrame, metrics: Mapping[str, Sequence[str]]) -> list[Board]:
    """Return the boards of a tidy `frame`, by suite, version and data; columns follow `metrics`, in order, by suite."""
    frame = labelled(frame)
    lines = rows(frame)
    lines["hue"] = lines.groupby("suite")["row"].transform(lambda names: pd.factorize(names)[0])
    single, ids = _seeds(frame), _ids(frame)
    filled: dict[Any, dict[Column, tuple[str, Cell]]] = defaultdict(dict)
    for line in _lines(cells(frame, lines)):
        suite, version, data, row, measurement, kind = cell = tuple(getattr(line, key) for key in CELL)
        column = Column(measurement, kind, line.unit, line.better)
        filled[suite, version, data, row][column] = (line.impl, _cell(line, single[cell]))
    found: dict[Any, list[Row]] = defaultdict(list)
    impls: dict[Any, dict[Column, str]] = defaultdict(dict)
    for line in _lines(lines):
        *board, _ = row = tuple(getattr(line, key) for key in ROW)
        found[tuple(board)].append(_row(line, {column: cell for column, (_, cell) in filled[row].items()}, ids[row]))
        impls[tuple(board)] |= {column: impl for column, (impl, _) in filled[row].items()}
    return [_board(*key, found[key], _ordered(impls[key], metrics.get(key[0], ()))) for key in sorted(found)]


def _lines(frame: pd.DataFrame) -> Iterator[Any]:
    """Yield the lines of `frame` as tuples with names, None where there is nothing."""
    held = (frame[key].astype(object).where(frame[key].notna(), None).tolist() for key in frame.columns)
    return map(namedtuple("Line", frame.columns)._make, zip(*held, strict=True))


def _seeds(frame: pd.DataFrame) -> dict[Any, list[Seed]]:
    """Return by cell what each seed gave, in the order of the seeds."""
    held = frame[frame["measurement"].notna()].sort_values("seed", kind="stable")
    found: dict[Any, list[Seed]] = defaultdict(list)
    for line in _lines(held[[*CELL, *Seed._fields]]):
        found[line[: len(CELL)]].append(Seed(*line[len(CELL) :]))
    return found


def _ids(frame: pd.DataFrame) -> dict[Any, dict[int, str]]:
    """Return by row its runs: seed -> id, in the order of the seeds."""
    found: dict[Any, dict[int, str]] = defaultdict(dict)
    for *row, seed, run in _lines(frame[[*ROW, "seed", "id"]].sort_values("seed", kind="stable")):
        found[tuple(row)][seed] = run
    return found


def _board(suite: str, version: int, data: str, rows: list[Row], columns: list[Column]) -> Board:
    return Board(suite, version, data, tuple(columns), tuple(sorted(rows, key=lambda row: _place(row, columns))))


def _cell(line: Any, seeds: list[Seed]) -> Cell:
    rank = None if line.rank is None else int(line.rank)
    p20, p80 = (line.p20, line.p80) if line.n == 1 else (None, None)
    return Cell(line.n, line.mean, line.half, line.stderr, p20, p80, rank, line.unranked, tuple(seeds))


def _row(line: Any, cells: dict[Column, Cell], ids: dict[int, str]) -> Row:
    said = {key: getattr(line, key) for key in ("model", "settings", "dirty", "hue", "failures", "later", "verdicts")}
    return Row(name=line.row, ids=ids, cells=cells, **said)


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
    """Return where a row stands: by the first column it is in; there the unranked after the ranked, then by value."""
    for i, column in enumerate(columns):
        cell = row.cells.get(column)
        if cell and cell.mean is not None:
            sign = -1 if column.better == "higher" else 1
            return (i, row.failures != "", cell.rank or math.inf, sign * cell.mean, row.name)
    return (len(columns), row.failures != "", math.inf, 0.0, row.name)
