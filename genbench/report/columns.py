"""Columns of a leaderboard: what they are, how they are headed, and in which order they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from genbench.records.record import Better
from genbench.suite import Kind

KIND_ORDER = ("exact", "bound", "estimate")
PRIMARY = ("cas", "excess_nats", "bpd", "jensen_shannon")  # these rank a board; else the first with a direction


class Column(NamedTuple):
    """A measurement of one kind, in one unit."""

    measurement: str
    kind: Kind
    unit: str
    better: Better

    @property
    def heading(self) -> str:
        """The label, the kind unless it is exact, and an arrow in the better direction."""
        arrow = {"lower": " ↓", "higher": " ↑", None: ""}[self.better]
        kind = "" if self.kind == "exact" else f" ({self.kind})"
        return f"{self.measurement.replace('_', ' ')}{kind}{arrow}"

    @property
    def unit_label(self) -> str:
        """The unit, or "" if the label already contains it."""
        return "" if self.unit in self.measurement.split("_") else self.unit


def order_columns(impls: Mapping[Column, str], metrics: Sequence[str]) -> list[Column]:
    """Return the columns in order: the ranking measurement, then as the suite lists its metrics, exact values first.

    A measurement belongs to the metric whose name, or whose module's name (likelihood of likelihood:L100), its `impl`
    starts with.
    """
    names = [*(metric.rpartition(":")[2] for metric in metrics), *(metric.partition(":")[0] for metric in metrics)]

    def position(column: Column) -> tuple[int, str, int]:
        matches = [i % len(metrics) for i, name in enumerate(names) if impls[column].startswith(name)]
        return (matches[0] if matches else len(metrics), column.measurement, KIND_ORDER.index(column.kind))

    columns = sorted(impls, key=position)
    first = ranking_measurement(columns)
    return sorted(columns, key=lambda column: column.measurement != first)


def ranking_measurement(columns: Sequence[Column]) -> str | None:
    """Return the measurement that orders the rows of a board with `columns`."""
    measured = [column.measurement for column in columns]
    directed = [column.measurement for column in columns if column.better]
    return next((name for name in (*PRIMARY, *directed, *measured) if name in measured), None)
