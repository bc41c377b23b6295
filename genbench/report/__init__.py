"""Records -> tables, figures, page, exports. Heavy libraries are imported only when a function needs them."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genbench.records.record import Record

if TYPE_CHECKING:
    from rich.console import Console

    from genbench.report.comparison import ComparisonCounts

__all__ = ["compare", "gc_paused", "leaderboard", "show", "write"]

MAX_PLOTS = 12  # default; boards with the newest records come first, and ten plots take a second


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the garbage collector, which would scan thousands of live records again and again.

    Afterwards everything still alive, mostly modules, is frozen so that the interpreter does not scan it at exit. Only
    torch needs that scan, for its leak checks; if it is imported, objects are unfrozen at exit.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if "torch" in sys.modules:
            atexit.register(gc.unfreeze)
        if was_enabled:
            gc.enable()


def write(records: Iterable[Record], folder: Path, out: Path, **options: Any) -> list[Path]:
    """Return the files written into `out`; see `genbench.report.files.write`.

    `records` should be lazy: they are read after all imports, because pyparsing keeps the frames of its importers, and
    everything those frames hold, alive forever.
    """
    from genbench.report import files

    return files.write(records, folder, out, **options)


def leaderboard(records: Iterable[Record], console: Console) -> None:
    """Print one table per suite and data set."""
    from genbench.report import terminal

    terminal.leaderboard(records, console)


def show(records: Iterable[Record], console: Console) -> None:
    """Print all executions of one run and their measurements."""
    from genbench.report import terminal

    terminal.show(records, console)


def compare(a: Iterable[Record], b: Iterable[Record], console: Console) -> ComparisonCounts:
    """Print what changed from `a` to `b` beyond seed noise and what could not be compared; return the counts."""
    from genbench.report.comparison import compare_records, count_verdicts, print_comparison

    comparison = compare_records(a, b)
    print_comparison(comparison, console)
    return count_verdicts(comparison)
