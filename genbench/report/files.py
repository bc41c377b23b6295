"""The report's files: tables in Markdown, on a page and as CSV, and plots."""

from __future__ import annotations

import os
import secrets
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from genbench.errors import UsageError
from genbench.records.artifacts import storage_errors
from genbench.records.record import Record
from genbench.report import PLOTS
from genbench.report.boards import boards
from genbench.report.curves import curves_of
from genbench.report.figures import KINDS, figures
from genbench.report.gallery import galleries
from genbench.report.markdown import markdown
from genbench.report.page import page
from genbench.report.protocol import measured_on, suite_files
from genbench.report.published import published_lines, with_published
from genbench.report.terminal import print_boards
from genbench.report.tidy import as_csv, by_run, lines, metrics_of, weights_of


def write(
    records: Iterable[Record],
    folder: Path,
    out: Path,
    console: Console | None = None,
    suites: Container[str] | None = None,
    most: int = PLOTS,
    svg: bool = False,
) -> list[Path]:
    """Return the files written into `out`: LEADERBOARD.md, leaderboard.html, leaderboard.csv and plots/.

    The same records give the same bytes. Plots of an earlier report that are not drawn again are removed.

    Args:
        records: what is shown.
        folder: the results folder they are from; the suites' files are looked for in it, pictures under its ``.work``.
        out: where to write; each file is replaced whole.
        console: where to print the leaderboard too, if anywhere.
        suites: those to print; default: all.
        most: plots to draw, beside those of samples.
        svg: whether they are wanted as vectors, too.
    """
    records = list(records)
    runs, files = by_run(records), suite_files(records, folder)
    measured = lines(runs)
    tables = [
        with_published(board, files.get((board.suite, board.version)))
        for board in boards(measured, metrics_of(records, files.values()), weights_of(records))
    ]
    newest = sorted(tables, key=lambda board: board.newest, reverse=True)
    plots = dict(figures(newest, curves_of(runs), most, svg))
    machines = measured_on(records)
    plots |= galleries(tables, runs, folder / ".work", plots_folder(out))
    written = {
        "LEADERBOARD.md": markdown(tables, machines, plots).encode(),
        "leaderboard.html": page(tables, machines, runs, folder / ".work"),
        "leaderboard.csv": as_csv([*measured, *published_lines(tables)]).encode(),
        **{f"plots/{name}": content for name, content in plots.items()},
    }
    with storage_errors(out / "plots", "made"):
        plots_folder(out).mkdir(parents=True, exist_ok=True)
    write_together({out / name: content for name, content in written.items()})
    _remove_old_plots(out / "plots", plots)
    if console:
        print_boards([table for table in tables if suites is None or table.suite in suites], console)
    return [out / name for name in written]


def plots_folder(out: Path) -> Path:
    """Return the folder of plots in `out`; raises UsageError where something else than a folder is in its place."""
    for path in (out, out / "plots"):
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file, where the report needs a folder; move it or choose another --out")
    if (out / "plots").is_symlink():
        raise UsageError(f"{out / 'plots'} is a symbolic link, and the report writes to no other folder; remove it")
    return out / "plots"


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write all files, or where one cannot be written (the disk is full) none: what is there stays as it is.

    Raises:
        StorageError: it names the file.
    """
    new = {path: path.with_name(f".{secrets.token_hex(8)}.new") for path in contents}
    try:
        for path, content in contents.items():
            if path.is_dir() and not path.is_symlink():
                raise UsageError(f"{path} is a folder, where the report writes a file; move it or choose another --out")
            with storage_errors(path, "written"), new[path].open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path in contents:
            with storage_errors(path, "written"):
                os.replace(new[path], path)
    finally:
        for path in new.values():
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _remove_old_plots(folder: Path, drawn: Container[str]) -> None:
    """Remove plots of an earlier report that are not among `drawn`: nothing shows them any more."""
    for path in folder.glob("*-v*.*.*"):
        _, kind, form = path.name.rsplit(".", 2)
        if kind in KINDS and form in ("png", "svg") and path.name not in drawn and not path.is_dir():
            path.unlink()
