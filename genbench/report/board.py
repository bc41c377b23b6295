"""What a leaderboard is: one table for (suite, version, data), its columns, rows and cells in the order shown."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from genbench.file_names import file_key
from genbench.records.record import Better
from genbench.report.tidy import Line
from genbench.suite import Kind

INVALID = "invalid"  # the verdict of a value that cannot be true
SPEED = ("train_throughput", "sample_throughput")  # the speed that stands for a board; else the first in .../s


class Column(NamedTuple):
    """A measurement of one kind, in one unit."""

    measurement: str
    kind: Kind
    unit: str
    better: Better

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


@dataclass(frozen=True)
class Cell:
    """Mean over n seeds and half its 95 % interval (None where n < 2); None for what there is not.

    Attributes:
        mean_text, interval_text: what is shown of them, see text.shown.
        stderr: of the test set, apart from the seeds.
        invalid: seeds whose value cannot be true: it is shown, and neither ranked nor drawn.
        p20, p80: of a timing's repetitions, where there is one seed.
        seeds: what each run gave it.
    """

    n: int
    mean: float | None
    half: float | None
    mean_text: str
    interval_text: str
    stderr: float | None
    p20: float | None
    p80: float | None
    rank: int | None
    unranked: str
    seeds: tuple[Line, ...]
    invalid: int = 0

    @property
    def invalid_note(self) -> str:
        """``invalid 1/3`` where a seed's value is."""
        return f"{INVALID} {self.invalid}/{len(self.seeds)}" if self.invalid else ""


@dataclass(frozen=True)
class Row:
    """A model under one protocol on one data set, over its seeds; `ids` are its runs, by seed.

    `hue` numbers the names of a suite, so that a row keeps its colour from board to board. `published` is the source
    of a row that a paper reports, "" for one that was measured. `weights` are those that were measured:
    "best-validation" or "last", "" where nothing was trained.
    """

    name: str
    model: str
    settings: str
    ids: dict[int, str]
    dirty: bool
    hue: int
    failures: str
    later: str
    verdicts: str
    cells: dict[Column, Cell]
    published: str = ""
    weights: str = ""

    @property
    def label(self) -> str:
        """The name, marked where a paper reports the row."""
        return f"{self.name}, published" if self.published else self.name


@dataclass(frozen=True)
class Board:
    """One table; `title` and `question` are those of its suite, "" where its file is not at hand."""

    suite: str
    version: int
    data: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    title: str = ""
    question: str = ""

    @property
    def measured(self) -> tuple[Row, ...]:
        """The rows that have records."""
        return tuple(row for row in self.rows if not row.published)

    @property
    def papers(self) -> tuple[Row, ...]:
        """The rows that papers report."""
        return tuple(row for row in self.rows if row.published)

    @cached_property
    def usual(self) -> dict[Column, int]:
        """By column the number of seeds that most of its cells have; the larger of two that are as frequent."""
        counts: dict[Column, Counter[int]] = {column: Counter() for column in self.columns}
        for row in self.measured:
            for column, cell in row.cells.items():
                counts[column][cell.n] += 1
        return {column: max(found, key=lambda n: (found[n], n)) for column, found in counts.items() if found}

    @cached_property
    def newest(self) -> str:
        """The newest execution on it."""
        seeds = (seed for row in self.rows for cell in row.cells.values() for seed in cell.seeds)
        return max((seed.execution for seed in seeds), default="")

    @property
    def primary(self) -> str | None:
        """The measurement that orders the rows."""
        return self.columns[0].measurement if self.columns else None

    @cached_property
    def speed(self) -> Column | None:
        """The column of speed that quality is set against; None if no speed was measured."""
        rates = [column for column in self.columns if column.unit.endswith("/s")]
        preferred = [column for name in SPEED for column in rates if column.measurement == name]
        return next(iter([*preferred, *rates]), None)

    @property
    def key(self) -> str:
        """``suite-version-data``, fit for a file's name and an anchor; no other board has it."""
        return file_key(self.suite, self.version, self.data)
