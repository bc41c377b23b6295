"""Records -> tables, figures, page, exports. Nothing heavy is imported before it is asked for."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from genbench.run import Record

if TYPE_CHECKING:
    from rich.console import Console

    from genbench.report.board import Board
    from genbench.report.tidy import Runs

__all__ = ["compare", "leaderboard", "show", "uncollected", "write"]

PLOTS = 12  # drawn where no number is said, those of the boards with the newest records first: ten take a second


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector from looking through thousands of records, which are all needed, again and again, and
    until the process ends through what is left, nearly all of it modules."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)
        if was:
            gc.enable()


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
    from genbench.report.boards import boards
    from genbench.report.markdown import markdown
    from genbench.report.page import page
    from genbench.report.protocol import suite_files
    from genbench.report.published import published_lines, with_published
    from genbench.report.terminal import print_boards
    from genbench.report.tidy import as_csv, by_run, lines, metrics_of
    from genbench.work import write_whole

    records = list(records)
    told, runs, files = lines(records), by_run(records), suite_files(records, folder)
    tables = [
        with_published(board, files.get((board.suite, board.version)))
        for board in boards(told, metrics_of(records, files.values()))
    ]
    if console:
        print_boards([table for table in tables if suites is None or table.suite in suites], console)
    plots = dict(_plots(tables, runs, folder / ".work", out / "plots", most, svg))
    written = {
        "LEADERBOARD.md": markdown(tables, records, plots).encode(),
        "leaderboard.html": page(tables, runs, folder / ".work").encode(),
        "leaderboard.csv": as_csv([*told, *published_lines(tables)]).encode(),
        **{f"plots/{name}": content for name, content in plots.items()},
    }
    (out / "plots").mkdir(parents=True, exist_ok=True)
    _tidied(out / "plots", plots)
    for name, content in written.items():
        write_whole(out / name, content)
    return [out / name for name in written]


def leaderboard(records: Iterable[Record], console: Console) -> None:
    """Print a table for each suite and data set."""
    from genbench.report import terminal

    terminal.leaderboard(records, console)


def show(records: Iterable[Record], console: Console) -> None:
    """Print all that the executions of one run say."""
    from genbench.report import terminal

    terminal.show(records, console)


def compare(a: Iterable[Record], b: Iterable[Record], console: Console) -> bool:
    """Print what changed from `a` to `b` beyond what seeds explain; return whether anything got worse."""
    from genbench.report.comparison import compared, print_comparison, regressions

    found = compared(a, b)
    print_comparison(found, console)
    return len(regressions(found)) > 0


def _plots(
    tables: Sequence[Board], runs: Runs, work: Path, out: Path, most: int, svg: bool
) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of each plot: of samples for every board, of other kinds up to `most`."""
    from genbench.report.curves import curves_of
    from genbench.report.figures import figures
    from genbench.report.gallery import galleries

    newest = sorted(tables, key=lambda board: board.newest, reverse=True)
    yield from figures(newest, curves_of(runs), most, svg)
    yield from galleries(tables, runs, work, out)


def _tidied(folder: Path, kept: Container[str]) -> None:
    """Remove plots of an earlier report that are not among `kept`: nothing shows them any more."""
    from genbench.report.figures import KINDS

    for path in folder.glob("*-v*.*.*"):
        _, kind, form = path.name.rsplit(".", 2)
        if kind in KINDS and form in ("png", "svg") and path.name not in kept:
            path.unlink()
