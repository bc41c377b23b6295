"""The command line. What a command needs is imported inside it: `genbench list` answers at once."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from genbench import RUNS
from genbench.console import accept_any_text, printable
from genbench.report import PLOTS, uncollected, write
from genbench.run import (
    ROOT,
    Record,
    Run,
    Settings,
    UsageError,
    checked,
    docs_of,
    find,
    merged,
    names,
    naming,
    nearest,
    read_suite,
    suite_path,
    suite_paths,
)
from genbench.store import Store

if TYPE_CHECKING:
    from genbench.evaluation import Evaluation

OK, FAILED, USAGE, REGRESSED, INTERRUPTED = 0, 1, 2, 3, 130
PICTURE = re.compile(r"files/[0-9a-f]{32}\.\w+")  # as Work.put names what metrics draw
LISTS = ("suites", "models", "datasets", "metrics", "ops")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line that names the nearest valid word."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)

    def parse_all(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """Return the parsed arguments; raises UsageError that names what is unknown and what is nearest to it."""
        words = sys.argv[1:] if arguments is None else list(arguments)
        known = commands(self)
        if words and not words[0].startswith("-") and words[0] not in known:
            raise UsageError(f"unknown command {words[0]!r}{nearest(words[0], known)}")
        parsed, unknown = self.parse_known_args(words)
        if unknown:
            options = [o for action in known[parsed.command]._actions for o in action.option_strings]
            raise UsageError(f"unknown option {unknown[0]!r}{nearest(unknown[0], options)}")
        return parsed


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command."""
    return dict(next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices)


# ------------------------------------------------------------------------------------------------ commands


def run(args: argparse.Namespace) -> int:
    """Run a suite and print its leaderboard."""
    path = suite_path(args.suite)
    suite = read_suite(path)
    if args.executor == "process" and not args.dry_run:
        from genbench import isolation

        isolation.start()  # it imports torch while this process does
    folder = Path.cwd()
    with naming(str(path)):
        runs = suite.runs(args.only, args.seeds, args.change)
    os.chdir(folder)  # from which a module that the suite names may have moved
    if args.dry_run:
        for planned in runs:
            print(f"{planned.id}  {planned}")
        return OK
    if args.executor == "ray" and not _importable("ray"):
        raise UsageError("Ray is not installed here; say --executor process, or install it")
    here = runs if args.address else fetched(runs)
    store = Store(args.results)
    store.prepare()
    store.keep(suite, path.read_bytes())

    from genbench.driver import drive
    from genbench.execute import in_process, on_ray
    from genbench.isolation import isolated
    from genbench.perform import perform

    log, work = store.work.resolve() / "driver.log", _absolute(args.work or str(store.work))
    in_child = isolated(
        partial(perform, work=work, checkpoint_every=args.checkpoint_every),
        log=str(log) if args.executor == "process" else None,
    )
    outcome = drive(
        here,
        store,
        in_process if args.executor == "process" else partial(on_ray, address=args.address),
        perform=in_child,
        retry_failed=args.retry_failed,
        fail_fast=args.fail_fast,
    )
    if args.work:
        bring_pictures(store, args.work, runs[0].suite)
    publish(store, {runs[0].suite}, args.results)
    return FAILED if outcome.failed or len(here) < len(runs) else OK


def _absolute(work: str) -> str:
    """Return a URL as it is, and a path from the root: a run may change its working directory."""
    return work if "://" in work else str(Path(work).resolve())


