"""How figures mark a row: colour by family, shape by what kind of number it is, names where they cover nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath

from genbench.report.axis import Mark, family
from genbench.report.board import Board, Column, Row

COLOURS = ("#3b6fb6", "#d1702b", "#2f8f6b", "#b5486b", "#7a5fb0", "#8a7326", "#4f9bb8", "#6b6f76")
FAMILIES = {
    "flows": "flows",
    "vaes": "VAEs",
    "autoregressive": "autoregressive",
    "gans": "GANs",
    "mixtures": "mixtures",
    "autoencoders": "autoencoders",
    "contrastive": "contrastive",
}
SHAPES = {"exact": "o", "bound": "<", "estimate": "s"}  # of the measurement that orders the rows
OTHER = {"exact": "p", "bound": "D", "estimate": "s"}  # of another on the same axis
KINDS = tuple(SHAPES)
INK = "#3c4148"


# ------------------------------------------------------------------------------------------------------- colours


def palette(board: Board) -> dict[str, str]:
    """Return the colours of the families of a board, those of genbench first; nothing where there is but one."""
    there = sorted({family(row) for row in board.measured})
    own = {name: COLOURS[i] for i, name in enumerate(FAMILIES) if name in there}
    free = [colour for colour in COLOURS[:-1] if colour not in own.values()]
    others = [name for name in there if name not in own]
    found = own | {name: free[i % len(free)] for i, name in enumerate(others)}
    return found if len(found) > 1 else {}


def colour(row: Row, families: dict[str, str]) -> str:
    """Return the colour of the row's family, or where there is but one the row's own."""
    return families.get(family(row)) or COLOURS[row.hue % len(COLOURS)]


# ------------------------------------------------------------------------------------------------- kinds of numbers


def shape(mark: Mark, upright: bool = False) -> str:
    """Return the marker of a number on a horizontal or an upright axis; a bound's points to the truth."""
    found = (SHAPES if mark.first else OTHER)[mark.column.kind]
    turned = {"lower": "<v", "higher": ">^", None: "<v"}[mark.column.better]
    return turned[upright] if found == "<" else found


def means(column: Column, marks: Iterable[Mark]) -> str:
    """Return what kind of number a column holds and how it was taken, as the records of `marks` say."""
    impls = (seed.impl.partition(", ")[2] for mark in marks if mark.column == column for seed in mark.cell.seeds)
    said = " or ".join(dict.fromkeys(impl for impl in impls if impl))
    most = {"lower": ", at most", "higher": ", at least", None: ""}[column.better] if column.kind == "bound" else ""
    by = " by annealing" if column.measurement.startswith("ais_") else ""
    return f"{column.kind}{by}{most}{f': {said}' if said else ''}"


def kinds_of(marks: Sequence[Mark], upright: bool = False) -> dict[str, str]:
    """Return what each shape means; nothing where all are exact and that goes without saying."""
    ordered = sorted(marks, key=lambda mark: (KINDS.index(mark.column.kind), not mark.first))
    found = {shape(mark, upright): means(mark.column, marks) for mark in ordered}
    return {} if {mark.column.kind for mark in marks} == {"exact"} and len(found) == 1 else found


def legend(figure: Figure, families: dict[str, str], kinds: dict[str, str], top: float) -> None:
    """Draw what shapes mean at the foot of `figure`, and what colours mean `top` inches below its head."""
    shapes = [_key(shape, INK, text) for shape, text in kinds.items()]
    colours = [_key("s", paint, FAMILIES.get(name, name)) for name, paint in families.items()]
    said = {"handletextpad": 0.1, "borderaxespad": 0.3}
    if shapes:
        figure.legend(handles=shapes, loc="lower left", **said)
    if colours:
        at = (0, 1 - top / figure.get_figheight())
        figure.legend(
            handles=colours, loc="upper left", bbox_to_anchor=at, ncols=len(colours), columnspacing=1.2, **said
        )


def _key(shape: str, paint: str, text: str) -> Line2D:
    return Line2D([], [], ls="", marker=shape, color=paint, ms=5, label=text)


# ---------------------------------------------------------------------------------------------------------- names


def width(text: str, size: float) -> float:
    """Return how wide `text` is in points, in letters of `size` points."""
    return float(TextPath((0, 0), text, size=size, usetex=False).get_extents().width) if text.strip() else 0.0


def shortened(text: str, size: float, room: float) -> str:
    """Return `text`, its end cut off where it is wider than `room` points."""
    while width(text, size) > room:
        text = text.rstrip("…")[:-1] + "…"
    return text


Box = tuple[float, float, float, float]  # left, bottom, right, top
SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))  # of a point, the preferred first


def shared(a: Box, b: Box) -> float:
    """Return the area that two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def annotate(axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str], size: float = 8) -> None:
    """Write each name near its point, where it covers the least of points, their bars and other names, inside the axes.

    The bars are what collections `axes` have.
    """
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()  # limits are computed when asked for
    scale = 72 / axes.figure.dpi
    at = [(x * scale, y * scale) for x, y in axes.transData.transform(points)]
    drawn = (segment for c in axes.collections if isinstance(c, LineCollection) for segment in c.get_segments())
    ends = (np.clip(segment, (left, low), (right, high)) for segment in drawn)
    bars = [axes.transData.transform(segment) * scale for segment in ends]
    edges = axes.get_window_extent()
    inside = (edges.x0 * scale, edges.y0 * scale, edges.x1 * scale, edges.y1 * scale)
    taken: list[Box] = [(x - 4, y - 4, x + 4, y + 4) for x, y in at]
    taken += [(a[0] - 1, a[1] - 1, b[0] + 1, b[1] + 1) for a, b in bars]
    for (x, y), point, name in zip(at, points, names, strict=True):
        wide, high = width(name, size), size
        boxes = []
        for far, (side, up) in product((6, 13, 20), SIDES):
            left = x + {1: far, 0: -wide / 2, -1: -far - wide}[side]
            bottom = y + {1: far * 0.7, 0: -high / 2, -1: -far * 0.7 - high}[up]
            boxes.append((left, bottom, left + wide, bottom + high))
        cost = [
            sum(shared(box, other) for other in taken) + 3 * (wide * high - shared(box, inside)) + i
            for i, box in enumerate(boxes)
        ]
        best = boxes[cost.index(min(cost))]
        taken.append(best)
        offset = (best[0] - x, best[1] - y)
        axes.annotate(name, point, xytext=offset, textcoords="offset points", fontsize=size, va="bottom")
