"""The report's files: tables in Markdown, on a page and as CSV, and plots."""

from __future__ import annotations

from collections.abc import Container, Iterable
from pathlib import Path

from rich.console import Console

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
from genbench.report.tidy import as_csv, by_run, lines, metrics_of
from genbench.run import Record
from genbench.work import write_whole


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
    told = lines(runs)
    tables = [
        with_published(board, files.get((board.suite, board.version)))
        for board in boards(told, metrics_of(records, files.values()))
    ]
    if console:
        print_boards([table for table in tables if suites is None or table.suite in suites], console)
    newest = sorted(tables, key=lambda board: board.newest, reverse=True)
    plots = dict(figures(newest, curves_of(runs), most, svg))
    machines = measured_on(records)
    plots |= galleries(tables, runs, folder / ".work", out / "plots")
    written = {
        "LEADERBOARD.md": markdown(tables, machines, plots).encode(),
        "leaderboard.html": page(tables, machines, runs, folder / ".work"),
        "leaderboard.csv": as_csv([*told, *published_lines(tables)]).encode(),
        **{f"plots/{name}": content for name, content in plots.items()},
    }
    (out / "plots").mkdir(parents=True, exist_ok=True)
    _tidied(out / "plots", plots)
    for name, content in written.items():
        write_whole(out / name, content)
    return [out / name for name in written]


def _tidied(folder: Path, kept: Container[str]) -> None:
    """Remove plots of an earlier report that are not among `kept`: nothing shows them any more."""
    for path in folder.glob("*-v*.*.*"):
        _, kind, form = path.name.rsplit(".", 2)
        if kind in KINDS and form in ("png", "svg") and path.name not in kept:
            path.unlink()