def fetched(runs: Sequence[Run]) -> list[Run]:
    """Return those of `runs` whose data are here or can be downloaded; say of each other data set what is missing.

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
    here = [run for run in runs if run.data not in missing]
    if not here:
        raise UsageError("none of the data are here; nothing is run")
    return here


def bring_pictures(store: Store, work: str, suite: str) -> None:
    """Copy what was drawn from the work folder of the workers to the one beside the records, for the report."""
    from genbench.work import Work

    there, here = Work(work), Work(store.work)
    drawn = {name for record in store.records(suite) for name in record.files.values()}
    for name in filter(PICTURE.fullmatch, drawn):  # a record of another's may say any path
        if here.load(name) is None and (content := there.load(name)) is not None:
            here.save(name, content)


def _importable(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def report(args: argparse.Namespace) -> int:
    """Write tables, plots and the page from records."""
    store = Store(args.results)
    suites = set(args.suites)
    for suite in suites and suites - store.suites():
        raise UsageError(f"{args.results}: no records of a suite {suite!r}{nearest(suite, store.suites())}")
    return publish(store, suites or None, args.out or args.results, most=max(0, args.plots), svg=args.svg)


@uncollected()
def publish(store: Store, suites: set[str] | None, out: Path, **plots: Any) -> int:
    """Write the report of every record to `out`, print the leaderboard of `suites`, name what is damaged.

    `plots` says how many to draw, and how: see report.write.
    """
    from rich.console import Console

    written = write(_readable(store), store.folder, out, console=Console(), suites=suites, **plots)
    for path in (path for path in written if path.parent == out):
        print(f"wrote {path}")
    print(f"wrote {out / 'plots'}: {sum(path.parent != out for path in written)} plots")
    return OK


def _readable(store: Store) -> Iterator[Record]:
    """Yield the records, when the first is asked for; name what is damaged."""
    records = store.records()
    for path, why in store.damaged:
        print(f"genbench: {printable(f'{path}: skipped, damaged: {why}')}", file=sys.stderr)
    if not records:
        raise UsageError(f"{store.folder}: there are no records; `genbench run SUITE` makes them")
    yield from records


def list_(args: argparse.Namespace) -> int:
    """List suites, models, datasets, metrics and ops."""
    for kind in [args.kind] if args.kind else LISTS:
        entries = {"suites": _suites, "ops": _ops}.get(kind, partial(names, kind))()
        width = max(map(len, entries), default=0)
        print(f"{kind}:")
        for name, about in entries.items():
            print(f"  {name:<{width}}  {about}")
    return OK


def _suites() -> dict[str, str]:
    about = {}
    for name, path in suite_paths().items():
        try:
            about[name] = f"{(suite := read_suite(path)).title}. {suite.question}"
        except UsageError as error:
            about[name] = f"invalid: {error}"
    return about


def _ops() -> dict[str, str]:
    """Return the ops of genbench_kernels with what they return; a module there that has an OP is one."""
    found = {}
    spec = importlib.util.find_spec("genbench_kernels")
    for path in sorted(Path(spec.origin or "").parent.glob("*.py")) if spec else []:
        text = path.read_text(encoding="utf-8")
        if "\nOP = " in text:
            found[path.stem] = docs_of(ast.parse(text)).get(path.stem, "")
    return found


def doctor(args: argparse.Namespace) -> int:
    """Check this machine: versions, GPU, data, results folder."""
    from genbench.doctor import examine

    return OK if examine(args.results) else FAILED


def show(args: argparse.Namespace) -> int:
    """Show everything known of a run."""
    from rich.console import Console

    from genbench.report import show as show_records

    found = one(Store(args.results), args.run)
    show_records(found, Console())
    return OK


def one(store: Store, run: str) -> list[Record]:
    """Return the records of the one run whose id starts with `run`, oldest first; raises UsageError otherwise."""
    records = store.records()
    ids = {record.id for record in records if record.id.startswith(run)}
    if len(ids) != 1:
        several = f"is the start of {len(ids)} runs" if ids else f"is no run{nearest(run, {r.id for r in records})}"
        raise UsageError(f"{store.folder}: {run!r} {several}")
    return [record for record in records if record.id in ids]


def compare(args: argparse.Namespace) -> int:
    """Compare the records of two results folders, cell by cell."""
    from rich.console import Console

    from genbench.report import compare as compare_records

    for folder in (args.a, args.b):
        if not folder.is_dir():
            raise UsageError(f"results folder {folder} is not there")
    regressed = compare_records(Store(args.a).records(), Store(args.b).records(), Console())
    return REGRESSED if regressed and args.fail_on == "regress" else OK


def sample(args: argparse.Namespace) -> int:
    """Draw samples of a trained model into a picture."""
    import torch

    from genbench.metrics.samples import grid, histogram, png
    from genbench.train import reseed

    evaluation = loaded(args)
    if not evaluation.model.generative:
        raise UsageError(f"{evaluation.run.model} learns codes and has no samples")
    reseed(args.seed, "sample")
    space, device = evaluation.dataset.space, evaluation.device
    with torch.no_grad():
        x = evaluation.model.sample(args.n).to("cpu")
    if not (space.is_image or space.shape == (2,)):
        raise UsageError(f"points of shape {space.shape} have no picture")
    edge = evaluation.dataset.test.abs().max().item() * 1.1
    side = max(1, int(args.n**0.5))
    args.out.write_bytes(png(grid(x, space, side) if space.is_image else histogram(x, edge)))
    print(f"wrote {args.out}: {args.n} samples drawn on {device}")
    return OK


def loaded(args: argparse.Namespace) -> Evaluation:
    """Return the trained model of the run that `args` names, ready to measure; it is trained if it is not kept."""
    import math

    from genbench.evaluation import Evaluation
    from genbench.perform import prepared_device, trained
    from genbench.validation.datasets import load_dataset
    from genbench.work import Work

    store = Store(args.results)
    chosen: Run = one(store, args.run)[-1].run
    device = prepared_device(chosen)
    dataset = load_dataset(chosen.data)
    model, _ = trained(chosen, dataset, Work(args.work or store.work), device, 30.0, math.inf)
    return Evaluation(model, dataset, chosen)


def verify(args: argparse.Namespace) -> int:
    """Train a run anew from nothing and compare its measurements with the record."""
    from genbench.verify import reproduced

    return OK if reproduced(one(Store(args.results), args.run)) else FAILED


# ----------------------------------------------------------------------------------------------- arguments


def seeds(text: str) -> list[int]:
    """Return the seeds that ``0-4`` or ``0,2,5-7`` says, in order."""
    chosen: list[int] = []
    for part in text.split(","):
        span = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not span or int(span[2] or span[1]) < int(span[1]):
            raise UsageError(f"--seeds {text!r} is not like 0-4 or 0,2,5-7")
        chosen += range(int(span[1]), int(span[2] or span[1]) + 1)
    return list(dict.fromkeys(chosen))


def changes(pairs: Sequence[str], gpus: float | None, timeout: float | None) -> dict[str, Any]:
    """Return the settings that every ``--set key=value`` says, keys dotted, values as in a suite file."""
    change: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--set {pair!r} is not key=value")
        nested: Any = yaml.safe_load(value)
        for part in reversed(key.split(".")):
            nested = {part: nested}
        change = merged(change, nested)
    said = {"gpus": gpus, "timeout": timeout}
    kept = {key: value for key, value in said.items() if value is not None}
    return checked(Settings, merged(change, {"resources": kept} if kept else {})).model_dump(exclude_unset=True)


def parser() -> Parser:
    """Return the parser of the whole command line."""
    top = Parser(prog="genbench", description=__import__("genbench").__doc__, allow_abbrev=False)
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, do: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        about = do.__doc__ or ""
        added = subparsers.add_parser(name, help=about.rstrip("."), description=about, allow_abbrev=False)
        added.set_defaults(do=do)
        if name != "compare":
            added.add_argument("--results", type=Path, default=Path(RUNS), metavar="DIR", help=f"default: {RUNS}")
        return added

    p = command("list", list_)
    p.add_argument("kind", nargs="?", choices=LISTS)
    command("doctor", doctor)
    p = command("run", run)
    p.add_argument("suite", metavar="SUITE", help="a name under suites/ or a path")
    p.add_argument("--only", default="*", metavar="GLOB", help="rows, or row/data, to run")
    p.add_argument("--seeds", type=str, metavar="0-4", help="instead of the suite's own")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any setting, as optimizer.ema=0.99")
    p.add_argument("--executor", choices=("ray", "process"), default="ray", help="default: ray")
    p.add_argument("--address", metavar="A", help="of a Ray cluster: auto, ray://host:port")
    p.add_argument("--work", metavar="URL", help="checkpoints: a shared folder or fsspec URL; default: DIR/.work")
    p.add_argument("--checkpoint-every", type=float, default=30.0, metavar="S", help="seconds; default: 30")
    p.add_argument("--gpus-per-run", type=float, metavar="N", help="may be a fraction")
    p.add_argument("--timeout", type=float, metavar="S", help="seconds a run may take")
    p.add_argument("--retry-failed", action="store_true", help="run again what has failed before")
    p.add_argument("--fail-fast", action="store_true", help="stop at the first failure")
    p.add_argument("--dry-run", action="store_true", help="print the runs and their ids")
    p = command("report", report)
    p.add_argument("suites", nargs="*", metavar="SUITE")
    p.add_argument("--out", type=Path, metavar="DIR", help="default: the results folder")
    p.add_argument("--plots", type=int, default=PLOTS, metavar="N", help=f"draw at most N; default: {PLOTS}")
    p.add_argument("--svg", action="store_true", help="plots as vectors, too")
    p = command("show", show)
    p.add_argument("run", metavar="RUN", help="the start of a run's id")
    p = command("compare", compare)
    p.add_argument("a", type=Path, metavar="A", help="results folder")
    p.add_argument("b", type=Path, metavar="B", help="results folder")
    p.add_argument("--fail-on", choices=("regress",), help="exit 3 if anything got significantly worse")
    p = command("sample", sample)
    p.add_argument("run", metavar="RUN", help="the start of a run's id")
    p.add_argument("-n", type=int, default=64, help="how many; default: 64")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, required=True, metavar="grid.png")
    p.add_argument("--work", metavar="URL")
    p = command("verify", verify)
    p.add_argument("run", metavar="RUN", help="the start of a run's id")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit code."""
    accept_any_text()
    # a suite may name models of a module in this folder, or of one in the project's
    sys.path += [folder for folder in map(str, (Path.cwd(), ROOT)) if folder not in sys.path]
    try:
        args = parser().parse_all(arguments)
        if args.command == "run":
            args.seeds = seeds(args.seeds) if args.seeds else None
            with naming("--set"):
                args.change = changes(args.set, args.gpus_per_run, args.timeout)
        code: int = args.do(args)
    except UsageError as error:
        print(f"genbench: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return OK
    return code


if __name__ == "__main__":
    sys.exit(main())
