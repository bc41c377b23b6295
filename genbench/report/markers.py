"""How plots draw a row: color by model family, marker by kind of value, labels where they cover nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from genbench.report.board import Board, Row
from genbench.report.columns import KIND_ORDER, Column
from genbench.report.fonts import fit_text, legend_text, text_width
from genbench.report.marks import Mark, model_family

COLORS = ("#3b6fb6", "#d1702b", "#2f8f6b", "#b5486b", "#7a5fb0", "#8a7326", "#4f9bb8", "#6b6f76")
FAMILIES = {
    "flows": "flows",
    "vaes": "VAEs",
    "autoregressive": "autoregressive",
    "gans": "GANs",
    "mixtures": "mixtures",
    "autoencoders": "autoencoders",
    "contrastive": "contrastive",
}
PRIMARY_MARKERS = {"exact": "o", "bound": "<", "estimate": "s"}  # by kind, for the ranking measurement
OTHER_MARKERS = {"exact": "p", "bound": "D", "estimate": "s"}  # by kind, for another measurement on the same axis
DARK_GREY = "#3c4148"


# -------------------------------------------------------------------------------------------------------- colors


def family_colors(board: Board) -> dict[str, str]:
    """Return the color of each model family on a board, genbench's own first; {} if there is only one family."""
    present = sorted({model_family(row) for row in board.measured_rows})
    own = {name: COLORS[i] for i, name in enumerate(FAMILIES) if name in present}
    free = [color for color in COLORS[:-1] if color not in own.values()]
    others = [name for name in present if name not in own]
    colors = own | {name: free[i % len(free)] for i, name in enumerate(others)}
    return colors if len(colors) > 1 else {}


def row_color(row: Row, families: Mapping[str, str]) -> str:
    """Return the color of the row's family, or the row's own if there is only one family."""
    return families.get(model_family(row)) or COLORS[row.color_index % len(COLORS)]


# ------------------------------------------------------------------------------------------------ kinds of values


def marker(mark: Mark, vertical: bool = False) -> str:
    """Return the matplotlib marker of a mark on a horizontal or `vertical` axis; a bound's points to the true value."""
    form = (PRIMARY_MARKERS if mark.is_primary else OTHER_MARKERS)[mark.column.kind]
    arrows = {"lower": "<v", "higher": ">^", None: "<v"}[mark.column.better]
    return arrows[vertical] if form == "<" else form


def describe_kind(column: Column, marks: Iterable[Mark]) -> str:
    """Return the kind of a column's values and how `marks` were measured, as "bound, at most: L_16"."""
    lines = (line for mark in marks if mark.column == column for line in mark.cell.lines)
    details = ((line.impl or "").partition(", ")[2] for line in lines)
    detail = " or ".join(dict.fromkeys(text for text in details if text))
    limit = {"lower": ", at most", "higher": ", at least", None: ""}[column.better] if column.kind == "bound" else ""
    by = " by annealing" if column.measurement.startswith("ais_") else ""
    return f"{column.kind}{by}{limit}{f': {detail}' if detail else ''}"


def marker_meanings(marks: Sequence[Mark], vertical: bool = False) -> dict[str, str]:
    """Return what each marker stands for; {} if all values are exact and need no legend."""
    ordered = sorted(marks, key=lambda mark: (KIND_ORDER.index(mark.column.kind), not mark.is_primary))
    meanings = {marker(mark, vertical): describe_kind(mark.column, marks) for mark in ordered}
    return {} if {mark.column.kind for mark in marks} == {"exact"} and len(meanings) == 1 else meanings


def add_legends(figure: Figure, families: Mapping[str, str], markers: Mapping[str, str], top: float) -> None:
    """Draw the meanings of markers at the bottom of `figure`, and those of colors `top` inches below its upper edge."""
    marker_keys = [_legend_key(marker, DARK_GREY, text) for marker, text in markers.items()]
    color_keys = [_legend_key("s", color, FAMILIES.get(name, name)) for name, color in families.items()]
    spacing = {"handletextpad": 0.1, "borderaxespad": 0.3}
    if marker_keys:
        figure.legend(handles=marker_keys, loc="lower left", **spacing)
    if color_keys:
        anchor, ncols = (0, 1 - top / figure.get_figheight()), len(color_keys)
        figure.legend(
            handles=color_keys, loc="upper left", bbox_to_anchor=anchor, ncols=ncols, columnspacing=1.2, **spacing
        )


def _legend_key(marker: str, color: str, text: str) -> Line2D:
    return Line2D([], [], ls="", marker=marker, color=color, ms=5, label=legend_text(text, 8, 430))


# ---------------------------------------------------------------------------------------------------------- labels


SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))  # of a point, preferred ones first
DISTANCES = (6, 13, 20)  # from it, in points
MARKER_BOX = np.array([-4, -4, 4, 4])
Boxes = NDArray[np.float64]  # (n, 4): left, bottom, right, top


def overlaps(a: Boxes, b: Boxes) -> Boxes:
    """Return the areas of overlap of boxes (n, 4) with boxes (m, 4), (n, m)."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    areas: Boxes = np.maximum(sides, 0).prod(-1)
    return areas


def label_points(axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str], size: float = 8) -> None:
    """Write each name near its point, inside the axes, where it covers least of points, error bars and other names.

    The error bars are the line collections of `axes`.
    """
    names = [fit_text(name, size, 180) for name in names]
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()  # computes the limits, which transData needs
    scale = 72 / axes.figure.dpi
    positions = axes.transData.transform(points) * scale
    inside = np.array([axes.get_window_extent().extents]) * scale
    segments = (segment for c in axes.collections if isinstance(c, LineCollection) for segment in c.get_segments())
    bars = [axes.transData.transform(np.clip(bar, (left, low), (right, high))).ravel() * scale for bar in segments]
    taken = np.array([*(np.tile(xy, 2) + MARKER_BOX for xy in positions), *(bar + MARKER_BOX / 4 for bar in bars)])
    for xy, point, name in zip(positions, points, names, strict=True):
        width = text_width(name, size)
        offsets = np.array([_offset(dx, dy, far, width, size) for far in DISTANCES for dx, dy in SIDES])
        boxes = np.hstack([xy + offsets, xy + offsets + (width, size)])
        outside = width * size - overlaps(boxes, inside)[:, 0]
        best = np.argmin(overlaps(boxes, taken).sum(1) + 3 * outside + np.arange(len(boxes)))
        taken = np.vstack([taken, boxes[best]])
        x, y = offsets[best]
        axes.annotate(name, point, xytext=(x, y), textcoords="offset points", va="bottom", fontsize=size)


def _offset(dx: int, dy: int, distance: float, width: float, height: float) -> tuple[float, float]:
    """Return the lower left corner of a label's box, relative to its point, on the side (dx, dy) of `SIDES`."""
    x = {1: distance, 0: -width / 2, -1: -distance - width}[dx]
    return x, {1: 0.7 * distance, 0: -height / 2, -1: -0.7 * distance - height}[dy]
