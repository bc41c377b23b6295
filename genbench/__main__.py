"""The command line. What a command needs is imported inside it: `genbench list` answers at once."""

from __future__ import annotations

from genbench import program

if program.is_program(__name__):
    program.begin()  # an interrupt while the rest is imported is one, too

import argparse
import ast
import importlib
import importlib.util
import io
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from genbench import RUNS
from genbench.console import accept_any_text, printable
from genbench.errors import UsageError, error_context, nearest, short
from genbench.records.artifacts import write_whole
from genbench.records.record import Record
from genbench.records.store import Store
from genbench.registry import docs_of, find, names
from genbench.report import PLOTS, uncollected, write
from genbench.runner.isolation import error_line
from genbench.strict_model import checked
from genbench.strict_yaml import MAX_DEPTH, read_yaml
from genbench.suite import MAX_SEEDS, ROOT, Resources, Run, Settings, merged, read_suite, suite_path, suite_paths

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from genbench.dataset import Dataset
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
        if unknown and not unknown[0].startswith("-"):
            raise UsageError(f"unexpected argument {unknown[0]!r}")
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
        from genbench.runner import isolation as isolation

        isolation.start()  # it imports torch while this process does
    with error_context(str(path)):
        runs = suite.runs(args.only, args.seeds, args.change)
    program.check()
    if args.dry_run:
        for planned in runs:
            print(f"{planned.id}  {planned}")
        return OK
    if args.executor == "ray" and not _importable("ray"):
        raise UsageError("Ray is not installed here; say --executor process, or install it")
    here = runs if args.address else fetched(runs)
    store = Store(args.results)
    refuse_clash(args.results, suite.suite)
    store.prepare()
    store.save_suite(suite, path.read_bytes())
    work = _absolute(args.work or str(store.work))
    check_work(work)

    from genbench.runner.driver import drive
    from genbench.runner.executors import in_process, on_ray
    from genbench.runner.isolation import isolate
    from genbench.runner.worker import data_digest, perform

    log = str(store.work.resolve() / "driver.log")
    in_child = isolate(
        partial(perform, work=work, checkpoint_every=args.checkpoint_every),
        log=log if args.executor == "process" else None,
    )
    outcome = drive(
        here,
        store,
        in_process if args.executor == "process" else partial(on_ray, address=args.address),
        perform=in_child,
        retry_failed=args.retry_failed,
        fail_fast=args.fail_fast,
        rerun=args.rerun,
        digest=None if args.address else lambda run: isolate(data_digest, log)(run).data_sha256,
    )
    if args.work:
        bring_pictures(store, args.work, runs[0].suite)
    publish(store, {runs[0].suite}, args.results)
    if outcome.missing:
        several = f"{len(outcome.missing)} runs have" if len(outcome.missing) > 1 else "1 run has"
        print(f"genbench: {several} no complete record, as {outcome.missing[0]}", file=sys.stderr)
    return FAILED if outcome.failed or outcome.missing or len(here) < len(runs) else OK


def check_work(work: str) -> None:
    """Raise UsageError if `work` is a URL that nothing installed here can read."""
    from genbench.records.artifacts import Work

    try:
        Work(work)
    except (ValueError, ImportError) as error:
        raise UsageError(f"--work {work}: {error}") from None


def _absolute(work: str) -> str:
    """Return a URL as it is, and a path from the root: a run may change its working directory."""
    return work if "://" in work else str(Path(work).resolve())


def refuse_clash(results: Path, suite: str) -> None:
    """Raise UsageError if a suite in `results` differs from `suite` in case only: on some disks they are one folder."""
    with suppress(OSError):  # there is no such folder yet, or it cannot be read, which is reported elsewhere
        for other in os.listdir(results):
            if other != suite and other.casefold() == suite.casefold():
                raise UsageError(
                    f"{results}: suite {suite!r} differs from {other!r} there in case only; rename the suite"
                )


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
        program.check()
    here = [run for run in runs if run.data not in missing]
    if not here:
        raise UsageError("none of the data are here; nothing is run")
    return here


def bring_pictures(store: Store, work: str, suite: str) -> None:
    """Copy what was drawn from the work folder of the workers to the one beside the records, for the report."""
    from genbench.records.artifacts import Work

    there, here = Work(work), Work(store.work)
    drawn = {name for record in store.records(suite) for name in record.files.values()}
    for name in filter(PICTURE.fullmatch, drawn):  # a record of another's may say any path
        program.check()
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
    return publish(store, suites or None, args.out or args.results, most=args.plots, svg=args.svg)


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
        what = "all records are damaged" if store.damaged else "there are no records; `genbench run SUITE` makes them"
        raise UsageError(f"{store.folder}: {what}")
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
    if not run:
        raise UsageError("the start of a run's id is empty; `genbench run SUITE --dry-run` shows the ids of a suite")
    records = store.records()
    ids = sorted({record.id for record in records if record.id.startswith(run.lower())})
    if len(ids) > 1:
        more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
        raise UsageError(f"{store.folder}: {run!r} is the start of {len(ids)} runs: {', '.join(ids[:5])}{more}")
    if not ids:
        damaged = f"; {len(store.damaged)} records are damaged, as {store.damaged[0][0]}" if store.damaged else ""
        raise UsageError(f"{store.folder}: {run!r} is no run{nearest(run, {r.id for r in records})}{damaged}")
    return [record for record in records if record.id in ids]


