"""Leaderboards: one for each (suite, version, data), its columns and rows in the order they are shown."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pandas as pd

from genbench.report.cells import BOARD, CELL, ROW, cells, labelled, rows

Kind = Literal["exact", "bound", "estimate"]
PRIMARY = ("excess_nats", "bpd")  # what ranks a board where it is measured; else the first that has a better end
KINDS = ("exact", "bound", "estimate")


@dataclass(frozen=True)
class Column:
    """A measurement of one kind."""

    measurement: str
    kind: Kind
    unit: str = field(compare=False)
    better: Literal["lower", "higher"] | None = field(compare=False)

    @property
    def heading(self) -> str:
        """The name, an arrow to its better end, and the kind where it is not exact."""
        arrow = {"lower": " ↓", "higher": " ↑", None: ""}[self.better]
        kind = "" if self.kind == "exact" else f" ({self.kind})"
        return f"{self.measurement.replace('_', ' ')}{kind}{arrow}"

    @property
    def shown_unit(self) -> str:
        """The unit, where the name does not say it."""
        return "" if self.unit in self.measurement.split("_") else self.unit

    @property
    def key(self) -> str:
        """``measurement/kind``."""
        return f"{self.measurement}/{self.kind}"


class Seed(NamedTuple):
    """What one run gave a cell, and the execution it is from."""

    seed: int
    id: str
    value: float | None
    stderr: float | None
    n: int
    impl: str
    execution: str


@dataclass(frozen=True)
class Cell:
    """Mean over n seeds and half its 95 % interval (None where n < 2); None for what there is not.

    Attributes:
        stderr: of the test set, apart from the seeds.
        p20, p80: of a timing's repetitions, where there is one seed.
    """

    n: int
    mean: float | None
    half: float | None
    stderr: float | None
    p20: float | None
    p80: float | None
    rank: int | None
    unranked: str
    seeds: tuple[Seed, ...]


@dataclass(frozen=True)
class Row:
    """A model under one protocol on one data set, over its seeds; `ids` are its runs, by seed."""

    name: str
    model: str
    settings: str
    ids: dict[int, str]
    dirty: bool
    failures: str
    later: str
    cells: dict[Column, Cell]


@dataclass(frozen=True)
class Board:
    """One table."""

    suite: str
    version: int
    data: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @property
    def newest(self) -> str:
        """The newest execution on it."""
        seeds = (seed for row in self.rows for cell in row.cells.values() for seed in cell.seeds)
        return max((seed.execution for seed in seeds), default="")

    @property
    def primary(self) -> str | None:
        """The measurement that orders the rows."""
        return self.columns[0].measurement if self.columns else None

    @property
    def key(self) -> str:
        """``suite-version-data``, fit for a file's name and an anchor."""
        text = f"{self.suite}-v{self.version}-{self.data}"
        return "".join(c if c.isalnum() or c in "-_." else "-" for c in text)


def boards(frame: pd.DataFrame, metrics: Sequence[str] = ()) -> list[Board]:
    """Return the boards of a tidy `frame`, by suite, version and data; columns follow the order of `metrics`."""
    frame = labelled(frame)
    lines = rows(frame)
    found, single = cells(frame, lines), _seeds(frame)
    filled: dict[Any, dict[Any, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    for line in found.to_dict("records"):
        key = tuple(line[name] for name in CELL)
        filled[key[:3]][key[3]][line["measurement"], line["kind"]] = line | {"seeds": single[key]}
    ids = _ids(frame)
    parts = [(key, part.to_dict("records")) for key, part in lines.groupby(BOARD)]
    return [_board(key, part, filled[key], ids, metrics) for key, part in parts]


def _seeds(frame: pd.DataFrame) -> dict[Any, list[Seed]]:
    """Return by cell what each seed gave, in the order of the seeds."""
    held = frame[frame["measurement"].notna()].sort_values("seed", kind="stable")
    fields = zip(*(held[key].tolist() for key in [*CELL, *Seed._fields]), strict=True)
    found: dict[Any, list[Seed]] = defaultdict(list)
    for line in fields:
        found[line[: len(CELL)]].append(Seed(*map(_or_none, line[len(CELL) :])))
    return found


def _ids(frame: pd.DataFrame) -> dict[Any, dict[int, str]]:
    """Return by row its runs: seed -> id, in the order of the seeds."""
    found: dict[Any, dict[int, str]] = defaultdict(dict)
    runs = frame[[*ROW, "seed", "id"]].drop_duplicates().sort_values("seed", kind="stable")
    for *row, seed, run in zip(*(runs[key].tolist() for key in runs.columns), strict=True):
        found[tuple(row)][seed] = run
    return found


def _board(key: Any, lines: list[dict[str, Any]], filled: Any, ids: Any, metrics: Sequence[str]) -> Board:
    impls: dict[Column, str] = {}
    table = []
    for line in lines:
        there = {}
        for cell in filled[line["row"]].values():
            column = Column(*(_or_none(cell[name]) for name in ("measurement", "kind", "unit", "better")))
            there[column], impls[column] = _cell(cell), cell["impl"]
        table.append(_row(line, there, ids[(*key, line["row"])]))
    columns = _ordered(impls, metrics)
    return Board(*key, tuple(columns), tuple(sorted(table, key=lambda row: _place(row, columns))))


def _or_none(value: Any) -> Any:
    return None if value is None or value != value else value


def _cell(line: dict[str, Any]) -> Cell:
    n, rank = int(line["n"]), _or_none(line["rank"])
    p20, p80 = (_or_none(line[key]) if n == 1 else None for key in ("p20", "p80"))
    mean, half, stderr = (_or_none(line[key]) for key in ("mean", "half", "stderr"))
    rank = None if rank is None else int(rank)
    return Cell(n, mean, half, stderr, p20, p80, rank, line["unranked"], tuple(line["seeds"]))


def _row(line: dict[str, Any], cells: dict[Column, Cell], ids: dict[int, str]) -> Row:
    said = {key: line[key] for key in ("model", "settings", "failures", "later")}
    return Row(name=line["row"], ids=ids, dirty=line["dirty"] is True, cells=cells, **said)


def _ordered(impls: dict[Column, str], metrics: Sequence[str]) -> list[Column]:
    """Return the columns: the primary first, then as the suite's metrics come, exact before bound before estimate.

    A measurement belongs to the metric whose name begins its `impl`.
    """

    def place(column: Column) -> tuple[int, str, int]:
        at = [i for i, metric in enumerate(metrics) if impls[column].startswith(metric.rpartition(":")[2])]
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
