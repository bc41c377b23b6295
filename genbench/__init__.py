"""genbench trains, measures and ranks the classic deep generative models under one protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

__version__ = "0.1.0"
__all__ = ["RUNS", "results"]

RUNS = "runs"  # the folder of records where none is named; results/ holds those that are published


def results(folder: str | Path = RUNS) -> pandas.DataFrame:
    """Return every measurement under `folder`, one a row, as a tidy pandas DataFrame (see report.tidy)."""
    from genbench.report.tidy import tidy
    from genbench.store import Store

    return tidy(Store(Path(folder)).records())
