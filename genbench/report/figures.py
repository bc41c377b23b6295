"""Plots for papers and slides: intervals, quality against speed, learning curves, one of each for a board."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from genbench.report.board import Board, Cell, Column, Row
from genbench.report.curves import Curves, curve_of

COLOURS = ("#3b6fb6", "#d1702b", "#2f8f6b", "#b5486b", "#7a5fb0", "#8a7326", "#4f9bb8", "#6b6f76")
MARKERS = {"exact": "o", "bound": "v", "estimate": "s"}
STYLE: dict[Any, Any] = {
    **{
        "svg.fonttype": "none",
        "svg.hashsalt": "genbench",
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "text.parse_math": False,
    },
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10, "axes.titlelocation": "left"},
    **{"grid.alpha": 0.25, "grid.linewidth": 0.6, "legend.frameon": False, "legend.fontsize": 8},
}
WIDTH = 6.5  # inches
ROWS = 20  # rows a plot has at most: the first of the board

Draw = Callable[[Board], Figure | None]


def figures(board: Board, curves: Curves) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, content) of PNG and SVG plots of what the board has numbers for.

    `curves` are learning curves by (suite, run id).
    """
    drawing: dict[str, Draw] = {"intervals": intervals, "speed": scatter, "learning": partial(learning, curves=curves)}
    for name, draw in drawing.items():
        with matplotlib.rc_context(STYLE):
            figure = draw(board)
            files = rendered(figure) if figure else {}
        yield from ((f"{board.key}.{name}.{form}", content) for form, content in files.items())


def rendered(figure: Figure) -> dict[str, bytes]:
    """Return the figure as "png" and "svg", the same bytes for the same figure."""
    files = {"png": io.BytesIO(), "svg": io.BytesIO()}
    for form, file in files.items():
        figure.savefig(file, format=form, dpi=140, metadata={"Date": None} if form == "svg" else {"Software": None})
    return {form: file.getvalue() for form, file in files.items()}


def _axes(title: str, height: float = 3.4, left: float = 0.7) -> tuple[Figure, Axes]:
    """Return a figure `WIDTH` inches wide and its axes, `left` inches from its edge: margins that need no search."""
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((left / WIDTH, 0.5 / height, 1 - (left + 0.2) / WIDTH, 1 - 0.8 / height))
    axes.set_title(title)
    axes.grid(True)
    return figure, axes


def _valued(board: Board, *columns: Column | None) -> list[Row]:
    wanted = [row for row in board.rows if all(c and c in row.cells and row.cells[c].mean is not None for c in columns)]
    return wanted[:ROWS]


def _colour(row: Row) -> str:
    return COLOURS[row.hue % len(COLOURS)]


def _label(column: Column) -> str:
    return f"{column.heading}, {column.unit}" if column.shown_unit else column.heading


def _title(board: Board) -> str:
    return f"{board.suite} v{board.version}, {board.data}"


def intervals(board: Board) -> Figure | None:
    """Return the primary measurement: each seed a dot, the mean and its 95 % interval a bar, the best on top."""
    columns = [column for column in board.columns if column.measurement == board.primary]
    drawn = [(row, column) for column in columns for row in _valued(board, column)][:ROWS]
    if not drawn:
        return None
    names = [f"{row.label}{f' ({row.failures})' if row.failures else ''}" for row, _ in drawn]
    figure, axes = _axes(_title(board), 1.0 + 0.26 * len(drawn), min(3.0, 0.25 + 0.085 * max(map(len, names))))
    colours = [_colour(row) for row, _ in drawn]
    ends = [_ends(row.cells[column]) for row, column in drawn]
    axes.hlines(range(len(drawn)), [low for low, _ in ends], [high for _, high in ends], colours, lw=1.6)
    for y, (row, column) in enumerate(drawn):
        fill = "none" if row.published else colours[y]
        axes.plot(row.cells[column].mean, y, MARKERS[column.kind], ms=5, color=colours[y], mfc=fill)  # type: ignore[arg-type]
        singles = [seed.value for seed in row.cells[column].seeds if seed.value is not None]
        axes.plot(singles, [y] * len(singles), "|", ms=7, color=colours[y], alpha=0.6)
    axes.set_yticks(range(len(drawn)), names)
    axes.set_ylim(len(drawn) - 0.5, -0.5)
    axes.set_xlabel(" / ".join(dict.fromkeys(map(_label, columns))))
    return figure


def _ends(cell: Cell) -> tuple[float, float]:
    mean, half = cell.mean or 0.0, cell.half or 0.0
    return mean - half, mean + half


def scatter(board: Board) -> Figure | None:
    """Return the primary measurement against speed, with intervals over seeds or the spread of repetitions."""
    quality, speed = next(iter(board.columns), None), board.speed
    drawn = _valued(board, quality, speed)
    if not drawn or not quality or not speed or quality == speed:
        return None
    figure, axes = _axes(_title(board))
    for row in drawn:
        x, y = row.cells[speed], row.cells[quality]
        axes.errorbar(x.mean, y.mean, xerr=_spread(x), yerr=y.half, fmt=MARKERS[quality.kind], ms=6, color=_colour(row))  # type: ignore[arg-type]
        axes.annotate(row.name, (x.mean, y.mean), xytext=(6, 4), textcoords="offset points", fontsize=8)
    speeds = [row.cells[speed].mean or 0.0 for row in drawn]
    if max(speeds) > 4 * min(speeds) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.margins(x=0.12)
    axes.set_xlabel(_label(speed))
    axes.set_ylabel(_label(quality))
    return figure


def _spread(cell: Cell) -> Any:
    if cell.mean is not None and cell.half is None and cell.p20 is not None and cell.p80 is not None:
        return [[max(0.0, cell.mean - cell.p20)], [max(0.0, cell.p80 - cell.mean)]]
    return cell.half


def learning(board: Board, curves: Curves) -> Figure | None:
    """Return validation scores by step, or training losses where there are none, on the first seed of each row."""
    drawn = [(row, points) for row in board.rows if (points := curve_of(board, row, curves))][:ROWS]
    if not drawn:
        return None
    validated = any(point.validation is not None for _, points in drawn for point in points)
    figure, axes = _axes(_title(board))
    shown: list[float] = []
    for row, points in drawn:
        values = [(p.step, p.validation if validated else p.loss) for p in points]
        kept = {step: value for step, value in values if value is not None}
        axes.plot(list(kept), list(kept.values()), color=_colour(row), lw=1.3, label=row.name)
        shown += kept.values()
    axes.set_ylim(*_middle(shown))
    axes.set_xlabel("step")
    axes.set_ylabel("validation, nats" if validated else "training loss")
    if len(drawn) <= 12:
        axes.legend()
    return figure


def _middle(values: list[float]) -> tuple[float, float]:
    """Return limits that leave out the highest twelfth: the first steps of a run tower above the rest."""
    ordered = sorted(values) or [0.0]
    low, high = ordered[0], ordered[int(0.92 * (len(ordered) - 1))]
    return low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1)
