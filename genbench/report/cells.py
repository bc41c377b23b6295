"""The fold over seeds: lines -> rows and cells, with intervals, completeness and ranks.

A row is a name within (suite, version, data). A column is a measurement of one kind, in one unit: exact values, bounds
and estimates never share one. A cell is where they meet: mean and interval over the seeds of the row.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genbench.report.board import INVALID, Column
from genbench.report.intervals import Sample, half_width, ranks
from genbench.report.tidy import Line

Place = tuple[str, int, str]  # of a board: suite, version, data
Key = tuple[str, int, str, str]  # of a row: the place of its board, and its label


@dataclass(slots=True)
class Fold:
    """What the seeds of a row gave a column.

    Attributes:
        lines: one for each seed, in the order of the seeds.
        execution: the newest of them.
        impl: by what it was measured there, and on which data; `alike` is whether all seeds were.
        std: with n - 1 in the denominator; None where n < 2, as `half`, of the t-interval at 95 %.
        stderr: of the test set: root mean square over seeds.
        failed: whether a run of the row did.
        invalid: seeds whose value cannot be true.
        unranked: why it has no rank, or "".
    """

    lines: list[Line]
    column: Column
    execution: str
    impl: str
    alike: bool
    n: int
    mean: float | None
    std: float | None
    stderr: float | None
    failed: bool
    invalid: int
    half: float | None = None
    rank: int | None = None
    unranked: str = ""


# ---------------------------------------------------------------------------------------------------------- rows


def rows(lines: Iterable[Line]) -> dict[Key, list[Line]]:
    """Return the lines of each row. A row is labelled by its name and, where one name stands for several protocols
    (``--set`` was used, or the suite changed under one version), also by the settings in which they differ."""
    lines = list(lines)
    settings: dict[Key, set[str]] = defaultdict(set)
    for line in lines:
        settings[line.suite, line.version, line.data, line.name].add(line.settings)
    differences = {key: _differences(texts) for key, texts in settings.items() if len(texts) > 1}
    found: dict[Key, list[Line]] = defaultdict(list)
    for line in lines:
        key = (line.suite, line.version, line.data, line.name)
        label = line.name + differences[key][line.settings] if key in differences else line.name
        found[*key[:3], label].append(line)
    return found


def _differences(settings: Iterable[str]) -> dict[str, str]:
    flat = {text: _flat(json.loads(text)) for text in sorted(settings)}
    keys = sorted({key for said in flat.values() for key in said})
    differ = [key for key in keys if len({str(said.get(key)) for said in flat.values()}) > 1]
    described = {text: [f"{key}={said.get(key, 'default')}" for key in differ] for text, said in flat.items()}
    return {text: f" ({', '.join(parts)})" for text, parts in described.items()}


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def failures(lines: Sequence[Line]) -> str:
    """Return "diverged 1/3" of the lines of a row: its runs without any ok execution; or ""."""
    ok = {line.id for line in lines if line.status == "ok"}
    return _counted(lines, {(line.status, line.id) for line in lines if line.id not in ok})


def failed_runs(lines: Sequence[Line]) -> int:
    """Return how many runs of a row have no ok execution."""
    return len({line.id for line in lines} - {line.id for line in lines if line.status == "ok"})


def later(lines: Sequence[Line]) -> str:
    """Return, as `failures` does, the ok runs of a row that failed when they were executed again for more."""
    ok = {line.id for line in lines if line.status == "ok"}
    return _counted(lines, {(line.status, line.id) for line in lines if line.status != "ok" and line.id in ok})


def verdicts(lines: Sequence[Line]) -> str:
    """Return "collapsed 1/3" of the lines of a row: what measurements say of its runs; or ""."""
    return _counted(lines, {(line.verdict, line.id) for line in lines if line.verdict is not None})


def _counted(lines: Sequence[Line], said: Iterable[tuple[str, str]]) -> str:
    if not said:
        return ""
    runs, counts = len({line.id for line in lines}), Counter(text for text, _ in said)
    return ", ".join(f"{text} {count}/{runs}" for text, count in sorted(counts.items()))


# --------------------------------------------------------------------------------------------------------- cells


def cells(rows: Mapping[Key, Sequence[Line]]) -> dict[Key, dict[Column, Fold]]:
    """Return by row and column what the seeds gave, with ranks within each column of a board."""
    found: dict[Key, dict[Column, Fold]] = {}
    columns: dict[tuple[Place, Column], list[Fold]] = defaultdict(list)
    for key, lines in rows.items():
        held: dict[Any, list[Line]] = defaultdict(list)
        for line in lines:
            if line.measurement is not None:
                held[line.measurement, line.kind, line.unit, line.better].append(line)
        failed = failures(lines) != ""
        found[key] = {fold.column: fold for fold in (_folded(Column(*said), held[said], failed) for said in held)}
        for column, fold in found[key].items():
            columns[key[:3], column].append(fold)
    for folds in columns.values():
        _complete(folds)
    return found


def _folded(column: Column, lines: list[Line], failed: bool) -> Fold:
    lines = sorted(lines, key=lambda line: line.seed)
    last = max(lines, key=lambda line: line.execution)
    values = [line.value for line in lines if line.value is not None]
    mean, std = _moments(values)
    return Fold(
        lines=lines,
        column=column,
        execution=last.execution,
        impl=_by(last),
        alike=len({_by(line) for line in lines}) == 1,
        n=len(values),
        mean=mean,
        std=std,
        stderr=_root_mean_square([line.stderr for line in lines if line.stderr is not None]),
        failed=failed,
        invalid=sum(line.verdict == INVALID for line in lines),
    )


def _moments(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return mean and standard deviation, None where there is none; exactly x and 0 of values that are all x."""
    if not values:
        return None, None
    power, scaled = _scaled(values)
    mean = scaled[0] + math.fsum(value - scaled[0] for value in scaled) / len(scaled)
    mean = min(max(mean, min(scaled)), max(scaled))  # rounding may not lead outside: the largest float would overflow
    squares = math.fsum((value - mean) ** 2 for value in scaled)
    std = _times_power(math.sqrt(squares / (len(scaled) - 1)), power) if len(scaled) > 1 else None
    return _times_power(mean, power), std


