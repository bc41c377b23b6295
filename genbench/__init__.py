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
    """Return every measurement under `folder`, one a row, as a tidy pandas DataFrame (see report.tidy).

    Records that are damaged are skipped, each with a line on stderr.

    Raises:
        UsageError: `folder` does not exist or cannot be read.
    """
    from genbench.errors import UsageError
    from genbench.notices import notify
    from genbench.records.store import Store
    from genbench.report.tidy import tidy

    store = Store(Path(folder))
    if not store.folder.is_dir():
        raise UsageError(f"there is no results folder {folder}")
    records = store.records()
    for path, problem in store.damaged:
        notify(f"{path}: skipped, damaged: {problem}")
    return tidy(records)
