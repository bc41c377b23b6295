"""`genbench compare`: compare two results folders."""

from __future__ import annotations

from pathlib import Path

import click

from genbench.command_line import FAILED, OK, REGRESSED, Folder
from genbench.commands.report import readable_records
from genbench.errors import UsageError
from genbench.records.store import Store


@click.command()
@click.argument("a", type=Folder(), metavar="A")
@click.argument("b", type=Folder(), metavar="B")
@click.option("--fail-on", type=click.Choice(["regress"]), help="Exit with 3 if anything got significantly worse.")
def compare(a: Path, b: Path, fail_on: str | None) -> int:
    """Compare the results folders A and B, cell by cell.

    The exit code is 0 only if every number of A was compared.
    """
    from rich.console import Console

    from genbench.report import compare as compare_records

    for folder in (a, b):
        if not folder.is_dir():
            raise UsageError(f"there is no results folder {folder}")
    stores = [Store(a), Store(b)]
    before, after = (list(readable_records(store)) for store in stores)
    outcome = compare_records(before, after, Console())
    if outcome.worse and fail_on == "regress":
        return REGRESSED
    complete = outcome.compared and not outcome.uncompared and not any(store.damaged for store in stores)
    return OK if complete else FAILED
