"""What stands above a leaderboard: its suite's file, the protocol its rows share, the hardware it was measured on."""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from genbench.errors import UsageError
from genbench.records.record import Record
from genbench.records.store import Store
from genbench.report.axis import LIKELIHOODS
from genbench.report.board import Board
from genbench.suite import Settings, Suite, read_suite, suite_paths

RULES = (
    "Each number is the mean over seeds on the test split; ± is half its 95 % Student-t interval over seeds, the"
    " unit of replication.",
    "Each run's number comes from its newest successful execution, never its best.",
    "Rows share a rank unless Welch's t-test over seeds tells them apart at 5 % (not adjusted for the number of"
    " pairs): rank = 1 + how many rows are significantly better, or the rank of a row with a better mean if that is"
    " larger. Rank 1 is bold.",
    "Exact values, bounds and estimates are columns of their own and never ranked together.",
    "Rows marked published are what papers report, each under a protocol of its own: for orientation, never ranked.",
    "Rows with failed or missing runs are shown and not ranked; so are columns measured with one seed, where (a–b) is"
    " the 20 % to 80 % spread of repetitions on one machine.",
)


NAMED = 20  # rows that a sentence names
Machines = dict[tuple[str, int], str]  # by suite and version the sentence that names them


def suite_files(records: Iterable[Record], folder: Path | None = None) -> dict[tuple[str, int], Suite]:
    """Return by name and version the suites of `records`: from the file kept beside them under `folder`; where none is,
    from the one of that name and version under suites/, if there is one."""
    asked = sorted({(record.run.suite, record.run.version) for record in records}, reverse=True)
    kept = {key: Store(folder).load_suite(*key) if folder else None for key in asked}
    found = {key: suite or _named(*key) for key, suite in kept.items()}
    return {key: suite for key, suite in found.items() if suite}


def _named(name: str, version: int) -> Suite | None:
    path = suite_paths().get(name)  # by name only: a record says what suite it is of, not which file is read
    try:
        suite = read_suite(path) if path else None
    except UsageError:
        return None
    if suite is None:
        return None
    return suite if (suite.suite, suite.version) == (name, version) else None


def protocol(board: Board) -> str:
    """Return what rows share ("2000 steps, batch 128, adam, lr 0.001, ..."), and all there is where they differ."""
    said = [_settings(row.settings) for row in board.measured]
    parts = (
        f"{_shared(s.steps for s in said)} steps",
        f"batch {_shared(s.batch for s in said)}",
        f"{_shared(s.optimizer.name for s in said)}, lr {_shared(s.optimizer.lr for s in said)}",
        f"schedule {_shared(s.optimizer.schedule for s in said)}",
        f"{_shared(s.precision for s in said)}",
        weights(board),
        points(board),
    )
    return ", ".join(part for part in parts if part)


def weights(board: Board) -> str:
    """Return which weights were measured: "best-validation weights", and of which rows others; "" of no training."""
    rows: dict[str, list[str]] = defaultdict(list)
    for row in board.measured:
        rows[row.weights].append(row.name)
    rows.pop("", None)
    if not rows:
        return ""
    usual = max(rows, key=lambda name: len(rows[name]))
    others = [f"{name} weights: {_listed(names)}" for name, names in rows.items() if name != usual]
    return f"{usual} weights{f' ({others[0]})' if others else ''}"


def points(board: Board) -> str:
    """Return of how many test points likelihoods are that share an axis, where they are not of the same."""
    for alike in LIKELIHOODS.values():
        numbers: dict[str, set[int]] = defaultdict(set)
        for column, cell in (item for row in board.measured for item in row.cells.items()):
            if column.measurement in alike:
                numbers[column.measurement] |= {seed.n for seed in cell.seeds if seed.n is not None}
        if len(set().union(*numbers.values())) > 1:
            counts = (f"{name.replace('_', ' ')} of {_shared(numbers[name])}" for name in alike if numbers[name])
            return f"test points: {', '.join(counts)}"
    return ""


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{'; '.join(names[:NAMED])}{more}"


@functools.cache
def _settings(text: str) -> Settings:
    return Settings.model_validate({key: value for key, value in json.loads(text).items() if key != "model"})


def _shared(values: Iterable[Any]) -> str:
    return " or ".join(str(value) for value in sorted(set(values)))


def seeds(board: Board) -> str:
    """Return how many seeds rows have: "3 seeds", "1 to 5 seeds"."""
    counts = sorted({len(row.ids) for row in board.measured})
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{many} seed{'s' if counts[-1] != 1 else ''}"


def hardware(environment: dict[str, Any]) -> str:
    """Return the machine in a line: its GPU or processor, cores, memory, system; "" where nothing is known."""
    chip = environment.get("gpu") or environment.get("processor")
    sizes = {"cores": "{} cores", "memory_gib": "{} GiB", "system": "{}", "torch": "torch {}"}
    known = [form.format(environment[key]) for key, form in sizes.items() if environment.get(key) is not None]
    return ", ".join([str(chip), *known] if chip else known)


def measured_on(records: Iterable[Record]) -> Machines:
    """Return by suite and version the sentence that names the machines on which its records were made."""
    environments: dict[tuple[str, int], set[tuple[Any, ...]]] = defaultdict(set)
    for record in records:
        environments[record.run.suite, record.run.version].add(tuple(record.environment.items()))
    return {suite: _measured_on(map(dict, several)) for suite, several in environments.items()}


def _measured_on(environments: Iterable[dict[str, Any]]) -> str:
    machines = sorted({hardware(environment) for environment in environments} - {""})
    said = f"Measured on {'; '.join(machines) or 'hardware that is not recorded'}."
    return f"{said} Speeds from different machines are not comparable." if len(machines) > 1 else said
