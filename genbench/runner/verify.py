"""Reproducing a record: train its run anew from nothing and hold the two side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from genbench.console import printable
from genbench.errors import UsageError
from genbench.records.environment import environment
from genbench.records.record import Record
from genbench.registry import find
from genbench.runner.worker import perform, prepared_device


def reproduced(records: Sequence[Record]) -> bool:
    """Print recorded and fresh measurements of a run, and return whether all are equal, bit for bit.

    Speed is left out, which no two executions share. On other hardware or versions equality is not to be
    expected; what differs is printed.

    Raises:
        UsageError: no record of the run is ok.
    """
    good = [record for record in records if record.status == "ok" and not _alone(record.run.metrics)]
    if not good:
        raise UsageError(f"run {records[0].id} has no ok record to compare with")
    old = good[-1]
    with tempfile.TemporaryDirectory() as work:
        new = perform(old.run, work=work)
    table = Table("measurement", "recorded", "now", "", title=Text(printable(f"{old.run}, run {old.id}")))
    for name, was in old.measurements.items():
        now = new.measurements.get(name)
        same = now is not None and now.value == was.value
        values = repr(was.value), repr(now.value) if now else new.status
        table.add_row(Text(printable(name)), *values, Text("same") if same else Text("differs", "red"))
    console = Console()
    console.print(table)
    here = environment(prepared_device(old.run))
    for key in sorted(here.keys() & old.environment.keys()):
        if here[key] != old.environment[key]:
            changed = f"{key} was {old.environment[key]}, is {here[key]}"
            console.print(printable(changed), markup=False, highlight=False)
    return new.status == "ok" and all(
        name in new.measurements and new.measurements[name].value == was.value for name, was in old.measurements.items()
    )


def _alone(metrics: Sequence[str]) -> bool:
    return any(find("metrics", metric).exclusive for metric in metrics)
