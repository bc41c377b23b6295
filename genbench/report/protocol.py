"""The text above a leaderboard: rules of all tables, protocol of the rows, hardware."""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from genbench.records.record import Record
from genbench.report.aggregate import SuiteKey
from genbench.report.board import Board
from genbench.report.labels import measurement_label
from genbench.report.marks import LIKELIHOODS
from genbench.suite import Settings

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
            texts = (f"{_values(counts[key])} for {measurement_label(key)}" for key in measurements if counts[key])
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
