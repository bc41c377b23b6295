"""Records -> tables, figures, page, exports. Nothing heavy is imported before it is asked for."""

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

    from genbench.report.comparison import Outcome

__all__ = ["compare", "leaderboard", "show", "uncollected", "write"]

PLOTS = 12  # drawn where no number is said, those of the boards with the newest records first: ten take a second


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector from looking through thousands of records, which are all needed, again and again, and
    then through what is left, nearly all of it modules: not even at the end, but for torch, which looks for leaks."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if "torch" in sys.modules:
            atexit.register(gc.unfreeze)
        if was:
            gc.enable()


def write(records: Iterable[Record], folder: Path, out: Path, **how: Any) -> list[Path]:
    """Return the files written into `out`; see `genbench.report.files.write`.

    pyparsing keeps the frames of whoever imports it, and all that they hold, for good: `records` are read when
    everything is imported.
    """
    from genbench.report import files

    return files.write(records, folder, out, **how)


def leaderboard(records: Iterable[Record], console: Console) -> None:
    """Print a table for each suite and data set."""
    from genbench.report import terminal

    terminal.leaderboard(records, console)


def show(records: Iterable[Record], console: Console) -> None:
    """Print all that the executions of one run say."""
    from genbench.report import terminal

    terminal.show(records, console)


def compare(a: Iterable[Record], b: Iterable[Record], console: Console) -> Outcome:
    """Print what changed from `a` to `b` beyond what seeds explain, and what was not compared; return how many cells
    were compared, were not, and got worse."""
    from genbench.report.comparison import compared, outcome, print_comparison

    comparison = compared(a, b)
    print_comparison(comparison, console)
    return outcome(comparison)
