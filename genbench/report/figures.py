"""Plots for papers and slides: one of each kind per board that has the numbers for it."""

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

from genbench.report.board import Board, Cell, Row
from genbench.report.columns import Column
from genbench.report.curves import Curves, row_curve
from genbench.report.fonts import drawable, fit_text, legend_text, plot_fonts, text_width
from genbench.report.markers import (
    COLORS,
    DARK_GREY,
    add_legends,
    family_colors,
    label_points,
    marker,
    marker_meanings,
    row_color,
)
from genbench.report.marks import LIKELIHOODS, Mark, fid_column, ranking_marks

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "genbench",
    "font.family": plot_fonts(),
    "font.size": 9,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
WIDTH = 6.5  # inches
MAX_ROWS = 20  # of a plot: the first rows of the board
MAX_CURVES_IN_LEGEND = 12
LARGEST = 1e100  # matplotlib overflows beyond: such values are shown in tables only
MAX_LABEL_LENGTH = 80  # characters of an axis label
SHADES = 128  # colors of a PNG
DPI = 140  # of a PNG

PLOT_KINDS = ("intervals", "quality", "speed", "learning", "samples")  # as in the names of their files

Draw = Callable[[Board], Figure | None]
PlotPoint = tuple[Mark, Cell, Cell]  # a row, and its cells on the horizontal and vertical axis


