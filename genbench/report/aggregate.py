"""Aggregation over seeds: lines -> rows and columns, with intervals, completeness and ranks.

A row is a model name within (suite, version, data). A column is a measurement of one kind, in one unit: exact values,
bounds and estimates never share one. For each row and column there is one aggregate over the seeds of the row.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genbench.report.columns import Column
from genbench.report.intervals import Sample, half_width, ranks
from genbench.report.tidy import Line

INVALID = "invalid"  # the verdict on an impossible value

SuiteKey = tuple[str, int]  # name and version
BoardKey = tuple[str, int, str]  # suite, version, data
RowKey = tuple[str, int, str, str]  # suite, version, data, label of the row


@dataclass(slots=True)
class Aggregate:
    """Statistics of one column over the seeds of a row.

    Attributes:
        lines: one per seed, ordered by seed.
        newest_execution: the newest execution among the lines.
        impl: metric version and data of that execution; `same_impl` is whether all seeds share it.
        std: with n - 1 in the denominator; None if n < 2, like `half_width`, of the 95 % t-interval.
        stderr: standard error of the test set: root mean square over seeds.
        has_failures: whether a run of the row failed.
        n_invalid: number of seeds with an impossible value.
        unranked_reason: why there is no rank, or "".
    """

    lines: list[Line]
    column: Column
    newest_execution: str
    impl: str
    same_impl: bool
    n: int
    mean: float | None
    std: float | None
    stderr: float | None
    has_failures: bool
    n_invalid: int
    half_width: float | None = None
    rank: int | None = None
    unranked_reason: str = ""


# ---------------------------------------------------------------------------------------------------------- rows


def group_rows(lines: Iterable[Line]) -> dict[RowKey, list[Line]]:
    """Return the lines of each row.

    The label of a row is its name. If one name covers several protocols (``--set`` was used, or the suite changed
    within a version), the label also lists the settings that differ.
    """
    lines = list(lines)
    settings: dict[RowKey, set[str]] = defaultdict(set)
    for line in lines:
        settings[line.suite, line.version, line.data, line.name].add(line.settings)
    differences = {key: _differing_settings(texts) for key, texts in settings.items() if len(texts) > 1}
    rows: dict[RowKey, list[Line]] = defaultdict(list)
    for line in lines:
        key = (line.suite, line.version, line.data, line.name)
        label = line.name + differences[key][line.settings] if key in differences else line.name
        rows[*key[:3], label].append(line)
    return rows


def _differing_settings(settings: Iterable[str]) -> dict[str, str]:
    """Return by JSON text of settings " (steps=10, batch=64)": the settings in which the texts differ."""
    flat = {text: _flatten(json.loads(text)) for text in sorted(settings)}
    keys = sorted({key for values in flat.values() for key in values})
    differ = [key for key in keys if len({str(values.get(key)) for values in flat.values()}) > 1]
    described = {text: [f"{key}={values.get(key, 'default')}" for key in differ] for text, values in flat.items()}
    return {text: f" ({', '.join(parts)})" for text, parts in described.items()}


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def describe_failures(lines: Sequence[Line]) -> str:
    """Return "diverged 1/3" for the runs of a row without any successful execution; "" if there are none."""
    ok = {line.id for line in lines if line.status == "ok"}
    return _format_counts(lines, {(line.status, line.id) for line in lines if line.id not in ok})


def count_failed_runs(lines: Sequence[Line]) -> int:
    """Return the number of runs of a row without any successful execution."""
    return len({line.id for line in lines} - {line.id for line in lines if line.status == "ok"})


def describe_later_failures(lines: Sequence[Line]) -> str:
    """Return "timeout 1/3" for the successful runs of a row that failed when executed again for more metrics."""
    ok = {line.id for line in lines if line.status == "ok"}
    return _format_counts(lines, {(line.status, line.id) for line in lines if line.status != "ok" and line.id in ok})


def describe_verdicts(lines: Sequence[Line]) -> str:
    """Return "collapsed 1/3" for the verdicts that metrics gave the runs of a row; "" if there are none."""
    return _format_counts(lines, {(line.verdict, line.id) for line in lines if line.verdict is not None})


def _format_counts(lines: Sequence[Line], text_and_run: Iterable[tuple[str, str]]) -> str:
    if not text_and_run:
        return ""
    runs, counts = len({line.id for line in lines}), Counter(text for text, _ in text_and_run)
    return ", ".join(f"{text} {count}/{runs}" for text, count in sorted(counts.items()))


# ----------------------------------------------------------------------------------------------- over the seeds


def aggregate_seeds(rows: Mapping[RowKey, Sequence[Line]]) -> dict[RowKey, dict[Column, Aggregate]]:
    """Return the aggregate of each row and column, with ranks within each column of a board."""
    by_row: dict[RowKey, dict[Column, Aggregate]] = {}
    by_column: dict[tuple[BoardKey, Column], list[Aggregate]] = defaultdict(list)
    for key, lines in rows.items():
        groups: dict[Any, list[Line]] = defaultdict(list)
        for line in lines:
            if line.measurement is not None:
                groups[line.measurement, line.kind, line.unit, line.better].append(line)
        has_failures = count_failed_runs(lines) > 0
        by_row[key] = {
            (column := Column(*fields)): _aggregate(column, group, has_failures) for fields, group in groups.items()
        }
        for column, aggregate in by_row[key].items():
            by_column[key[:3], column].append(aggregate)
    for aggregates in by_column.values():
        _add_intervals_and_ranks(aggregates)
    return by_row


def _aggregate(column: Column, lines: list[Line], has_failures: bool) -> Aggregate:
    lines = sorted(lines, key=lambda line: line.seed)
    newest = max(lines, key=lambda line: line.execution)
    values = [line.value for line in lines if line.value is not None]
    mean, std = _mean_and_std(values)
    return Aggregate(
        lines=lines,
        column=column,
        newest_execution=newest.execution,
        impl=_impl_and_data(newest),
        same_impl=len({_impl_and_data(line) for line in lines}) == 1,
        n=len(values),
        mean=mean,
        std=std,
        stderr=_root_mean_square([line.stderr for line in lines if line.stderr is not None]),
        has_failures=has_failures,
        n_invalid=sum(line.verdict == INVALID for line in lines),
    )


def _impl_and_data(line: Line) -> str:
    return f"{line.impl} {line.data_sha256 or ''}"


def _mean_and_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return mean and standard deviation, None if undefined; exactly x and 0 if all values are x."""
    if not values:
        return None, None
    power, scaled = _rescale(values)
    mean = scaled[0] + math.fsum(value - scaled[0] for value in scaled) / len(scaled)
    mean = min(max(mean, min(scaled)), max(scaled))  # rounding must not leave the range, or overflow
    squares = math.fsum((value - mean) ** 2 for value in scaled)
    std = _ldexp(math.sqrt(squares / (len(scaled) - 1)), power) if len(scaled) > 1 else None
    return _ldexp(mean, power), std


