"""Columns of a leaderboard: their headings, their order, and which one ranks the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from genbench.records.record import Better
from genbench.report.labels import measurement_label, measurement_name, name_label, network_of, unit_label
from genbench.suite import Kind

KIND_ORDER = ("exact", "bound", "estimate")
RANK_BY = {  # the ranking measurement by kind of task, unless the suite sets `rank_by`; the first that was measured
    "class-conditional samples": "cas",
    "data with a known density": "excess_nats",
    "images": "bpd",
    "samples of a known 2-D density": "jensen_shannon",
}
ARROWS = {"lower": " ↓", "higher": " ↑", None: ""}


class Column(NamedTuple):
    """A measurement of one kind, in one unit."""

    measurement: str
    kind: Kind
    unit: str
    better: Better

    @property
    def label(self) -> str:
        """The label of the measurement, "FID (digits-cnn)"."""
        return measurement_label(self.measurement)

    @property
    def unit_label(self) -> str:
        """The label of the unit, or "" if the label of the measurement contains it."""
        return unit_label(self.unit, name_label(self.measurement))

    @property
    def heading(self) -> str:
        """The first line of the heading in a table: the label, and an arrow in the better direction, "NLL ↓"."""
        return f"{name_label(self.measurement)}{ARROWS[self.better]}"

    @property
    def subheading(self) -> str:
        """The second line of the heading: network, unit, and the kind unless it is exact, "nats, bound"."""
        details = (network_of(self.measurement), self.unit_label, "" if self.kind == "exact" else self.kind)
        return ", ".join(detail for detail in details if detail)

    @property
    def title(self) -> str:
        """The heading in one line, "NLL (nats, bound) ↓"."""
        details = f" ({self.subheading})" if self.subheading else ""
        return f"{name_label(self.measurement)}{details}{ARROWS[self.better]}"

    @property
    def axis_title(self) -> str:
        """The title of an axis that columns of all kinds share, "NLL (nats) ↓"."""
        return self._replace(kind="exact").title


def order_columns(impls: Mapping[Column, str], metrics: Sequence[str], rank_by: Sequence[str] = ()) -> list[Column]:
    """Return the columns in order: the ranking measurement, then as the suite lists its metrics, exact values first.

    A measurement belongs to the metric whose name, or whose module's name (likelihood of likelihood:L100), its `impl`
    starts with.
    """
    names = [*(metric.rpartition(":")[2] for metric in metrics), *(metric.partition(":")[0] for metric in metrics)]

    def position(column: Column) -> tuple[int, str, int]:
        matches = [i % len(metrics) for i, name in enumerate(names) if impls[column].startswith(name)]
        return (matches[0] if matches else len(metrics), column.measurement, KIND_ORDER.index(column.kind))

    columns = sorted(impls, key=position)
    first = ranking_measurement(columns, rank_by)
    return sorted(columns, key=lambda column: column.measurement != first)


def ranking_measurement(columns: Sequence[Column], rank_by: Sequence[str] = ()) -> str | None:
    """Return the measurement that ranks the rows of a board with `columns`, None if there are no columns.

    It is the first of `rank_by` that was measured, else the first of `RANK_BY`, else the first with a better direction,
    else the first of all. In `rank_by`, fid stands for the FID of any network.
    """
    measured = [column.measurement for column in columns]
    chosen = [key for name in (*rank_by, *RANK_BY.values()) for key in measured if is_named(key, name)]
    directed = [column.measurement for column in columns if column.better]
    return next(iter([*chosen, *directed, *measured]), None)


def is_named(measurement: str, name: str) -> bool:
    """Return whether `name` is that of a measurement, with or without its [network]."""
    return name in (measurement, measurement_name(measurement))
