"""`genbench show`: show everything known about a run."""

from __future__ import annotations

from pathlib import Path

import click

from genbench.command_line import OK, results_option, run_argument
from genbench.errors import UsageError, nearest
from genbench.records.record import Record
from genbench.records.store import Store


@click.command()
@run_argument
@results_option
def show(run: str, results: Path) -> int:
    """Show everything known about a run. RUN is its id, or the start of it."""
    from rich.console import Console

    from genbench.report import show as show_records

    show_records(records_of(Store(results), run), Console())
    return OK


def records_of(store: Store, run: str) -> list[Record]:
    """Return the records, oldest first, of the only run whose id starts with `run`; raises UsageError otherwise."""
    if not run:
        raise UsageError("the start of a run's id is empty; `genbench run SUITE --dry-run` shows the ids of a suite")
    records = store.records()
    ids = sorted({record.id for record in records if record.id.startswith(run.lower())})
    if len(ids) > 1:
        more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
        raise UsageError(f"{store.folder}: {run!r} is the start of {len(ids)} runs: {', '.join(ids[:5])}{more}")
    if not ids:
        damaged = f"; {len(store.damaged)} records are damaged, such as {store.damaged[0][0]}" if store.damaged else ""
        raise UsageError(f"{store.folder}: {run!r} is no run{nearest(run, {r.id for r in records})}{damaged}")
    return [record for record in records if record.id in ids]
