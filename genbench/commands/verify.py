"""`genbench verify`: repeat a run and compare."""

from __future__ import annotations

from pathlib import Path

import click

from genbench.command_line import FAILED, OK, results_option, run_argument
from genbench.commands.show import records_of
from genbench.records.store import Store


@click.command()
@run_argument
@results_option
def verify(run: str, results: Path) -> int:
    """Train a run again from scratch and compare its measurements with the record, bit for bit."""
    from genbench.runner.verify import reproduces

    return OK if reproduces(records_of(Store(results), run)) else FAILED
