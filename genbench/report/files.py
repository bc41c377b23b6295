"""The report's files: tables as Markdown, HTML and CSV, and plots."""

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
from genbench.report import MAX_PLOTS
from genbench.report.curves import newest_curves
from genbench.report.figures import PLOT_KINDS, figures
from genbench.report.gallery import galleries
from genbench.report.markdown import markdown
from genbench.report.page import page
from genbench.report.protocol import hardware_by_suite
from genbench.report.suite_files import leaderboards, published_lines, suite_files
from genbench.report.terminal import print_boards
from genbench.report.tidy import by_run, lines, to_csv


def write(
    records: Iterable[Record],
    folder: Path,
    out: Path,
    console: Console | None = None,
    suites: Container[str] | None = None,
    max_plots: int = MAX_PLOTS,
    svg: bool = False,
) -> list[Path]:
    """Return the files written into `out`: LEADERBOARD.md, leaderboard.html, leaderboard.csv and plots/.

    The same records give the same bytes. Plots of an earlier report that are not drawn again are removed.

    Args:
        records: what to report.
        folder: the results folder of the records: suite files are read from it, pictures from its ``.work``.
        out: where to write; each file is replaced atomically.
        console: where to print the leaderboard as well, if anywhere.
        suites: the suites to print; default: all.
        max_plots: maximum number of plots, not counting galleries of samples.
        svg: whether to write each plot as SVG, too.
    """
    records = list(records)
    runs = by_run(records)
    measured = lines(runs)
    tables = leaderboards(records, measured, suite_files(records, folder))
    newest_first = sorted(tables, key=lambda board: board.newest_execution, reverse=True)
    plots = dict(figures(newest_first, newest_curves(runs), max_plots, svg))
    hardware, work = hardware_by_suite(records), folder / ".work"
    plots |= galleries(tables, runs, work, plots_folder(out))
    contents = {
        "LEADERBOARD.md": markdown(tables, hardware, plots).encode(),
        "leaderboard.html": page(tables, hardware, runs, work),
        "leaderboard.csv": to_csv([*measured, *published_lines(tables)]).encode(),
        **{f"plots/{name}": content for name, content in plots.items()},
    }
    with storage_errors(out / "plots", "made"):
        plots_folder(out).mkdir(parents=True, exist_ok=True)
    write_together({out / name: content for name, content in contents.items()})
    _remove_old_plots(out / "plots", plots)
    if console:
        print_boards([table for table in tables if suites is None or table.suite in suites], console)
    return [out / name for name in contents]


def plots_folder(out: Path) -> Path:
    """Return the folder of plots in `out`.

    Raises:
        UsageError: `out` or the folder of plots exists and is not a folder, or the latter is a symbolic link.
    """
    for path in (out, out / "plots"):
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file, but the report needs a folder; move it or choose another --out")
    if (out / "plots").is_symlink():
        raise UsageError(f"{out / 'plots'} is a symbolic link, which the report does not follow; remove it")
    return out / "plots"


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write all files, or none if one cannot be written (e.g. the disk is full): then the old files stay as they are.

    Raises:
        StorageError: a file cannot be written; it is named.
    """
    new = {path: path.with_name(f".{secrets.token_hex(8)}.new") for path in contents}
    try:
        for path, content in contents.items():
            if path.is_dir() and not path.is_symlink():
                raise UsageError(f"{path} is a folder, but the report needs a file; move it or choose another --out")
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


def _remove_old_plots(folder: Path, current: Container[str]) -> None:
    """Remove plots of an earlier report that are not among `current`: no table links to them any more."""
    for path in folder.glob("*-v*.*.*"):
        _, kind, suffix = path.name.rsplit(".", 2)
        if kind in PLOT_KINDS and suffix in ("png", "svg") and path.name not in current and not path.is_dir():
            path.unlink()