def compare(args: argparse.Namespace) -> int:
    """Compare the records of two results folders, cell by cell; exit 0 only if every number of A was compared."""
    from rich.console import Console

    from genbench.report import compare as compare_records

    for folder in (args.a, args.b):
        if not folder.is_dir():
            raise UsageError(f"there is no results folder {folder}")
    stores = [Store(args.a), Store(args.b)]
    a, b = (list(_readable(store)) for store in stores)
    outcome = compare_records(a, b, Console())
    if outcome.worse and args.fail_on == "regress":
        return REGRESSED
    complete = outcome.compared and not outcome.uncompared and not any(store.damaged for store in stores)
    return OK if complete else FAILED


FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}


def sample(args: argparse.Namespace) -> int:
    """Draw samples of a trained model into a picture."""
    from genbench.validation.datasets import load_dataset

    form = picture_format(args.out)
    chosen = one(Store(args.results), args.run)[-1].run
    dataset = load_dataset(chosen.data)
    space = dataset.space
    if not (space.is_image or space.shape == (2,)):
        raise UsageError(f"run {chosen.id}: points of shape {space.shape} have no picture")
    try:
        with error_context(f"run {chosen.id}"):
            picture, device = drawn(args, chosen, dataset)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # a model may fail in any way; what it was is the answer
        print(f"genbench: run {chosen.id}: {error_line(error)}", file=sys.stderr)
        return FAILED
    try:
        write_whole(args.out, encoded(picture, form))
    except (OSError, ValueError) as error:
        raise UsageError(f"--out {args.out}: cannot be written: {error}") from None
    left = args.n - math.isqrt(args.n) ** 2 if space.is_image else 0
    print(f"wrote {args.out}: {args.n} samples drawn on {device}{f', {left} more than a square shows' if left else ''}")
    return OK


def picture_format(out: Path) -> str:
    """Return the format of a picture that the suffix of `out` names.

    Raises:
        UsageError: there is no such format, or no file can be written there.
    """
    form = FORMATS.get(out.suffix.lower())
    if out.is_dir():
        raise UsageError(f"--out {out}: is a folder; name a file in it")
    if form is None:
        raise UsageError(f"--out {out}: the suffix says the format of a picture, and is one of {', '.join(FORMATS)}")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: the folder {out.parent} does not exist")
    if not os.access(out.parent, os.W_OK) or (out.exists() and not os.access(out, os.W_OK)):
        raise UsageError(f"--out {out}: is not writable")
    return form


def drawn(args: argparse.Namespace, chosen: Run, dataset: Dataset) -> tuple[Tensor, torch.device]:
    """Return a picture (height, width, 3) of `args.n` samples of the model of `chosen`, and where they were drawn."""
    import torch

    from genbench.metrics.samples import grid, histogram
    from genbench.train import reseed
    from genbench.validation.models import check_samples

    evaluation = loaded(args, chosen, dataset)
    if not evaluation.model.generative:
        raise UsageError(f"{chosen.model} learns codes and has no samples")
    reseed(args.seed, "sample")
    with torch.no_grad():
        x = check_samples(evaluation.model, evaluation.model.sample(args.n), args.n, dataset.space)
    if dataset.space.is_image:
        return grid(x, dataset.space, max(1, math.isqrt(args.n))), evaluation.device
    return histogram(x, dataset.test.abs().max().item() * 1.1), evaluation.device


def encoded(picture: Tensor, form: str) -> bytes:
    """Return a picture (height, width, 3), uint8, as a file of the format `form` of Pillow."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture.numpy()).save(file, form, **({"optimize": True} if form == "PNG" else {"quality": 95}))
    return file.getvalue()


def loaded(args: argparse.Namespace, chosen: Run, dataset: Dataset) -> Evaluation:
    """Return the trained model of `chosen`, ready to measure; it is trained if it is not kept."""
    from genbench.evaluation import Evaluation
    from genbench.records.artifacts import Work
    from genbench.runner.worker import prepare_device, train_or_load

    device = prepare_device(chosen)
    model, _ = train_or_load(chosen, dataset, Work(args.work or Store(args.results).work), device, 30.0, math.inf)
    return Evaluation(model, dataset, chosen)


def verify(args: argparse.Namespace) -> int:
    """Train a run anew from nothing and compare its measurements with the record."""
    from genbench.runner.verify import reproduces

    return OK if reproduces(one(Store(args.results), args.run)) else FAILED


# ----------------------------------------------------------------------------------------------- arguments


def seeds(text: str) -> list[int]:
    """Return the seeds that ``0-4`` or ``0,2,5-7`` stands for, in order, each once.

    Raises:
        UsageError: it is not of that form, a seed is beyond 63 bits, or there are too many.
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


