"""Leaderboards: one board per (suite, version, data), with its rows, columns and cells in the order shown."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from genbench.file_names import file_key
from genbench.report.aggregate import (
    INVALID,
    Aggregate,
    BoardKey,
    RowKey,
    SuiteKey,
    aggregate_seeds,
    describe_failures,
    describe_later_failures,
    describe_verdicts,
    group_rows,
)
from genbench.report.columns import Column, order_columns
from genbench.report.formatting import format_mean_and_interval
from genbench.report.tidy import Line

SPEED = ("train_throughput", "sample_throughput")  # the speed that plots use; else the first with a unit of .../s
WEIGHTS = ("best-validation", "last")


@dataclass(frozen=True)
class Cell:
    """Mean over n seeds and the half-width of its 95 % interval (None if n < 2); missing values are None.

    Attributes:
        mean_text, interval_text: both as shown, see formatting.format_mean_and_interval.
        stderr: standard error of the test set, separate from the spread over seeds.
        p20, p80: percentiles of a timing's repetitions, if there is one seed.
        lines: one per seed.
        n_invalid: number of seeds with an impossible value: such a cell is shown, but neither ranked nor plotted.
    """

    n: int
    mean: float | None
    half_width: float | None
    mean_text: str
    interval_text: str
    stderr: float | None
    p20: float | None
    p80: float | None
    rank: int | None
    unranked_reason: str
    lines: tuple[Line, ...]
    n_invalid: int = 0

    @property
    def invalid_note(self) -> str:
        """``invalid 1/3`` if the value of a seed is impossible, else ""."""
        return f"{INVALID} {self.n_invalid}/{len(self.lines)}" if self.n_invalid else ""


@dataclass(frozen=True)
class Row:
    """A model under one protocol on one data set, over its seeds.

    Attributes:
        run_ids: by seed.
        dirty: whether a run used code with uncommitted changes.
        color_index: numbers the names of a suite, so that a row has the same color on every board.
        failures, later_failures, verdicts: counts over runs, as "diverged 1/3"; "" if there are none.
        published: the source of a row taken from a paper, "" for a measured row.
        weights: which weights were evaluated, "best-validation" or "last"; "" if nothing was trained.
    """

    name: str
    model: str
    settings: str
    run_ids: dict[int, str]
    dirty: bool
    color_index: int
    failures: str
    later_failures: str
    verdicts: str
    cells: dict[Column, Cell]
    published: str = ""
    weights: str = ""

    @property
    def label(self) -> str:
        """The name, marked if the row is from a paper."""
        return f"{self.name}, published" if self.published else self.name


@dataclass(frozen=True)
class Board:
    """One leaderboard; `title` and `question` come from the suite file, "" if it is not available."""

    suite: str
    version: int
    data: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    title: str = ""
    question: str = ""

    @property
    def measured_rows(self) -> tuple[Row, ...]:
        """The rows that have records."""
        return tuple(row for row in self.rows if not row.published)

    @property
    def published_rows(self) -> tuple[Row, ...]:
        """The rows taken from papers."""
        return tuple(row for row in self.rows if row.published)

    @cached_property
    def usual_n(self) -> dict[Column, int]:
        """By column the most frequent number of seeds in its cells; of equally frequent ones the largest."""
        counts: dict[Column, Counter[int]] = {column: Counter() for column in self.columns}
        for row in self.measured_rows:
            for column, cell in row.cells.items():
                counts[column][cell.n] += 1
        return {column: max(of_n, key=lambda n: (of_n[n], n)) for column, of_n in counts.items() if of_n}

    @cached_property
    def newest_execution(self) -> str:
        """The newest execution on the board."""
        lines = (line for row in self.rows for cell in row.cells.values() for line in cell.lines)
        return max((line.execution for line in lines), default="")

    @property
    def primary(self) -> str | None:
        """The measurement that orders the rows."""
        return self.columns[0].measurement if self.columns else None

    @cached_property
    def speed(self) -> Column | None:
        """The column of speed that plots use; None if no speed was measured."""
        rates = [column for column in self.columns if column.unit.endswith("/s")]
        preferred = [column for name in SPEED for column in rates if column.measurement == name]
        return next(iter([*preferred, *rates]), None)

    @property
    def suite_key(self) -> SuiteKey:
        """Name and version of the suite."""
        return self.suite, self.version

    @property
    def key(self) -> str:
        """``suite-version-data``, unique, and safe in file names and anchors."""
        return file_key(self.suite, self.version, self.data)


# ------------------------------------------------------------------------------------------------ from tidy lines


def boards(
    lines: Iterable[Line],
    metrics: Mapping[str, Sequence[str]],
    weights: Mapping[str, str] | None = None,
    rank_by: Mapping[SuiteKey, Sequence[str]] | None = None,
) -> list[Board]:
    """Return the boards of `lines` (see tidy), sorted by suite, version and data.

    Args:
        metrics: the metrics of each suite, in the order of the columns.
        weights: which weights of each run were evaluated, by run id.
        rank_by: the measurements that rank the rows of each suite, if it sets any; see columns.ranking_measurement.
    """
    grouped = group_rows(lines)
    aggregates, color_indices = aggregate_seeds(grouped), _color_indices(grouped)
    rows: dict[BoardKey, list[Row]] = defaultdict(list)
    impls: dict[BoardKey, dict[Column, str]] = defaultdict(dict)
    for key, row_lines in grouped.items():
        suite, *_, label = key
        rows[key[:3]].append(_row(label, row_lines, aggregates[key], color_indices[suite, label], weights or {}))
        impls[key[:3]] |= {column: aggregate.impl for column, aggregate in aggregates[key].items()}
    rank_by = rank_by or {}
    columns = {
        key: order_columns(impls[key], metrics.get(key[0], ()), rank_by.get(key[:2], ())) for key in sorted(rows)
    }
    return [_board(key, rows[key], columns[key]) for key in columns]


def _color_indices(rows: Iterable[RowKey]) -> dict[tuple[str, str], int]:
    """Return a number by suite and label: the labels of each suite count up in order of appearance."""
    by_suite: dict[str, dict[str, int]] = defaultdict(dict)
    for suite, *_, label in rows:
        by_suite[suite].setdefault(label, len(by_suite[suite]))
    return {(suite, label): index for suite, labels in by_suite.items() for label, index in labels.items()}


def _board(key: BoardKey, rows: list[Row], columns: list[Column]) -> Board:
    return Board(*key, tuple(columns), tuple(sorted(rows, key=lambda row: _row_order(row, columns))))


def _row(
    label: str, lines: list[Line], aggregates: Mapping[Column, Aggregate], color_index: int, weights: Mapping[str, str]
) -> Row:
    last, evaluated = lines[-1], {weights.get(line.id, "") for line in lines}
    return Row(
        name=label,
        model=last.model,
        settings=last.settings,
        run_ids={line.seed: line.id for line in sorted(lines, key=lambda line: line.seed)},
        dirty=any(line.dirty for line in lines),
        color_index=color_index,
        failures=describe_failures(lines),
        later_failures=describe_later_failures(lines),
        verdicts=describe_verdicts(lines),
        cells={column: _cell(aggregate) for column, aggregate in aggregates.items()},
        weights=next((name for name in WEIGHTS if name in evaluated), ""),
    )


def _cell(aggregate: Aggregate) -> Cell:
    valued = [line for line in aggregate.lines if line.value is not None]
    p20, p80 = (valued[0].p20, valued[0].p80) if aggregate.n == 1 else (None, None)
    mean_text, interval_text = format_mean_and_interval(
        aggregate.mean, aggregate.half_width, p20, p80, aggregate.column.unit
    )
    return Cell(
        n=aggregate.n,
        mean=aggregate.mean,
        half_width=aggregate.half_width,
        mean_text=mean_text,
        interval_text=interval_text,
        stderr=aggregate.stderr,
        p20=p20,
        p80=p80,
        rank=aggregate.rank,
        unranked_reason=aggregate.unranked_reason,
        lines=tuple(aggregate.lines),
        n_invalid=aggregate.n_invalid,
    )


def _row_order(row: Row, columns: Sequence[Column]) -> tuple[Any, ...]:
    """Return the sort key of a row: its first column with a value; in that column ranked rows, unranked ones, then
    those with failures or invalid values; then by value."""
    for i, column in enumerate(columns):
        cell = row.cells.get(column)
        if cell and cell.mean is not None:
            sign = -1 if column.better == "higher" else 1
            incomplete = row.failures != "" or cell.n_invalid > 0
            return (i, incomplete, cell.rank or math.inf, sign * cell.mean, row.name)
    return (len(columns), row.failures != "", math.inf, 0.0, row.name)
