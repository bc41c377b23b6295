"""`genbench report`: write tables, plots and the page from records."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from genbench.command_line import OK, Folder, WholeNumber, results_option
from genbench.console import printable
from genbench.errors import UsageError, nearest
from genbench.records.record import Record
from genbench.records.store import Store
from genbench.report import MAX_PLOTS, gc_paused, write


def complete_recorded_suite(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of suites with records that start with `incomplete`."""
    return sorted(name for name in Store(Path(ctx.params["results"])).suites() if name.startswith(incomplete))


@click.command()
@click.argument("suites", nargs=-1, metavar="[SUITE]...", shell_complete=complete_recorded_suite)
@results_option
@click.option("--out", type=Folder(), metavar="DIR", help="Where to write. Default: the results folder.")
@click.option(
    "--plots", type=WholeNumber(0, 10_000), default=MAX_PLOTS, show_default=True, metavar="N", help="At most N."
)
@click.option("--svg", is_flag=True, help="Write plots as SVG, too.")
def report(suites: Sequence[str], results: Path, out: Path | None, plots: int, svg: bool) -> int:
    """Write tables, plots and the page from records.

    The leaderboard of the SUITEs (default: all) is printed, too.
    """
    store = Store(results)
    for suite in suites and sorted(set(suites) - store.suites()):
        raise UsageError(f"{results}: no records of a suite {suite!r}{nearest(suite, store.suites())}")
    return write_report(store, set(suites) or None, out or results, max_plots=plots, svg=svg)


@gc_paused()
def write_report(store: Store, suites: set[str] | None, out: Path, **plots: Any) -> int:
    """Write the report of all records to `out`, print the leaderboard of `suites` and name damaged records.

    `plots` are the options of `report.write` about plots.
    """
    from rich.console import Console

    written = write(readable_records(store), store.folder, out, console=Console(), suites=suites, **plots)
    for path in (path for path in written if path.parent == out):
        print(f"wrote {path}")
    print(f"wrote {out / 'plots'}: {sum(path.parent != out for path in written)} plots")
    return OK


def readable_records(store: Store) -> Iterator[Record]:
    """Yield the records, read when the first is requested, after naming damaged ones; raises UsageError if none."""
    records = store.records()
    for path, problem in store.damaged:
        print(f"genbench: {printable(f'{path}: skipped, damaged: {problem}')}", file=sys.stderr)
    if not records:
        reason = "all records are damaged" if store.damaged else "there are no records; `genbench run SUITE` makes them"
        raise UsageError(f"{store.folder}: {reason}")
    yield from records
