"""How figures mark a row: colour by family, shape by what kind of number it is, names where they cover nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from genbench.report.axis import Mark, family
from genbench.report.board import Board, Column, Row
from genbench.report.lettering import fitted, keyed, width

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
    seeds = (seed for mark in marks if mark.column == column for seed in mark.cell.seeds)
    impls = ((seed.impl or "").partition(", ")[2] for seed in seeds)
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
    return Line2D([], [], ls="", marker=shape, color=paint, ms=5, label=keyed(text, 8, 430))


# ---------------------------------------------------------------------------------------------------------- names


SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))  # of a point, the preferred first
FAR = (6, 13, 20)  # points from it
REACH = np.array([-4, -4, 4, 4])  # of a marker
Boxes = NDArray[np.float64]


def shared(a: Boxes, b: Boxes) -> Boxes:
    """Return the areas that boxes (n, 4) of left, bottom, right and top share with boxes (m, 4): (n, m)."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    areas: Boxes = np.maximum(sides, 0).prod(-1)
    return areas


def annotate(axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str], size: float = 8) -> None:
    """Write each name near its point, where it covers the least of points, their bars and other names, inside the axes.

    The bars are what collections `axes` have.
    """
    names = [fitted(name, size, 180) for name in names]
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()  # limits are computed when asked for
    scale = 72 / axes.figure.dpi
    at = axes.transData.transform(points) * scale
    inside = np.array([axes.get_window_extent().extents]) * scale
    drawn = (segment for c in axes.collections if isinstance(c, LineCollection) for segment in c.get_segments())
    bars = [axes.transData.transform(np.clip(bar, (left, low), (right, high))).ravel() * scale for bar in drawn]
    taken = np.array([*(np.tile(xy, 2) + REACH for xy in at), *(bar + REACH / 4 for bar in bars)])
    for xy, point, name in zip(at, points, names, strict=True):
        offsets = np.array([_offset(side, up, far, width(name, size), size) for far in FAR for side, up in SIDES])
        boxes = np.hstack([xy + offsets, xy + offsets + (width(name, size), size)])
        outside = width(name, size) * size - shared(boxes, inside)[:, 0]
        best = np.argmin(shared(boxes, taken).sum(1) + 3 * outside + np.arange(len(boxes)))
        taken = np.vstack([taken, boxes[best]])
        x, y = offsets[best]
        axes.annotate(name, point, xytext=(x, y), textcoords="offset points", va="bottom", fontsize=size)


def _offset(side: int, up: int, far: float, wide: float, high: float) -> tuple[float, float]:
    """Return where a box begins that lies `far` from a point at one of `SIDES`."""
    x = {1: far, 0: -wide / 2, -1: -far - wide}[side]
    return x, {1: 0.7 * far, 0: -high / 2, -1: -0.7 * far - high}[up]
