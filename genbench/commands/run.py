"""`genbench run`: run a suite."""

from __future__ import annotations

import importlib
import math
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import click

from genbench import program
from genbench.command_line import FAILED, OK, results_option
from genbench.commands.report import write_report
from genbench.errors import UsageError, error_context, short
from genbench.records.store import Store
from genbench.registry import find
from genbench.strict_model import checked
from genbench.strict_yaml import MAX_DEPTH, read_yaml
from genbench.suite import MAX_SEEDS, Resources, Run, Settings, merged, read_suite, suite_path, suite_paths

PICTURE = re.compile(r"files/[0-9a-f]{32}\.\w+")  # a name that Work.put gives


class Seconds(click.ParamType[float]):
    """A finite number of seconds, 0 or more."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return `value` as a number."""
        with suppress(ValueError):
            if 0 <= (number := float(value)) < math.inf:
                return number
        self.fail(f"{short(str(value))} is not a number of seconds, 0 or more", param, ctx)


def complete_suite(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of suites that start with `incomplete`."""
    return [name for name in suite_paths() if name.startswith(incomplete)]


@click.command()
@click.argument("suite", metavar="SUITE", shell_complete=complete_suite)
@results_option
@click.option("--only", default="*", metavar="GLOB", help="Rows, or row/data, to run.")
@click.option("--seeds", metavar="0-4", help="Seeds instead of those of the suite.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting, as optimizer.ema=0.99.")
@click.option("--executor", type=click.Choice(["ray", "process"]), default="ray", show_default=True)
@click.option("--address", metavar="A", help="A Ray cluster: auto, host:port or ray://host:port.")
@click.option("--work", metavar="URL", help="Checkpoints: shared folder or fsspec URL. Default: DIR/.work.")
@click.option("--checkpoint-every", type=Seconds(), default=30.0, show_default=True, metavar="SECONDS")
@click.option("--gpus-per-run", type=float, metavar="N", help="May be a fraction.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Time limit of a run.")
@click.option("--retry-failed", is_flag=True, help="Repeat runs that failed.")
@click.option("--rerun", is_flag=True, help="Repeat all runs, complete or failed.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first failure.")
@click.option("--dry-run", is_flag=True, help="Print the runs and their ids.")
def run(
    suite: str,
    results: Path,
    only: str,
    seeds: str | None,
    settings: Sequence[str],
    executor: str,
    address: str | None,
    work: str | None,
    checkpoint_every: float,
    gpus_per_run: float | None,
    timeout: float | None,
    retry_failed: bool,
    rerun: bool,
    fail_fast: bool,
    dry_run: bool,
) -> int:
    """Run a suite and print its leaderboard.

    SUITE is the name of a suite (`genbench list suites`) or the path of its file.
    """
    path = suite_path(suite)
    chosen_seeds = None if seeds is None else parse_seeds(seeds)
    change = parse_settings(settings, gpus_per_run, timeout)
    protocol = read_suite(path)
    if executor == "process" and not dry_run:
        from genbench.runner import isolation

        isolation.start()  # it imports torch while this process continues
    with error_context(str(path)):
        runs = protocol.runs(only, chosen_seeds, change)
    program.check()
    if dry_run:
        for planned in runs:
            print(f"{planned.id}  {planned}")
        return OK
    if executor == "ray" and not is_importable("ray"):
        raise UsageError("Ray is not installed; install it, or use --executor process")
    available = runs if address else with_data(runs)
    store = Store(results)
    refuse_clash(results, protocol.suite)
    store.prepare()
    store.save_suite(protocol, path.read_bytes())
    work_folder = absolute(work or str(store.work))
    check_work(work_folder)

    from genbench.runner.driver import drive
    from genbench.runner.executors import in_process, on_ray
    from genbench.runner.isolation import isolate
    from genbench.runner.worker import data_digest, perform

    log = str(store.work.resolve() / "driver.log")
    outcome = drive(
        available,
        store,
        in_process if executor == "process" else partial(on_ray, address=address),
        perform=isolate(
            partial(perform, work=work_folder, checkpoint_every=checkpoint_every),
            log=log if executor == "process" else None,
        ),
        retry_failed=retry_failed,
        fail_fast=fail_fast,
        rerun=rerun,
        digest=None if address else lambda run: isolate(data_digest, log)(run).data_sha256,
    )
    if work:
        fetch_pictures(store, work, protocol.suite)
    write_report(store, {protocol.suite}, results)
    if outcome.missing:
        count = f"{len(outcome.missing)} runs have" if len(outcome.missing) > 1 else "1 run has"
        print(f"genbench: {count} no complete record, such as {outcome.missing[0]}", file=sys.stderr)
    return FAILED if outcome.failed or outcome.missing or len(available) < len(runs) else OK


# ------------------------------------------------------------------------------------------------- options


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of ``0-4`` or ``0,2,5-7``, in order, without repetition.

    Raises:
        UsageError: `text` has another form, a seed needs more than 63 bits, or there are too many.
    """
    spans: list[tuple[int, int]] = []
    for part in text.split(","):
        span = re.fullmatch(r"([0-9]{1,19})(?:-([0-9]{1,19}))?", part)
        first, last = (int(span[1]), int(span[2] or span[1])) if span else (1, 0)
        if last < first or last >= 1 << 63:
            raise UsageError(f"--seeds {short(text)} is not like 0-4 or 0,2,5-7, with seeds below 2^63")
        spans.append((first, last))
    if sum(last - first + 1 for first, last in spans) > MAX_SEEDS:
        raise UsageError(f"--seeds {short(text)} are more than {MAX_SEEDS} seeds")
    return list(dict.fromkeys(seed for first, last in spans for seed in range(first, last + 1)))


def parse_settings(pairs: Sequence[str], gpus: float | None, timeout: float | None) -> dict[str, Any]:
    """Return the settings of all ``--set key=value``, with dotted keys and values as in a suite file."""
    change: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        parts = key.split(".")
        if not equals or not all(parts) or len(parts) > MAX_DEPTH:
            raise UsageError(f"--set {short(pair)} is not key=value, as in optimizer.ema=0.99")
        with error_context("--set"):
            nested = read_yaml(value, *parts)
        for part in reversed(parts):
            nested = {part: nested}
        change = merged(change, nested)
    with error_context("--set"):
        change = checked(Settings, change).model_dump(exclude_unset=True)
    for name, option, amount in (("gpus", "--gpus-per-run", gpus), ("timeout", "--timeout", timeout)):
        with error_context(option):
            resources = checked(Resources, {name: amount}) if amount is not None else None
        change = merged(change, {"resources": resources.model_dump(exclude_unset=True)}) if resources else change
    return change


# ------------------------------------------------------------------------------------------------- checks


def is_importable(module: str) -> bool:
    """Return whether `module` can be imported."""
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def absolute(work: str) -> str:
    """Return a URL unchanged, and a path as an absolute one, because a run may change its working directory."""
    return work if "://" in work else str(Path(work).resolve())


def check_work(work: str) -> None:
    """Raise UsageError if `work` is a URL that no installed package can read."""
    from genbench.records.artifacts import Work

    try:
        Work(work)
    except (ValueError, ImportError) as error:
        raise UsageError(f"--work {work}: {error}") from None


def refuse_clash(results: Path, suite: str) -> None:
    """Raise UsageError if a suite in `results` differs from `suite` in case only: on some disks they share a folder."""
    with suppress(OSError):  # the folder does not exist yet, or cannot be read, which is reported elsewhere
        for other in os.listdir(results):
            if other != suite and other.casefold() == suite.casefold():
                raise UsageError(f"{results}: suite {suite!r} differs from {other!r} in case only; rename the suite")


def with_data(runs: Sequence[Run]) -> list[Run]:
    """Return those of `runs` whose data are available or can be downloaded; print why others are not.

    Raises:
        UsageError: no run is left.
    """
    missing: dict[str, UsageError] = {}
    for data in dict.fromkeys(run.data for run in runs):
        try:
            getattr(find("datasets", data), "fetch", lambda: None)()
        except UsageError as error:
            missing[data] = error
            print(f"genbench: {data}: {error}", file=sys.stderr)
        program.check()
    available = [run for run in runs if run.data not in missing]
    if not available:
        raise UsageError("no dataset is available; nothing to run")
    return available


def fetch_pictures(store: Store, work: str, suite: str) -> None:
    """Copy pictures from the work folder of the workers to that of the records, for the report."""
    from genbench.records.artifacts import Work

    source, target = Work(work), Work(store.work)
    pictures = {name for record in store.records(suite) for name in record.files.values()}
    for name in filter(PICTURE.fullmatch, pictures):  # a record from elsewhere may hold any path
        program.check()
        if target.load(name) is None and (content := source.load(name)) is not None:
            target.save(name, content)
