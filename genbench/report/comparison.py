"""Two results side by side: what got better or worse beyond what seeds explain."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from genbench.report.cells import Fold, Key, cells, failures, rows, sample_of
from genbench.report.intervals import p_value, welch, welch_half_width
from genbench.report.text import number
from genbench.report.tidy import by_run, lines
from genbench.run import Record

COLUMNS = (
    *("suite", "version", "data", "row", "measurement", "kind", "unit"),
    *("mean_a", "n_a", "mean_b", "n_b", "difference", "half", "p", "verdict"),
)


def compared(a: Iterable[Record], b: Iterable[Record], alpha: float = 0.05) -> pd.DataFrame:
    """Return one line per cell in both: its means, `difference` b - a, half of its Welch interval, p and `verdict`.

    Verdicts: regressed or improved (p < alpha), same, untested (fewer than two seeds, no better end, other data
    or another version of the metric), and by row, with no measurement, "failed" where b has failures that a has
    not. What only one side holds is left out.
    """
    first, second = (rows(lines(by_run(records))) for records in (a, b))
    shared = [key for key in first if key in second]
    before, after = cells(first), cells(second)
    both = [(key, x, after[key][x.column]) for key in shared for x in before[key].values() if x.column in after[key]]
    difference, stderr, freedom = welch(*(sample_of(side) for side in ([x for _, x, _ in both], [y for *_, y in both])))
    half, p = welch_half_width(stderr, freedom, 1 - alpha), p_value(difference, stderr, freedom)
    tested = zip(both, difference.tolist(), half.tolist(), p.tolist(), strict=True)
    found = [_line(*pair, d, h, p, _verdict(*pair[1:], d, p, alpha)) for pair, d, h, p in tested]
    failed = [(key, failures(second[key])) for key in shared if failures(second[key]) and not failures(first[key])]
    return pd.DataFrame([*found, *(_failed(key, said) for key, said in failed)], columns=COLUMNS)


def _line(key: Key, a: Fold, b: Fold, difference: float, half: float, p: float, verdict: str) -> tuple[Any, ...]:
    column = (b.column.measurement, b.column.kind, b.column.unit)
    return (*key, *column, a.mean, a.n, b.mean, b.n, difference, half, p, verdict)


def _failed(key: Key, said: str) -> tuple[Any, ...]:
    return (*key, said, *(None,) * (len(COLUMNS) - len(key) - 2), "failed")


def _verdict(a: Fold, b: Fold, difference: float, p: float, alpha: float) -> str:
    if math.isnan(p) or b.column.better is None or a.impl != b.impl:
        return "untested"
    worse = difference < 0 if b.column.better == "higher" else difference > 0
    return "same" if p >= alpha else "regressed" if worse else "improved"


def regressions(found: pd.DataFrame) -> pd.DataFrame:
    """Return the lines of `compared` that are worse: regressed or failed."""
    return found[found["verdict"].isin(["regressed", "failed"])]


def print_comparison(found: pd.DataFrame, console: Console) -> None:
    """Print how many cells have which verdict, and those that changed."""
    counts = found["verdict"].value_counts()
    console.print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "nothing in common")
    changed = found[found["verdict"].isin(["regressed", "improved", "failed"])]
    table = Table("verdict", "suite", "data", "model", "measurement", "before", "after", "difference", box=None)
    for line in changed.to_dict("records"):
        style = "green" if line["verdict"] == "improved" else "red"
        texts = [line["verdict"], line["suite"], line["data"], line["row"], line["measurement"]]
        numbers = [] if line["verdict"] == "failed" else _numbers(line)
        table.add_row(*map(escape, [*texts, *numbers]), style=style)
    if len(changed):
        console.print(table)


def _numbers(line: dict[Any, Any]) -> list[str]:
    unit, half = str(line["unit"]), line["half"]
    change = f"{number(line['difference'], unit, half)} ± {number(half, unit, half)}"
    return [number(line["mean_a"], unit, half), number(line["mean_b"], unit, half), change]
