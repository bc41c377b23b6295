"""Samples of the best rows beside the data, one small picture for a board.

The pictures that metrics drew lie in the work folder, which is not published. A gallery says in itself of which of them
it was made, and is kept while it is to show the same.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from genbench.report.axis import family
from genbench.report.board import Board, Row
from genbench.report.figures import panels, rendered, title
from genbench.report.marks import palette
from genbench.report.pictures import drawn
from genbench.report.tidy import Runs

NAME = "samples.png"  # model left, data right
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
    """Return the rows that are shown, each with the name of its picture: of the first seed that has one."""
    found = [(row, name) for row in board.measured if (name := picture(board, row, runs))]
    if not palette(board):
        return found[:BEST]
    firsts: dict[str, tuple[Row, str]] = {}
    for row, name in found:
        firsts.setdefault(family(row), (row, name))
    return list(firsts.values())[:FAMILIES]


def picture(board: Board, row: Row, runs: Runs) -> str | None:
    """Return the name of the picture of a row's samples in the work folder."""
    for run in row.ids.values():
        for record in reversed(runs[board.suite, run]):
            if record.status == "ok" and NAME in record.files:
                return record.files[NAME]
    return None


def source(board: Board, chosen: Sequence[tuple[Row, str]]) -> str:
    """Return what a gallery says it was made of, and how."""
    return json.dumps([1, title(board), *((row.name, name) for row, name in chosen)]) if chosen else ""


def gallery(board: Board, chosen: Sequence[tuple[Row, str]], work: Path) -> bytes | None:
    """Return the gallery as a PNG; None where there is no picture, or one is not at hand."""
    contents = [drawn(work, name) for _, name in chosen]
    if not contents or None in contents:
        return None
    halves = [split(Image.open(io.BytesIO(content))) for content in contents if content]
    shown = [(row.name, model) for (row, _), (model, _) in zip(chosen, halves, strict=True)]
    data = next((data for _, data in halves if data), None)
    figure = panels(title(board), [*shown, *([("data", data)] if data else [])])
    colourful = any(picture.convert("RGB").getcolors() is None for _, picture in shown)  # more than 256 colours
    return rendered(figure, shades=None if colourful else SHADES, about=source(board, chosen))["png"]


def split(whole: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the two square panels of a picture, the second None where it has but one."""
    wide, high = whole.size
    if wide < 2 * high:
        return whole, None
    return whole.crop((0, 0, high, high)), whole.crop((wide - high, 0, wide, high))


def kept(path: Path, made_of: str) -> bytes | None:
    """Return the gallery at `path` if it was made of the pictures named, in that order."""
    if not made_of or not path.is_file():
        return None
    content = path.read_bytes()
    try:
        said = getattr(Image.open(io.BytesIO(content)), "text", {})
    except OSError:
        return None
    return content if said.get("Source") == made_of else None
