"""The text above a leaderboard: rules of all tables, suite file, protocol of the rows, hardware."""

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
from genbench.report.board import Board
from genbench.report.marks import LIKELIHOODS
from genbench.suite import Settings, Suite, read_suite, suite_paths

RULES = (
    "Each number is the mean over seeds on the test split; ± is the half-width of its 95 % Student-t interval over"
    " seeds.",
    "Each run counts with its newest successful execution, never with its best.",
    "Rows share a rank unless Welch's t-test over seeds separates them at the 5 % level (not corrected for multiple"
    " comparisons): rank = 1 + the number of significantly better rows, or the rank of a row with a better mean if that"
    " is larger. Rank 1 is bold.",
    "Exact values, bounds and estimates have separate columns and are never ranked together.",
    "Rows marked published are results from papers, each under its own protocol: for orientation, never ranked.",
    "Rows with failed or missing runs are shown but not ranked. Columns measured with one seed are not ranked either;"
    " there (a–b) is the 20th to 80th percentile of repetitions on one machine.",
)

MAX_NAMES = 20  # rows listed by name in a sentence
SuiteKey = tuple[str, int]  # name and version


# ------------------------------------------------------------------------------------------------------ suite files


def suite_files(records: Iterable[Record], folder: Path | None = None) -> dict[SuiteKey, Suite]:
    """Return the suites of `records` by name and version.

    A suite comes from the file saved next to its records under `folder`, or else from suites/ if the file there has the
    same name and version. Suites without a file are absent.
    """
    keys = sorted({(record.run.suite, record.run.version) for record in records}, reverse=True)
    saved = {key: Store(folder).load_suite(*key) if folder else None for key in keys}
    suites = {key: suite or _suite_by_name(*key) for key, suite in saved.items()}
    return {key: suite for key, suite in suites.items() if suite}


def _suite_by_name(name: str, version: int) -> Suite | None:
    path = suite_paths().get(name)  # only by name: a record must not decide which file is read
    try:
        suite = read_suite(path) if path else None
    except UsageError:
        return None
    if suite is None:
        return None
    return suite if (suite.suite, suite.version) == (name, version) else None


# --------------------------------------------------------------------------------------------------------- protocol


def describe_protocol(board: Board) -> str:
    """Return the settings of the rows, "2000 steps, batch 128, adam, lr 0.001, ..."; where rows differ, all values."""
    settings = [_parse_settings(row.settings) for row in board.measured_rows]
    parts = (
        f"{_values(s.steps for s in settings)} steps",
        f"batch {_values(s.batch for s in settings)}",
        f"{_values(s.optimizer.name for s in settings)}, lr {_values(s.optimizer.lr for s in settings)}",
        f"schedule {_values(s.optimizer.schedule for s in settings)}",
        f"{_values(s.precision for s in settings)}",
        describe_weights(board),
        describe_test_points(board),
    )
    return ", ".join(part for part in parts if part)


def describe_weights(board: Board) -> str:
    """Return which weights were evaluated, "best-validation weights", and the rows that differ; "" without training."""
    rows: dict[str, list[str]] = defaultdict(list)
    for row in board.measured_rows:
        rows[row.weights].append(row.name)
    rows.pop("", None)
    if not rows:
        return ""
    usual = max(rows, key=lambda weights: len(rows[weights]))
    others = [f"{weights} weights: {_list_names(names)}" for weights, names in rows.items() if weights != usual]
    return f"{usual} weights{f' ({others[0]})' if others else ''}"


def describe_test_points(board: Board) -> str:
    """Return on how many test points likelihoods that share an axis were measured; "" if all on the same number."""
    for measurements in LIKELIHOODS.values():
        counts: dict[str, set[int]] = defaultdict(set)
        for column, cell in (item for row in board.measured_rows for item in row.cells.items()):
            if column.measurement in measurements:
                counts[column.measurement] |= {line.n for line in cell.lines if line.n is not None}
        if len(set().union(*counts.values())) > 1:
            texts = (f"{name.replace('_', ' ')} of {_values(counts[name])}" for name in measurements if counts[name])
            return f"test points: {', '.join(texts)}"
    return ""


def describe_seeds(board: Board) -> str:
    """Return the number of seeds of the rows: "3 seeds", "1 to 5 seeds"."""
    counts = sorted({len(row.run_ids) for row in board.measured_rows})
    numbers = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{numbers} seed{'s' if counts[-1] != 1 else ''}"


@functools.cache
def _parse_settings(text: str) -> Settings:
    return Settings.model_validate({key: value for key, value in json.loads(text).items() if key != "model"})


def _values(values: Iterable[Any]) -> str:
    return " or ".join(str(value) for value in sorted(set(values)))


def _list_names(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"{'; '.join(names[:MAX_NAMES])}{more}"


# --------------------------------------------------------------------------------------------------------- hardware


def describe_hardware(environment: dict[str, Any]) -> str:
    """Return a machine in one line: GPU or processor, cores, memory, system; "" if nothing is known."""
    chip = environment.get("gpu") or environment.get("processor")
    formats = {"cores": "{} cores", "memory_gib": "{} GiB", "system": "{}", "torch": "torch {}"}
    known = [form.format(environment[key]) for key, form in formats.items() if environment.get(key) is not None]
    return ", ".join([str(chip), *known] if chip else known)


def hardware_by_suite(records: Iterable[Record]) -> dict[SuiteKey, str]:
    """Return by suite and version the sentence that names the machines its records were measured on."""
    environments: dict[SuiteKey, set[tuple[Any, ...]]] = defaultdict(set)
    for record in records:
        environments[record.run.suite, record.run.version].add(tuple(record.environment.items()))
    return {suite: _measured_on(map(dict, several)) for suite, several in environments.items()}


def _measured_on(environments: Iterable[dict[str, Any]]) -> str:
    machines = sorted({describe_hardware(environment) for environment in environments} - {""})
    sentence = f"Measured on {'; '.join(machines) or 'unrecorded hardware'}."
    return f"{sentence} Speeds from different machines are not comparable." if len(machines) > 1 else sentence
