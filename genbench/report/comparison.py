"""Two results side by side: what got better or worse beyond what seeds explain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from genbench.report.cells import BOARD, CELL, cells, labelled, rows
from genbench.report.intervals import Sample, p_value, welch, welch_half_width
from genbench.report.text import number
from genbench.report.tidy import tidy
from genbench.run import Record


def compared(a: Iterable[Record], b: Iterable[Record], alpha: float = 0.05) -> pd.DataFrame:
    """Return one line per cell in both: its means, `difference` b - a, half of its Welch interval, p and `verdict`.

    Verdicts: regressed or improved (p < alpha), same, untested (fewer than two seeds, no better end, other data
    or another version of the metric), and by row, with no measurement, "failed" where b has failures that a has
    not. What only one side holds is left out.
    """
    (rows_a, cells_a), (rows_b, cells_b) = (_folded(records) for records in (a, b))
    both = cells_a.merge(cells_b, on=CELL, suffixes=("_a", "_b"))
    first, second = (Sample(*(both[f"{k}_{side}"].to_numpy(float) for k in ("mean", "std", "n"))) for side in "ab")
    difference, stderr, freedom = welch(first, second)
    both["difference"], both["half"] = difference, welch_half_width(stderr, freedom, 1 - alpha)
    both["p"] = p_value(difference, stderr, freedom)
    both["verdict"] = _verdicts(both, alpha)
    columns = [*CELL, "unit_b", "mean_a", "n_a", "mean_b", "n_b", "difference", "half", "p", "verdict"]
    found = both[columns].rename(columns={"unit_b": "unit"})
    return pd.concat([found, _failed(rows_a, rows_b)], ignore_index=True)


def _folded(records: Iterable[Record]) -> tuple[pd.DataFrame, pd.DataFrame]:
    frame = labelled(tidy(records))
    lines = rows(frame)
    return lines, cells(frame, lines)


def _verdicts(both: pd.DataFrame, alpha: float) -> pd.Series[str]:
    worse = np.where(both["better_b"] == "higher", both["difference"] < 0, both["difference"] > 0)
    testable = both["p"].notna() & both["better_b"].notna() & (both["impl_a"] == both["impl_b"])
    verdicts = pd.Series("improved", both.index, dtype=object).mask(worse, "regressed")
    return verdicts.mask(~(both["p"] < alpha), "same").mask(~testable, "untested")


def _failed(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    both = a.merge(b, on=[*BOARD, "row"], suffixes=("_a", "_b"))
    failed = both[(both["failures_b"] != "") & (both["failures_a"] == "")]
    return failed[[*BOARD, "row"]].assign(measurement=failed["failures_b"], verdict="failed")


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