def figures(boards: Sequence[Board], curves: Curves, max_plots: int, svg: bool = False) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, content) of at most `max_plots` plots of `boards`, each as PNG and, with `svg`, as SVG.

    The first kind of plot is drawn for each board before the next kind is drawn for any.

    Args:
        curves: learning curves by (suite, run id).
    """
    draws: list[Draw] = [plot_intervals, plot_quality, plot_speed, partial(plot_learning_curves, curves=curves)]
    drawn = (
        (f"{board.key}.{kind}", figure)
        for kind, draw in zip(PLOT_KINDS, draws, strict=False)
        for board in boards
        if (figure := draw_in_style(draw, board))
    )
    for name, figure in islice(drawn, max_plots):
        yield from ((f"{name}.{suffix}", content) for suffix, content in render(figure, svg).items())


def draw_in_style(draw: Draw, board: Board) -> Figure | None:
    """Return the figure that `draw` makes of `board`, in the common style."""
    with matplotlib.rc_context(STYLE):
        return draw(board)


def render(figure: Figure, svg: bool = False, shades: int | None = SHADES, source: str = "") -> dict[str, bytes]:
    """Return the figure as "png" on white and, with `svg`, as "svg"; the same figure gives the same bytes.

    Args:
        shades: colors of the PNG, which make it a third as large; None: all.
        source: stored in the PNG as its text "Source".
    """
    info, files = PngInfo(), {suffix: io.BytesIO() for suffix in (("png", "svg") if svg else ("png",))}
    if source:
        info.add_text("Source", source)
    with matplotlib.rc_context(STYLE):
        if svg:
            figure.savefig(files["svg"], format="svg", metadata={"Date": None})
        figure.set_dpi(DPI)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # type: ignore[no-untyped-call]
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")  # type: ignore[no-untyped-call]
    if shades:
        picture = picture.quantize(shades, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    picture.save(files["png"], "png", pnginfo=info)
    return {suffix: file.getvalue() for suffix, file in files.items()}


# ------------------------------------------------------------------------------------------- figure, title, labels


def _new_axes(
    board: Board, marks: Sequence[Mark] = (), height: float = 2.6, left: float = 0.7, vertical: bool = False
) -> tuple[Figure, Axes, dict[str, str]]:
    """Return a figure `WIDTH` inches wide, its axes of `height` inches, and the colors of model families.

    A title and the legends of `marks` surround the axes, in margins of computed size.
    """
    families, meanings = family_colors(board) if marks else {}, marker_meanings(marks, vertical)
    top, bottom = 0.3 + 0.22 * bool(families), 0.5 + 0.17 * len(meanings) + 0.05 * bool(meanings)
    total = top + height + bottom
    figure = Figure(figsize=(WIDTH, total))
    axes = figure.add_axes((left / WIDTH, bottom / total, 1 - (left + 0.2) / WIDTH, height / total))
    figure.text(0.1 / WIDTH, 1 - 0.08 / total, plot_title(board), fontsize=10, va="top")
    add_legends(figure, families, meanings, 0.26)
    axes.grid(True)
    return figure, axes, families


def plot_title(board: Board) -> str:
    """Return the title of the plots of a board."""
    return fit_text(f"{board.suite} v{board.version}, {board.data}", 10, 72 * WIDTH - 15)


def _axis_label(title: str) -> str:
    """Return the `title` of a column as the label of an axis."""
    text = drawable(title)
    return text if len(text) <= MAX_LABEL_LENGTH else f"{text[: MAX_LABEL_LENGTH - 1]}…"


# ------------------------------------------------------------------------------------------- ranking measurement


def plot_intervals(board: Board) -> Figure | None:
    """Return the rows on one axis, best on top: a tick per seed, a bar for the mean and its 95 % interval."""
    marks, size = _drawable_marks(board), 9
    if not marks:
        return None
    rows = list(dict.fromkeys(id(mark.row) for mark in marks))
    heights = {row: y for y, row in enumerate(rows)}
    names = {id(mark.row): fit_text(_row_name(mark.row), size, 190) for mark in marks}
    left = 0.25 + max(text_width(name, size) for name in names.values()) / 72
    figure, axes, families = _new_axes(board, marks, 0.24 * len(rows), left)
    placed = [(mark, heights[id(mark.row)] + _shift(mark, marks), row_color(mark.row, families)) for mark in marks]
    bars = [(y, *_interval_ends(mark.cell), color) for mark, y, color in placed]
    axes.hlines(*zip(*bars, strict=True), lw=1.6)
    ticks = [
        (line.value, y, color) for mark, y, color in placed for line in mark.cell.lines if _is_drawable(line.value)
    ]
    if ticks:
        xs, ys, colors = zip(*ticks, strict=True)
        axes.scatter(xs, ys, s=49, c=colors, marker="|", alpha=0.6)
    groups: dict[tuple[str, bool], list[tuple[Mark, float, str]]] = {}
    for mark, y, color in placed:
        groups.setdefault((marker(mark), bool(mark.row.published)), []).append((mark, y, color))
    for (form, hollow), group in groups.items():
        xs, ys, colors = zip(*((mark.cell.mean or 0.0, y, color) for mark, y, color in group), strict=True)
        axes.scatter(xs, ys, s=25, c="white" if hollow else colors, edgecolors=colors, marker=form, zorder=2)
    _write_row_names(axes, [names[row] for row in rows])
    axes.set_xlabel(_axis_label(marks[0].column.axis_title), loc="right")
    return figure


def _write_row_names(axes: Axes, names: Sequence[str]) -> None:
    """Write `names` left of heights 0, 1, ..., each with a grid line: five times as fast as the ticks of an axis."""
    transform = axes.get_yaxis_transform()
    axes.set_yticks([])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.hlines(range(len(names)), 0, 1, transform=transform, colors="#b0b0b0", alpha=0.25, lw=0.6, zorder=0)
    for height, name in enumerate(names):
        axes.text(-5 / 72 / WIDTH, height, name, transform=transform, ha="right", va="center")


def _row_name(row: Row) -> str:
    return f"{row.label} ({row.failures})" if row.failures else row.label


def _shift(mark: Mark, marks: Sequence[Mark]) -> float:
    """Return how far a mark is below the middle of its row, which it may share with other marks."""
    columns = [other.column for other in marks if other.row is mark.row]
    return 0.3 * (columns.index(mark.column) - (len(columns) - 1) / 2)


def _interval_ends(cell: Cell) -> tuple[float, float]:
    mean, half = cell.mean or 0.0, cell.half_width if cell.half_width and _is_drawable(cell.half_width) else 0.0
    return mean - half, mean + half


def _is_drawable(value: float | None) -> TypeGuard[float]:
    """Return whether there is a value that an axis can show."""
    return value is not None and abs(value) < LARGEST


def _drawable_marks(board: Board) -> list[Mark]:
    """Return the marks of the best rows, without values that an axis cannot show."""
    return [mark for mark in ranking_marks(board, MAX_ROWS) if _is_drawable(mark.cell.mean)]


# ------------------------------------------------------------------------------------------------------- scatter


def plot_quality(board: Board) -> Figure | None:
    """Return FID against likelihood, with the FID of new data; None unless two rows have both.

    The two need not agree: A Note on the Evaluation of Generative Models (2016).
    """
    fid = fid_column(board)
    marks = _marks_with(board, fid) if board.primary in LIKELIHOODS else []
    if fid is None or len(marks) < 2:
        return None
    points = [(mark, mark.cell, mark.row.cells[fid]) for mark in marks]
    figure, axes = _scatter(board, points, vertical=False)
    _choose_scale(axes.yaxis, [y.mean or 0.0 for _, _, y in points])
    floor = fid.measurement.replace("fid", "fid_floor", 1)
    cells = [cell for row in board.rows for column, cell in row.cells.items() if column.measurement == floor]
    floors = [cell.mean for cell in cells if cell.mean and _is_drawable(cell.mean) and not cell.n_invalid]
    if floors:
        level, transform = sum(floors) / len(floors), axes.get_yaxis_transform()
        axes.axhline(level, ls=":", lw=1, color=DARK_GREY)
        axes.text(0.995, level, "new data", transform=transform, ha="right", va="bottom", fontsize=8)
    axes.set_xlabel(_axis_label(marks[0].column.axis_title), loc="right")
    axes.set_ylabel(_axis_label(fid.title))
    label_points(axes, [(x.mean or 0.0, y.mean or 0.0) for _, x, y in points], [mark.row.label for mark in marks])
    return figure


def plot_speed(board: Board) -> Figure | None:
    """Return the ranking measurement against speed, with intervals over seeds or the spread of repetitions."""
    rate = board.speed
    marks = _marks_with(board, rate)
    if rate is None or not marks or rate == marks[0].column:
        return None
    points = [(mark, mark.row.cells[rate], mark.cell) for mark in marks]
    figure, axes = _scatter(board, points, vertical=True)
    _choose_scale(axes.xaxis, [x.mean or 0.0 for _, x, _ in points])
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel(_axis_label(rate.title), loc="right")
    axes.set_ylabel(_axis_label(marks[0].column.axis_title))
    label_points(axes, [(x.mean or 0.0, y.mean or 0.0) for _, x, y in points], [mark.row.label for mark in marks])
    return figure


def _marks_with(board: Board, column: Column | None) -> list[Mark]:
    """Return the first mark of each measured row that also has a value in `column`."""
    first = {mark.row.name: mark for mark in reversed(_drawable_marks(board))}
    cells = {row.name: row.cells[column] for row in board.measured_rows if column in row.cells} if column else {}
    valued = {name for name, cell in cells.items() if _is_drawable(cell.mean) and not cell.n_invalid}
    return [mark for name, mark in reversed(first.items()) if name in valued and not mark.row.published]


def _scatter(board: Board, points: Sequence[PlotPoint], vertical: bool) -> tuple[Figure, Axes]:
    """Return a scatter plot of `points`; the axis of the ranking measurement is the vertical one or the other."""
    figure, axes, families = _new_axes(board, [mark for mark, _, _ in points], vertical=vertical)
    for mark, x, y in points:
        style = {"fmt": marker(mark, vertical), "ms": 6, "color": row_color(mark.row, families)}
        axes.errorbar(x.mean, y.mean, xerr=_error_bar(x), yerr=_error_bar(y), **style)  # type: ignore[arg-type]
    axes.margins(0.08)
    return figure, axes


def _choose_scale(axis: Axis, values: Sequence[float]) -> None:
    """Make an axis logarithmic if `values` differ by more than a factor of four."""
    if max(values) > 4 * min(values) > 0:
        axis._set_axes_scale("log")  # type: ignore[attr-defined]
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_locator(NullLocator())


def _error_bar(cell: Cell) -> Any:
    """Return the error bar of a cell: its interval over seeds, the spread of repetitions, or None."""
    if cell.mean is not None and cell.half_width is None and cell.p20 is not None and cell.p80 is not None:
        spread = [[max(0.0, cell.mean - cell.p20)], [max(0.0, cell.p80 - cell.mean)]]
        return spread if _is_drawable(sum(map(sum, spread))) else None
    return cell.half_width if _is_drawable(cell.half_width) else None


# ------------------------------------------------------------------------------------------------ learning curves


def plot_learning_curves(board: Board, curves: Curves) -> Figure | None:
    """Return validation scores by step for the first seed of each row, or training losses if there are no scores."""
    drawn = [(row, points) for row in board.rows if (points := row_curve(board, row, curves))][:MAX_ROWS]
    if not drawn:
        return None
    validated = any(point.validation is not None for _, points in drawn for point in points)
    figure, axes, _ = _new_axes(board)
    shown: list[float] = []
    for row, points in drawn:
        values = [(float(min(p.step, LARGEST)), p.validation if validated else p.loss) for p in points]
        plotted = {step: value for step, value in values if _is_drawable(value) and _is_drawable(step)}
        color, label = COLORS[row.color_index % len(COLORS)], legend_text(row.name, 8, 150)
        axes.plot(list(plotted), list(plotted.values()), color=color, lw=1.3, label=label)
        shown += plotted.values()
    axes.set_ylim(*_robust_limits(shown))
    axes.set_xlabel("step")
    axes.set_ylabel("validation NLL (nats)" if validated else "training loss")
    if len(drawn) <= MAX_CURVES_IN_LEGEND:
        axes.legend()
    return figure


def _robust_limits(values: list[float]) -> tuple[float, float]:
    """Return axis limits that leave out the highest twelfth of values: losses of the first steps dwarf the others."""
    ordered = sorted(values) or [0.0]
    low, high = ordered[0], ordered[int(0.92 * (len(ordered) - 1))]
    return low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1)


# -------------------------------------------------------------------------------------------------------- samples


def sample_panels(title: str, pictures: Sequence[tuple[str, Image.Image]]) -> Figure:
    """Return pictures side by side, each under its name."""
    side = (WIDTH - 0.1) / max(4, len(pictures))
    height = side + 0.4
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height))
        figure.text(0.1 / WIDTH, 1 - 0.06 / height, title, fontsize=10, va="top")
        for i, (name, picture) in enumerate(pictures):
            axes = figure.add_axes(((0.1 + i * side) / WIDTH, 0, (side - 0.1) / WIDTH, (side - 0.1) / height))
            pixels = round((side - 0.1) * DPI)
            axes.imshow(_pad_to_square(picture.convert("RGB"), pixels), interpolation="nearest")
            axes.set_title(fit_text(name, 8, 72 * side - 10), fontsize=8)
            axes.set_axis_off()
    return figure


def _pad_to_square(picture: Image.Image, side: int) -> Image.Image:
    """Return a picture scaled into a white square, with its proportions unchanged."""
    width, height = (max(1, round(side * edge / max(picture.size))) for edge in picture.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(picture.resize((width, height)), ((side - width) // 2, (side - height) // 2))
    return square
