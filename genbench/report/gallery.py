"""Samples of the best rows beside the data, one small picture for a board.

The pictures that metrics drew lie in the work folder, which is not published. A gallery says in itself of which of them
it was made, and is kept while it is to show the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from genbench.report.axis import family
from genbench.report.board import Board, Row
from genbench.report.figures import panels, rendered, title
from genbench.report.marks import palette
from genbench.report.pictures import drawn, opened
from genbench.report.tidy import Runs

NAME = "samples.png"  # model left, data right
GAP = 12  # pixels between them, white: as metrics.samples draws them
SHADES = 16  # of pictures that have few themselves
BEST, FAMILIES = 3, 6  # rows that are shown: the best, or where there are several families the best of each


def galleries(boards: Sequence[Board], runs: Runs, work: Path, out: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, content) of a gallery for each board with pictures of samples; those kept are in `out`."""
    for board in boards:
        chosen = best(board, runs)
        made = kept(out / f"{board.key}.{NAME}", source(board, chosen)) or gallery(board, chosen, work)
        if made:
            yield f"{board.key}.{NAME}", made


def best(board: Board, runs: Runs) -> list[tuple[Row, str]]:
    """Return the rows that are shown, each with the name of its picture: of the first seed that has one.

    None of them has an invalid value: it would be the best.
    """
    rows = [row for row in board.measured if not any(cell.invalid for cell in row.cells.values())]
    pictures = [(row, name) for row in rows if (name := picture(board, row, runs))]
    if not palette(board):
        return pictures[:BEST]
    firsts: dict[str, tuple[Row, str]] = {}
    for row, name in pictures:
        firsts.setdefault(family(row), (row, name))
    return list(firsts.values())[:FAMILIES]


def picture(board: Board, row: Row, runs: Runs) -> str | None:
    """Return the name of the picture of a row's samples in the work folder."""
    for run in row.ids.values():
        for record in reversed(runs[board.suite, run]):
            if NAME in record.files:
                return record.files[NAME]
    return None


def source(board: Board, chosen: Sequence[tuple[Row, str]]) -> str:
    """Return what a gallery says it was made of, and how."""
    return json.dumps([1, title(board), *((row.name, name) for row, name in chosen)]) if chosen else ""


def gallery(board: Board, chosen: Sequence[tuple[Row, str]], work: Path) -> bytes | None:
    """Return the gallery as a PNG; None where there is no picture, or one is not at hand."""
    wholes = [opened(content) if (content := drawn(work, name)) else None for _, name in chosen]
    if not wholes or None in wholes:
        return None
    halves = [split(whole) for whole in wholes if whole]
    shown = [(row.name, model) for (row, _), (model, _) in zip(chosen, halves, strict=True)]
    data = next((data for _, data in halves if data), None)
    figure = panels(title(board), [*shown, *([("data", data)] if data else [])])
    colourful = any(picture.convert("RGB").getcolors() is None for _, picture in shown)  # more than 256 colours
    return rendered(figure, shades=None if colourful else SHADES, about=source(board, chosen))["png"]


def split(whole: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the two panels of a picture, the second None where it has but one.

    Panels are squares, or what lies on both sides of a white gap in the middle.
    """
    wide, high = whole.size
    side = (wide - GAP) // 2
    middle = whole.convert("L").crop((side, 0, wide - side, high)).getextrema() if side > 0 else (0, 0)
    side = side if middle == (255, 255) else high
    if wide < 2 * side or side == wide:
        return whole, None
    return whole.crop((0, 0, side, high)), whole.crop((wide - side, 0, wide, high))


def kept(path: Path, made_of: str) -> bytes | None:
    """Return the gallery at `path` if it was made of the pictures named, in that order, and is undamaged."""
    if not made_of or path.is_symlink() or not path.is_file():
        return None
    content = path.read_bytes()
    picture = opened(content)
    return content if picture and getattr(picture, "text", {}).get("Source") == made_of else None