def _root_mean_square(values: Sequence[float]) -> float | None:
    """Return sqrt(mean(x^2)), None if there are no values."""
    if not values:
        return None
    power, scaled = _rescale(values)
    return _ldexp(math.sqrt(math.fsum(value**2 for value in scaled) / len(scaled)), power)


def _rescale(values: Sequence[float]) -> tuple[int, list[float]]:
    """Return k and x / 2^k, whose squares neither over- nor underflow; scaling by 2^k changes no other bit."""
    largest = max(map(abs, values))
    if 1e-100 < largest < 1e100:
        return 0, list(values)
    power = math.frexp(largest)[1]
    return power, [math.ldexp(value, -power) for value in values]


def _ldexp(value: float, power: int) -> float:
    """Return x 2^k, or infinity if that overflows."""
    try:
        return math.ldexp(value, power)
    except OverflowError:
        return math.inf


# --------------------------------------------------------------------------------------------- ranks in a column


def _add_intervals_and_ranks(aggregates: Sequence[Aggregate]) -> None:
    """Set the intervals of the aggregates of one column, and their ranks or the first reason why there is none."""
    valid = [aggregate for aggregate in aggregates if not aggregate.n_invalid] or aggregates
    newest_impl = max(valid, key=lambda aggregate: aggregate.newest_execution).impl
    common_seeds = _common_seeds(valid)
    for aggregate in aggregates:
        aggregate.unranked_reason = _why_unranked(aggregate, newest_impl, common_seeds)
    several = [aggregate for aggregate in aggregates if aggregate.n > 1]
    sample = sample_of(several)
    for aggregate, half in zip(several, half_width(sample.std, sample.n).tolist(), strict=True):
        aggregate.half_width = half
    ranked = [aggregate for aggregate in aggregates if not aggregate.unranked_reason]
    if ranked:
        better = ranked[0].column.better or "lower"
        for aggregate, rank in zip(ranked, ranks(sample_of(ranked), better).tolist(), strict=True):
            aggregate.rank = rank


def _common_seeds(aggregates: Sequence[Aggregate]) -> set[int]:
    """Return the seeds that more than half of the rows of a column have."""
    seeds = Counter(line.seed for aggregate in aggregates for line in aggregate.lines if line.value is not None)
    rows = sum(aggregate.n > 0 for aggregate in aggregates)
    return {seed for seed, count in seeds.items() if 2 * count > rows}


def _why_unranked(aggregate: Aggregate, newest_impl: str, common_seeds: set[int]) -> str:
    if aggregate.column.better is None:
        return "neither lower nor higher is better"
    if not aggregate.n:
        return "no value"
    if aggregate.n_invalid:
        return f"{INVALID}: a seed has an impossible value"
    if aggregate.has_failures:
        return "incomplete: a run failed"
    if not common_seeds <= {line.seed for line in aggregate.lines if line.value is not None}:
        return "incomplete: a seed is missing"
    if aggregate.impl != newest_impl or not aggregate.same_impl:
        return "measured with another version of the metric, or on other data"
    return "one seed only: significance cannot be tested" if aggregate.n < 2 else ""


def sample_of(aggregates: Sequence[Aggregate]) -> Sample:
    """Return means, standard deviations and numbers of seeds, nan where undefined."""
    return Sample(*(np.array([getattr(aggregate, key) for aggregate in aggregates], float) for key in Sample._fields))
