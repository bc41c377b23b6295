"""Plots for papers and slides, one of each kind for a board that has numbers for it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, TypeGuard

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator, ScalarFormatter
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from genbench.report.axis import LIKELIHOODS, Mark, fid_of, marks_of
from genbench.report.board import Board, Cell, Column, Row
from genbench.report.curves import Curves, curve_of
from genbench.report.lettering import fitted, fonts, keyed, lettered, width
from genbench.report.marks import COLOURS, INK, annotate, colour, kinds_of, legend, palette, shape

STYLE: dict[Any, Any] = {
    **{
        "svg.fonttype": "none",
        "svg.hashsalt": "genbench",
        "font.family": fonts(),
        "font.size": 9,
        "text.parse_math": False,
    },
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10, "axes.titlelocation": "left"},
    **{"grid.alpha": 0.25, "grid.linewidth": 0.6, "legend.frameon": False, "legend.fontsize": 8},
}
WIDTH = 6.5  # inches
ROWS = 20  # rows a plot has at most: the first of the board
HUGE = 1e100  # beyond it matplotlib's own arithmetic overflows: such values stand in tables only
AXIS = 80  # letters of an axis label
SHADES = 128  # colours of a PNG
DPI = 140  # of a PNG

KINDS = ("intervals", "quality", "speed", "learning", "samples")  # of plots, as their files are named

Draw = Callable[[Board], Figure | None]
Point = tuple[Mark, Cell, Cell]  # a row, and where it stands


def figures(boards: Sequence[Board], curves: Curves, most: int, svg: bool = False) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, content) of plots of what `boards` have numbers for, a PNG each and, if asked for, an SVG.

    The first kind is drawn of each board before the next kind is of any.

    Args:
        curves: learning curves by (suite, run id).
        most: plots that are drawn.
    """
    draws: list[Draw] = [intervals, quality, speed, partial(learning, curves=curves)]
    drawn = (
        (f"{board.key}.{name}", figure)
        for name, draw in zip(KINDS, draws, strict=False)
        for board in boards
        if (figure := styled(draw, board))
    )
    for name, figure in islice(drawn, most):
        yield from ((f"{name}.{form}", content) for form, content in rendered(figure, svg).items())


def styled(draw: Draw, board: Board) -> Figure | None:
    """Return what `draw` makes of `board` in the style of all plots."""
    with matplotlib.rc_context(STYLE):
        return draw(board)


