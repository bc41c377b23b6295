"""Records folded into leaderboards: one for each (suite, version, data), rows and columns in order."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from genbench.report.board import Board, Cell, Column, Row, Seed
from genbench.report.cells import BOARD, CELL, ROW, cells, labelled, rows

PRIMARY = (
    "cas",
    "excess_nats",
    "bpd",
    "jensen_shannon",
)  # these rank a board; else the first with a better end
KINDS = ("exact", "bound", "estimate")
COLUMN_FIELDS = ("measurement", "kind", "unit", "better")

Line = Mapping[Any, Any]


def boards(frame: pd.DataFrame, metrics: Mapping[str, Sequence[str]]) -> list[Board]:
    """Return the boards of a tidy `frame`, by suite, version and data; columns follow `metrics`, in order, by suite."""
    frame = labelled(frame)
    lines = rows(frame)
    found, single = cells(frame, lines), _seeds(frame)
    filled: dict[Any, list[Line]] = defaultdict(list)
    for line in found.to_dict("records"):
        seeds = single[tuple(line[key] for key in CELL)]
        filled[tuple(line[key] for key in ROW)].append({**line, "seeds": seeds})
    ids = _ids(frame)
    lines["hue"] = lines.groupby("suite")["row"].transform(lambda names: pd.factorize(names)[0])
    parts = [(key, part.to_dict("records")) for key, part in lines.groupby(BOARD)]
    return [_board(key, part, filled, ids, metrics.get(str(key[0]), ())) for key, part in parts]


def _seeds(frame: pd.DataFrame) -> dict[Any, list[Seed]]:
    """Return by cell what each seed gave, in the order of the seeds."""
    held = frame[frame["measurement"].notna()].sort_values("seed", kind="stable")
    held = held.assign(**{key: held[key].astype(object).where(held[key].notna(), None) for key in ("value", "stderr")})
    fields = zip(*(held[key].tolist() for key in [*CELL, *Seed._fields]), strict=True)
    found: dict[Any, list[Seed]] = defaultdict(list)
    for line in fields:
        found[line[: len(CELL)]].append(Seed(*line[len(CELL) :]))
    return found


def _ids(frame: pd.DataFrame) -> dict[Any, dict[int, str]]:
    """Return by row its runs: seed -> id, in the order of the seeds."""
    found: dict[Any, dict[int, str]] = defaultdict(dict)
    runs = frame[[*ROW, "seed", "id"]].drop_duplicates().sort_values("seed", kind="stable")
    for *row, seed, run in zip(*(runs[key].tolist() for key in runs.columns), strict=True):
        found[tuple(row)][seed] = run
    return found


def _board(key: Any, lines: Sequence[Line], filled: Any, ids: Any, metrics: Sequence[str]) -> Board:
    impls: dict[Column, str] = {}
    table = []
    for line in lines:
        mine = filled[*key, line["row"]]
        columns = [Column(*(_or_none(cell[name]) for name in COLUMN_FIELDS)) for cell in mine]
        impls |= {column: cell["impl"] for column, cell in zip(columns, mine, strict=True)}
        cells = {column: _cell(cell) for column, cell in zip(columns, mine, strict=True)}
        table.append(_row(line, cells, ids[*key, line["row"]]))
    ordered = _ordered(impls, metrics)
    suite, version, data = key
    return Board(suite, version, data, tuple(ordered), tuple(sorted(table, key=lambda row: _place(row, ordered))))


def _or_none(value: Any) -> Any:
    return None if value is None or value != value else value


def _cell(line: Line) -> Cell:
    n, rank = int(line["n"]), _or_none(line["rank"])
    p20, p80 = (_or_none(line[key]) if n == 1 else None for key in ("p20", "p80"))
    mean, half, stderr = (_or_none(line[key]) for key in ("mean", "half", "stderr"))
    rank = None if rank is None else int(rank)
    return Cell(n, mean, half, stderr, p20, p80, rank, line["unranked"], tuple(line["seeds"]))


def _row(line: Line, cells: dict[Column, Cell], ids: dict[int, str]) -> Row:
    said = {key: line[key] for key in ("model", "settings", "failures", "later", "verdicts")}
    return Row(name=line["row"], ids=ids, dirty=bool(line["dirty"]), hue=int(line["hue"]), cells=cells, **said)


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
