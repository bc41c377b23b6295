"""Verifies a record: trains its run again from scratch and compares the measurements."""

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
from genbench.runner.worker import perform, prepare_device


def reproduces(records: Sequence[Record]) -> bool:
    """Print recorded and fresh measurements of a run, and return whether all are bit-identical.

    Speed is left out. On other hardware or versions bit-identical numbers are not expected; differences in hardware and
    versions are printed.

    Raises:
        UsageError: no record of the run is ok.
    """
    ok_records = [r for r in records if r.status == "ok" and not _has_exclusive(r.run.metrics)]
    if not ok_records:
        raise UsageError(f"run {records[0].id} has no ok record to compare with")
    old = ok_records[-1]
    with tempfile.TemporaryDirectory() as work:
        new = perform(old.run, work=work)
    table = Table("measurement", "recorded", "now", "", title=Text(printable(f"{old.run}, run {old.id}")))
    for name, recorded in old.measurements.items():
        fresh = new.measurements.get(name)
        equal = fresh is not None and fresh.value == recorded.value
        values = repr(recorded.value), repr(fresh.value) if fresh else new.status
        table.add_row(Text(printable(name)), *values, Text("same") if equal else Text("differs", "red"))
    console = Console()
    console.print(table)
    here = environment(prepare_device(old.run))
    for key in sorted(here.keys() & old.environment.keys()):
        if here[key] != old.environment[key]:
            changed = f"{key} was {old.environment[key]}, is {here[key]}"
            console.print(printable(changed), markup=False, highlight=False)
    return new.status == "ok" and all(
        name in new.measurements and new.measurements[name].value == recorded.value
        for name, recorded in old.measurements.items()
    )


def _has_exclusive(metrics: Sequence[str]) -> bool:
    return any(find("metrics", metric).exclusive for metric in metrics)