def changes(pairs: Sequence[str], gpus: float | None, timeout: float | None) -> dict[str, Any]:
    """Return the settings that every ``--set key=value`` gives, keys dotted, values as in a suite file."""
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


def whole(lowest: int, highest: int) -> Callable[[str], int]:
    """Return what reads an argument that is an integer from `lowest` to `highest`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[-+]?[0-9]{1,19}", text) or not lowest <= int(text) <= highest:
            raise argparse.ArgumentTypeError(f"{short(text)} is not a whole number from {lowest} to {highest}")
        return int(text)

    return parse


def seconds(text: str) -> float:
    """Return the number of seconds that an argument says: finite and not negative."""
    with suppress(ValueError):
        if 0 <= (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"{short(text)} is not a number of seconds, 0 or more")


def folder(text: str) -> Path:
    """Return an argument that names a folder."""
    if not text:
        raise argparse.ArgumentTypeError("the name of a folder is empty")
    return Path(text)


def parser() -> Parser:
    """Return the parser of the whole command line."""
    top = Parser(prog="genbench", description=__import__("genbench").__doc__, allow_abbrev=False)
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, do: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        about = do.__doc__ or ""
        added = subparsers.add_parser(name, help=about.rstrip("."), description=about, allow_abbrev=False)
        added.set_defaults(do=do)
        if name != "compare":
            added.add_argument("--results", type=folder, default=Path(RUNS), metavar="DIR", help=f"default: {RUNS}")
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
    p.add_argument("--checkpoint-every", type=seconds, default=30.0, metavar="S", help="seconds; default: 30")
    p.add_argument("--gpus-per-run", type=float, metavar="N", help="may be a fraction")
    p.add_argument("--timeout", type=float, metavar="S", help="seconds a run may take")
    p.add_argument("--retry-failed", action="store_true", help="run again what has failed before")
    p.add_argument("--rerun", action="store_true", help="run everything again, done or failed")
    p.add_argument("--fail-fast", action="store_true", help="stop at the first failure")
    p.add_argument("--dry-run", action="store_true", help="print the runs and their ids")
    p = command("report", report)
    p.add_argument("suites", nargs="*", metavar="SUITE")
    p.add_argument("--out", type=folder, metavar="DIR", help="default: the results folder")
    p.add_argument(
        "--plots", type=whole(0, 10_000), default=PLOTS, metavar="N", help=f"draw at most N; default: {PLOTS}"
    )
    p.add_argument("--svg", action="store_true", help="plots as vectors, too")
    p = command("show", show)
    p.add_argument("run", metavar="RUN", help="the start of a run's id")
    p = command("compare", compare)
    p.add_argument("a", type=Path, metavar="A", help="results folder")
    p.add_argument("b", type=Path, metavar="B", help="results folder")
    p.add_argument("--fail-on", choices=("regress",), help="exit 3 if anything got significantly worse")
    p = command("sample", sample)
    p.add_argument("run", metavar="RUN", help="the start of a run's id")
    p.add_argument("-n", type=whole(1, 10_000), default=64, help="how many; default: 64")
    p.add_argument("--seed", type=whole(0, (1 << 63) - 1), default=0)
    p.add_argument("--out", type=Path, required=True, metavar="grid.png", help=f"one of {', '.join(FORMATS)}")
    p.add_argument("--work", metavar="URL")
    p = command("verify", verify)
    p.add_argument("run", metavar="RUN", help="the start of a run's id")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit code."""
    accept_any_text()
    # a suite may name models of a module in this folder, or of one in the project's
    folders = [str(ROOT)]
    with suppress(FileNotFoundError):  # the folder has been deleted
        folders.insert(0, os.getcwd())
    sys.path += [path for path in folders if path not in sys.path]
    try:
        with program.interruptible():
            code = done(arguments)
    except KeyboardInterrupt:
        code = INTERRUPTED
    return program.leave_quickly(code) if program.is_program(__name__) else code


def done(arguments: Sequence[str] | None) -> int:
    """Return the exit code of what the command line says; what cannot be done is one line on stderr."""
    try:
        args = parser().parse_all(arguments)
        if args.command == "run":
            args.seeds = None if args.seeds is None else seeds(args.seeds)
            args.change = changes(args.set, args.gpus_per_run, args.timeout)
        try:
            return int(args.do(args))
        except SystemExit as error:
            raise UsageError(f"a module that is not genbench's ended the program: SystemExit({error.code!r})") from None
    except UsageError as error:
        message = str(error)
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        message = described(error)
    program.check()  # an import that was interrupted fails in odd ways
    print(f"genbench: {printable(message)}", file=sys.stderr)
    return USAGE


def described(error: OSError) -> str:
    """Return the path that `error` is about, where it names one, and the system's reason."""
    reason = error.strerror or str(error) or type(error).__name__
    return " ".join((f"{error.filename}: {reason}" if error.filename is not None else reason).split())


if __name__ == "__main__":
    sys.exit(main())