def rendered(figure: Figure, svg: bool = False, shades: int | None = SHADES, about: str = "") -> dict[str, bytes]:
    """Return the figure as "png" on white and, if asked for, as "svg"; the same bytes for the same figure.

    A PNG has `shades` colours, which makes it a third as large (None: all), and says `about` in its text "Source".
    """
    said, files = PngInfo(), {form: io.BytesIO() for form in (("png", "svg") if svg else ("png",))}
    if about:
        said.add_text("Source", about)
    with matplotlib.rc_context(STYLE):
        if svg:
            figure.savefig(files["svg"], format="svg", metadata={"Date": None})
        figure.set_dpi(DPI)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # type: ignore[no-untyped-call]
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")  # type: ignore[no-untyped-call]
    if shades:
        picture = picture.quantize(shades, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    picture.save(files["png"], "png", pnginfo=said)
    return {form: file.getvalue() for form, file in files.items()}


# ------------------------------------------------------------------------------------------------------- a frame


def _axes(
    board: Board, marks: Sequence[Mark] = (), height: float = 2.6, left: float = 0.7, upright: bool = False
) -> tuple[Figure, Axes, dict[str, str]]:
    """Return a figure `WIDTH` inches wide, its axes of `height` inches, and the colours of families.

    Around the axes are a title and the legends of `marks`, in margins that need no search.
    """
    families, kinds = palette(board) if marks else {}, kinds_of(marks, upright)
    head, foot = 0.3 + 0.22 * bool(families), 0.5 + 0.17 * len(kinds) + 0.05 * bool(kinds)
    whole = head + height + foot
    figure = Figure(figsize=(WIDTH, whole))
    axes = figure.add_axes((left / WIDTH, foot / whole, 1 - (left + 0.2) / WIDTH, height / whole))
    figure.text(0.1 / WIDTH, 1 - 0.08 / whole, title(board), fontsize=10, va="top")
    legend(figure, families, kinds, 0.26)
    axes.grid(True)
    return figure, axes, families


def _label(column: Column) -> str:
    return lettered(f"{column.heading}, {column.unit}" if column.shown_unit else column.heading)[:AXIS]


def _axis_label(column: Column) -> str:
    """Return the label of an axis that several kinds share."""
    arrow = {"lower": " ↓", "higher": " ↑", None: ""}[column.better]
    return f"{lettered(column.shown_unit or column.measurement.replace('_', ' '))[:AXIS]}{arrow}"


def title(board: Board) -> str:
    """Return what stands above the plots of a board."""
    return fitted(f"{board.suite} v{board.version}, {board.data}", 10, 72 * WIDTH - 15)


# ------------------------------------------------------------------------------------------- what orders the rows


def intervals(board: Board) -> Figure | None:
    """Return the rows on one axis: each seed a tick, the mean and its 95 % interval a bar, the best on top."""
    marks, size = _drawable(board), 9
    if not marks:
        return None
    rows = list(dict.fromkeys(id(mark.row) for mark in marks))
    heights = {row: y for y, row in enumerate(rows)}
    names = {id(mark.row): fitted(_name(mark.row), size, 190) for mark in marks}
    left = 0.25 + max(width(name, size) for name in names.values()) / 72
    figure, axes, families = _axes(board, marks, 0.24 * len(rows), left)
    spots = [(mark, heights[id(mark.row)] + _aside(mark, marks), colour(mark.row, families)) for mark in marks]
    bars = [(y, *_ends(mark.cell), paint) for mark, y, paint in spots]
    axes.hlines(*zip(*bars, strict=True), lw=1.6)
    ticks = [(seed.value, y, paint) for mark, y, paint in spots for seed in mark.cell.seeds if _fits(seed.value)]
    if ticks:
        x, y, c = zip(*ticks, strict=True)
        axes.scatter(x, y, s=49, c=c, marker="|", alpha=0.6)
    for form, hollow in dict.fromkeys((shape(mark), bool(mark.row.published)) for mark, _, _ in spots):
        alike = [spot for spot in spots if (shape(spot[0]), bool(spot[0].row.published)) == (form, hollow)]
        x, y, paint = zip(*((mark.cell.mean or 0.0, height, paint) for mark, height, paint in alike), strict=True)
        axes.scatter(x, y, s=25, c="white" if hollow else paint, edgecolors=paint, marker=form, zorder=2)
    _named(axes, [names[row] for row in rows])
    axes.set_xlabel(_axis_label(marks[0].column), loc="right")
    return figure


def _named(axes: Axes, names: Sequence[str]) -> None:
    """Write `names` left of heights 0, 1, ..., each with a line; ticks of an axis take five times as long."""
    across = axes.get_yaxis_transform()
    axes.set_yticks([])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.hlines(range(len(names)), 0, 1, transform=across, colors="#b0b0b0", alpha=0.25, lw=0.6, zorder=0)
    for height, name in enumerate(names):
        axes.text(-5 / 72 / WIDTH, height, name, transform=across, ha="right", va="center")


def _name(row: Row) -> str:
    return f"{row.label} ({row.failures})" if row.failures else row.label


def _aside(mark: Mark, marks: Sequence[Mark]) -> float:
    """Return how far a mark lies below the middle of its row, which it may share."""
    columns = [other.column for other in marks if other.row is mark.row]
    return 0.3 * (columns.index(mark.column) - (len(columns) - 1) / 2)


def _ends(cell: Cell) -> tuple[float, float]:
    mean, half = cell.mean or 0.0, cell.half if cell.half and _fits(cell.half) else 0.0
    return mean - half, mean + half


def _fits(value: float | None) -> TypeGuard[float]:
    """Whether there is a value and an axis can show it."""
    return value is not None and abs(value) < HUGE


def _drawable(board: Board) -> list[Mark]:
    """Return the marks of the best rows whose values an axis can show."""
    return [mark for mark in marks_of(board, ROWS) if _fits(mark.cell.mean)]


# --------------------------------------------------------------------------------------------- one against another


def quality(board: Board) -> Figure | None:
    """Return FID against likelihood, where two rows have both, with the FID of new data.

    The two need not rank alike: A Note on the Evaluation of Generative Models (2016).
    """
    fid = fid_of(board)
    marks = _with(board, fid) if board.primary in LIKELIHOODS else []
    if fid is None or len(marks) < 2:
        return None
    points = [(mark, mark.cell, mark.row.cells[fid]) for mark in marks]
    figure, axes = _against(board, points, upright=False)
    _scaled(axes.yaxis, [y.mean or 0.0 for _, _, y in points])
    floor = fid.measurement.replace("fid", "fid_floor", 1)
    cells = [cell for row in board.rows for column, cell in row.cells.items() if column.measurement == floor]
    floors = [cell.mean for cell in cells if cell.mean and _fits(cell.mean) and not cell.invalid]
    if floors:
        level = sum(floors) / len(floors)
        axes.axhline(level, ls=":", lw=1, color=INK)
        axes.text(0.995, level, "new data", transform=axes.get_yaxis_transform(), ha="right", va="bottom", fontsize=8)
    axes.set_xlabel(_axis_label(marks[0].column), loc="right")
    net = fid.measurement.partition("[")[2].removesuffix("]")
    axes.set_ylabel(f"FID{f', features of {lettered(net)[:AXIS]}' if net else ''} ↓")
    annotate(axes, [(x.mean or 0.0, y.mean or 0.0) for _, x, y in points], [mark.row.label for mark in marks])
    return figure


def speed(board: Board) -> Figure | None:
    """Return what orders the rows against speed, with intervals over seeds or the spread of repetitions."""
    rate = board.speed
    marks = _with(board, rate)
    if rate is None or not marks or rate == marks[0].column:
        return None
    points = [(mark, mark.row.cells[rate], mark.cell) for mark in marks]
    figure, axes = _against(board, points, upright=True)
    _scaled(axes.xaxis, [x.mean or 0.0 for _, x, _ in points])
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel(_label(rate), loc="right")
    axes.set_ylabel(_axis_label(marks[0].column))
    annotate(axes, [(x.mean or 0.0, y.mean or 0.0) for _, x, y in points], [mark.row.label for mark in marks])
    return figure


def _with(board: Board, column: Column | None) -> list[Mark]:
    """Return the first mark of each row that has a value in `column`, too."""
    first = {mark.row.name: mark for mark in reversed(_drawable(board))}
    cells = {row.name: row.cells[column] for row in board.measured if column in row.cells} if column else {}
    valued = {name for name, cell in cells.items() if _fits(cell.mean) and not cell.invalid}
    return [mark for name, mark in reversed(first.items()) if name in valued and not mark.row.published]


def _against(board: Board, points: Sequence[Point], upright: bool) -> tuple[Figure, Axes]:
    """Return a figure with a mark for each of `points`, of what orders the rows on the `upright` axis or the other."""
    figure, axes, families = _axes(board, [mark for mark, _, _ in points], upright=upright)
    for mark, x, y in points:
        style = {"fmt": shape(mark, upright), "ms": 6, "color": colour(mark.row, families)}
        axes.errorbar(x.mean, y.mean, xerr=_spread(x), yerr=_spread(y), **style)  # type: ignore[arg-type]
    axes.margins(0.08)
    return figure, axes


def _scaled(axis: Axis, values: Sequence[float]) -> None:
    """Make an axis logarithmic where `values` differ by more than a factor of four."""
    if max(values) > 4 * min(values) > 0:
        axis._set_axes_scale("log")  # type: ignore[attr-defined]
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_locator(NullLocator())


def _spread(cell: Cell) -> Any:
    if cell.mean is not None and cell.half is None and cell.p20 is not None and cell.p80 is not None:
        spread = [[max(0.0, cell.mean - cell.p20)], [max(0.0, cell.p80 - cell.mean)]]
        return spread if _fits(sum(map(sum, spread))) else None
    return cell.half if _fits(cell.half) else None


# ------------------------------------------------------------------------------------------------------- learning


def learning(board: Board, curves: Curves) -> Figure | None:
    """Return validation scores by step, or training losses where there are none, on the first seed of each row."""
    drawn = [(row, points) for row in board.rows if (points := curve_of(board, row, curves))][:ROWS]
    if not drawn:
        return None
    validated = any(point.validation is not None for _, points in drawn for point in points)
    figure, axes, _ = _axes(board)
    shown: list[float] = []
    for row, points in drawn:
        values = [(float(min(p.step, HUGE)), p.validation if validated else p.loss) for p in points]
        plotted = {step: value for step, value in values if _fits(value) and _fits(step)}
        axes.plot(
            list(plotted),
            list(plotted.values()),
            color=COLOURS[row.hue % len(COLOURS)],
            lw=1.3,
            label=keyed(row.name, 8, 150),
        )
        shown += plotted.values()
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


# -------------------------------------------------------------------------------------------------------- samples


def panels(title: str, pictures: Sequence[tuple[str, Image.Image]]) -> Figure:
    """Return pictures side by side, each under its name."""
    side = (WIDTH - 0.1) / max(4, len(pictures))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, side + 0.4))
        figure.text(0.1 / WIDTH, 1 - 0.06 / (side + 0.4), title, fontsize=10, va="top")
        for i, (name, picture) in enumerate(pictures):
            axes = figure.add_axes(((0.1 + i * side) / WIDTH, 0, (side - 0.1) / WIDTH, (side - 0.1) / (side + 0.4)))
            pixels = round((side - 0.1) * DPI)
            axes.imshow(_squared(picture.convert("RGB"), pixels), interpolation="nearest")
            axes.set_title(fitted(name, 8, 72 * side - 10), fontsize=8)
            axes.set_axis_off()
    return figure


def _squared(picture: Image.Image, side: int) -> Image.Image:
    """Return a picture scaled to fit a white square, in its own proportions."""
    wide, high = (max(1, round(side * edge / max(picture.size))) for edge in picture.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(picture.resize((wide, high)), ((side - wide) // 2, (side - high) // 2))
    return square