def _root_mean_square(values: Sequence[float]) -> float | None:
    """Return sqrt(mean(x^2)), None of no values."""
    if not values:
        return None
    power, scaled = _scaled(values)
    return _times_power(math.sqrt(math.fsum(value**2 for value in scaled) / len(scaled)), power)


def _scaled(values: Sequence[float]) -> tuple[int, list[float]]:
    """Return k and x / 2^k, whose squares neither over- nor underflow; no other bit of a sum or square changes."""
    largest = max(map(abs, values))
    if 1e-100 < largest < 1e100:
        return 0, list(values)
    power = math.frexp(largest)[1]
    return power, [math.ldexp(value, -power) for value in values]


def _times_power(value: float, power: int) -> float:
    """Return x 2^k, infinite where no float is as large."""
    try:
        return math.ldexp(value, power)
    except OverflowError:
        return math.inf


def _by(line: Line) -> str:
    return f"{line.impl} {line.data_sha256 or ''}"


def _complete(folds: Sequence[Fold]) -> None:
    """Give the cells of a column their intervals, and ranks or the first reason for which there is none."""
    valid = [fold for fold in folds if not fold.invalid] or folds
    now = max(valid, key=lambda fold: fold.execution).impl
    usual = _usual(valid)
    for fold in folds:
        fold.unranked = _unranked(fold, now, usual)
    several = [fold for fold in folds if fold.n > 1]
    sample = sample_of(several)
    for fold, half in zip(several, half_width(sample.std, sample.n).tolist(), strict=True):
        fold.half = half
    ranked = [fold for fold in folds if not fold.unranked]
    if ranked:
        better = ranked[0].column.better or "lower"
        for fold, rank in zip(ranked, ranks(sample_of(ranked), better).tolist(), strict=True):
            fold.rank = rank


def _usual(folds: Sequence[Fold]) -> set[int]:
    """Return the seeds that more than half of the rows in a column have."""
    seeds = Counter(line.seed for fold in folds for line in fold.lines if line.value is not None)
    rows = sum(fold.n > 0 for fold in folds)
    return {seed for seed, count in seeds.items() if 2 * count > rows}


def _unranked(fold: Fold, now: str, usual: set[int]) -> str:
    if fold.column.better is None:
        return "has no better or worse"
    if not fold.n:
        return "has no value"
    if fold.invalid:
        return f"{INVALID}: the value of a seed cannot be true"
    if fold.failed:
        return "incomplete: a run failed"
    if not usual <= {line.seed for line in fold.lines if line.value is not None}:
        return "incomplete: a seed is missing"
    if fold.impl != now or not fold.alike:
        return "measured by another version of the metric, or on other data"
    return "one seed: nothing to test over" if fold.n < 2 else ""


def sample_of(folds: Sequence[Fold]) -> Sample:
    """Return means, standard deviations and numbers of seeds of cells, nan for what there is not."""
    return Sample(*(np.array([getattr(fold, key) for fold in folds], float) for key in Sample._fields))
