"""Two results side by side: what got better or worse beyond what seeds explain, and what could not be compared."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from genbench.console import printable
from genbench.records.record import Record
from genbench.report.board import Column
from genbench.report.cells import Fold, Key, cells, failed_runs, failures, rows, sample_of
from genbench.report.intervals import p_value, welch, welch_half_width
from genbench.report.text import number
from genbench.report.tidy import Line, by_run, lines

COLUMNS = (
    *("suite", "version", "data", "row", "measurement", "kind", "unit"),
    *("mean_a", "n_a", "mean_b", "n_b", "difference", "half", "p", "verdict", "reason"),
)
WORSE = ("regressed", "failed", "invalid")
UNCOMPARED = ("untested", "missing")
SHOWN = {"regressed": "red", "failed": "red", "invalid": "red", "improved": "green", "changed": "yellow"} | {
    "slower": "yellow",
    "faster": "yellow",
}
NAMED = 4  # rows that are named for each reason not to compare


class Outcome(NamedTuple):
    """How many cells of the first side were compared, how many were not, and how many got worse."""

    compared: int
    uncompared: int
    worse: int


class Pair(NamedTuple):
    """A cell of the first side with a value, and the one of the second that it is compared with."""

    key: Key
    a: Fold
    b: Fold | None


def compared(a: Iterable[Record], b: Iterable[Record], alpha: float = 0.05) -> pd.DataFrame:
    """Return one line per cell of `a` that has a value: means, `difference` b - a, half of its Welch interval, p,
    `verdict` and `reason`.

    Verdicts of cells that were compared:

    - regressed, improved, same: p < alpha or not; same, too, where both sides hold the same numbers, seed by seed.
    - changed: p < alpha, of a measurement without a better end.
    - slower, faster, same: of one seed, whether the 20 % to 80 % of a timing's repetitions lie apart.

    Of others:

    - invalid: b's value cannot be true, and a's may.
    - untested, missing: `reason` is why.

    And for a row, with no unit: failed, where b has more failed runs; missing, where neither side has any value.
    """
    first, second = (rows(lines(by_run(records))) for records in (a, b))
    partner = _partners(first, second)
    before, after = cells(first), cells(second)
    pairs = [
        Pair(key, fold, after[partner[key]].get(fold.column) if key in partner else None)
        for key, folds in before.items()
        for fold in folds.values()
        if fold.n
    ]
    table = [*_tested(pairs, alpha), *_failed(first, second, partner)]
    table += [_row(key, "", "missing", _missing(key, first)) for key in first if key not in partner and not before[key]]
    return pd.DataFrame(table, columns=COLUMNS)


def _partners(first: Mapping[Key, Sequence[Line]], second: Mapping[Key, Sequence[Line]]) -> dict[Key, Key]:
    """Return by row of the first side that of the second: of the same label, else of the same name and settings."""
    protocols = {_protocol(key, row_lines): key for key, row_lines in second.items()}
    partners = {
        key: key if key in second else protocols.get(_protocol(key, row_lines)) for key, row_lines in first.items()
    }
    return {key: other for key, other in partners.items() if other}


def _protocol(key: Key, row_lines: Sequence[Line]) -> tuple[Any, ...]:
    return (*key[:3], row_lines[-1].name, row_lines[-1].settings)


# ----------------------------------------------------------------------------------------------------- cells


def _tested(pairs: Sequence[Pair], alpha: float) -> Iterator[tuple[Any, ...]]:
    both = [(a, b) for _, a, b in pairs if b]
    difference, stderr, freedom = welch(sample_of([a for a, _ in both]), sample_of([b for _, b in both]))
    half, p = welch_half_width(stderr, freedom, 1 - alpha), p_value(difference, stderr, freedom)
    tests = iter(zip(difference.tolist(), half.tolist(), p.tolist(), strict=True))
    for key, a, b in pairs:
        if b is None:
            yield _line(key, a, None, (math.nan,) * 3, "missing", "missing in B")
        else:
            test = next(tests)
            yield _line(key, a, b, test, *_verdict(a, b, test[0], test[2], alpha))


def _verdict(a: Fold, b: Fold, difference: float, p: float, alpha: float) -> tuple[str, str]:
    """Return the verdict on a cell, and why it could not be tested."""
    if _single_values(a) == _single_values(b):
        return "same", ""
    if b.invalid and not a.invalid:
        return "invalid", ""
    if why := _untested(a, b):
        return "untested", why
    if a.n < 2 or b.n < 2:
        return _by_repetitions(a, b)
    if math.isnan(p):
        return "untested", "too large to test"
    if p >= alpha:
        return "same", ""
    return ("changed" if b.column.better is None else "regressed" if _worse(b.column, difference) else "improved"), ""


def _untested(a: Fold, b: Fold) -> str:
    """Return why two cells, of other numbers, are no pair for a test; "" if they are."""
    if not b.n:
        return "without a value in B"
    if a.invalid:
        return "invalid in A"
    if not (a.alike and b.alike):
        return "of seeds that were measured by different versions of the metric, or on different data"
    if a.impl != b.impl:
        ours, theirs = a.lines[0], b.lines[0]
        if ours.impl == theirs.impl:
            return "on different data"
        return f"by different versions of the metric ({ours.impl!r} and {theirs.impl!r})"
    return ""


def _by_repetitions(a: Fold, b: Fold) -> tuple[str, str]:
    """Return whether a timing of one seed is slower or faster than the spread of repetitions, of which it has some."""
    x, y = (_spread(fold) for fold in (a, b))
    if x is None or y is None:
        return "untested", "of one seed, which says nothing of what seeds explain"
    if y[0] <= x[1] and x[0] <= y[1]:
        return "same", ""
    return ("slower" if _worse(b.column, y[0] - x[0]) else "faster"), ""


def _spread(fold: Fold) -> tuple[float, float] | None:
    line = next(line for line in fold.lines if line.value is not None)
    return (line.p20, line.p80) if fold.n == 1 and line.p20 is not None and line.p80 is not None else None


def _worse(column: Column, difference: float) -> bool:
    return difference < 0 if column.better == "higher" else difference > 0


def _single_values(fold: Fold) -> list[tuple[Any, ...]]:
    return [(line.seed, line.value, line.verdict, line.impl, line.data_sha256) for line in fold.lines]


def _line(
    key: Key, a: Fold, b: Fold | None, test: tuple[float, float, float], verdict: str, why: str
) -> tuple[Any, ...]:
    second = (b.mean, b.n) if b else (None, 0)
    return (*key, *a.column[:3], a.mean, a.n, *second, *test, verdict, why)


# ------------------------------------------------------------------------------------------------------ rows


def _failed(
    first: Mapping[Key, Sequence[Line]], second: Mapping[Key, Sequence[Line]], partner: Mapping[Key, Key]
) -> Iterator[tuple[Any, ...]]:
    for key, other in partner.items():
        if failed_runs(second[other]) > failed_runs(first[key]):
            yield _row(key, failures(second[other]), "failed", "")


def _missing(key: Key, first: Mapping[Key, Sequence[Line]]) -> str:
    return f"missing in B ({failures(first[key]) or 'without a value'} in A)"


def _row(key: Key, measurement: str, verdict: str, why: str) -> tuple[Any, ...]:
    return (*key, measurement, *(None,) * (len(COLUMNS) - len(key) - 3), verdict, why)


# --------------------------------------------------------------------------------------------------- in words


def outcome(comparison: pd.DataFrame) -> Outcome:
    """Return how many cells of `compared` were compared, were not, and are worse (failed rows among them)."""
    left = int(comparison["verdict"].isin(UNCOMPARED).sum())
    return Outcome(int((comparison["verdict"] != "failed").sum()) - left, left, len(regressions(comparison)))


def regressions(comparison: pd.DataFrame) -> pd.DataFrame:
    """Return the lines of `compared` that are worse: regressed, failed, or invalid now."""
    return comparison[comparison["verdict"].isin(WORSE)]


def print_comparison(comparison: pd.DataFrame, console: Console) -> None:
    """Print how many cells have which verdict, those that changed, and in one line what was not compared and why."""
    counts = comparison["verdict"].value_counts()
    total = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    console.print(total if outcome(comparison).compared else f"nothing was compared{f': {total}' if total else ''}")
    changed = comparison[comparison["verdict"].isin(SHOWN)]
    table = Table("verdict", "suite", "data", "model", "measurement", "before", "after", "difference", box=None)
    for line in changed.to_dict("records"):
        texts = [line["verdict"], line["suite"], line["data"], line["row"], line["measurement"]]
        numbers = [] if line["verdict"] == "failed" else _numbers(line)
        table.add_row(*(Text(printable(text)) for text in [*texts, *numbers]), style=SHOWN[line["verdict"]])
    if len(changed):
        console.print(table)
    if uncompared := not_compared(comparison):
        console.print(printable(uncompared), markup=False, highlight=False, soft_wrap=True)


def not_compared(comparison: pd.DataFrame) -> str:
    """Return one line that names the cells that were not compared, by reason; "" if there are none."""
    reasons: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for line in comparison[comparison["verdict"].isin(UNCOMPARED)].to_dict("records"):
        row = f"{line['suite']} v{line['version']} / {line['data']} / {line['row']}"
        reasons[line["reason"]][row].append(line["measurement"])
    text = "; ".join(f"{sum(map(len, named.values()))} {why}: {_names(named)}" for why, named in reasons.items())
    return f"not compared: {text}" if text else ""


def _names(named: Mapping[str, Sequence[str]]) -> str:
    some = [
        f"{row} ({', '.join([*cells[:NAMED], *(['...'] if len(cells) > NAMED else [])])})" if any(cells) else row
        for row, cells in list(named.items())[:NAMED]
    ]
    more = [f"and {len(named) - NAMED} more rows"] if len(named) > NAMED else []
    return ", ".join([*some, *more])


def _numbers(line: Mapping[Any, Any]) -> list[str]:
    unit, half = str(line["unit"]), line["half"]
    texts = [_number(line[key], unit, half) for key in ("mean_a", "mean_b")]
    if math.isnan(half):
        return texts
    return [*texts, f"{number(line['difference'], unit, half)} ± {number(half, unit, half)}"]


def _number(value: float, unit: str, half: float) -> str:
    return number(value, unit, None if math.isnan(half) else half)
