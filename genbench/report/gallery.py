"""Galleries: samples of the best rows next to data, one small picture per board.

The pictures that metrics drew are in the work folder, which is not published. So a gallery stores the names of the
pictures it was made from, and is reused as long as it would be made from the same ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from genbench.report.board import Board, Row
from genbench.report.figures import plot_title, render, sample_panels
from genbench.report.markers import family_colors
from genbench.report.marks import model_family
from genbench.report.pictures import decode_png, read_picture
from genbench.report.tidy import Runs

NAME = "samples.png"  # model left, data right
GAP = 12  # white pixels between the two, as metrics.samples draws them
SHADES = 16  # colors of a gallery of pictures that have few colors themselves
MAX_ROWS, MAX_FAMILIES = 3, 6  # rows shown: the best, or if there are several families the best of each


def galleries(boards: Sequence[Board], runs: Runs, work: Path, out: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, content) of a gallery for each board with pictures of samples; `out` has those to reuse."""
    for board in boards:
        chosen = best_rows(board, runs)
        content = reusable(out / f"{board.key}.{NAME}", source(board, chosen)) or gallery(board, chosen, work)
        if content:
            yield f"{board.key}.{NAME}", content


def best_rows(board: Board, runs: Runs) -> list[tuple[Row, str]]:
    """Return the rows to show, each with the name of its picture, of the first seed that has one.

    Rows with an invalid value are left out: they would come first.
    """
    rows = [row for row in board.measured_rows if not any(cell.n_invalid for cell in row.cells.values())]
    pictures = [(row, name) for row in rows if (name := samples_picture(board, row, runs))]
    if not family_colors(board):
        return pictures[:MAX_ROWS]
    firsts: dict[str, tuple[Row, str]] = {}
    for row, name in pictures:
        firsts.setdefault(model_family(row), (row, name))
    return list(firsts.values())[:MAX_FAMILIES]


def samples_picture(board: Board, row: Row, runs: Runs) -> str | None:
    """Return the name in the work folder of the picture of a row's samples; None if there is none."""
    for run_id in row.run_ids.values():
        for record in reversed(runs[board.suite, run_id]):
            if NAME in record.files:
                return record.files[NAME]
    return None


def source(board: Board, chosen: Sequence[tuple[Row, str]]) -> str:
    """Return the text stored in a gallery: a format version, its title, and the rows and pictures it was made from."""
    return json.dumps([1, plot_title(board), *((row.name, name) for row, name in chosen)]) if chosen else ""


def gallery(board: Board, chosen: Sequence[tuple[Row, str]], work: Path) -> bytes | None:
    """Return the gallery as a PNG; None if there are no pictures, or one of them is missing."""
    pictures = [decode_png(content) if (content := read_picture(work, name)) else None for _, name in chosen]
    if not pictures or None in pictures:
        return None
    panels = [split(picture) for picture in pictures if picture]
    shown = [(row.name, model) for (row, _), (model, _) in zip(chosen, panels, strict=True)]
    data = next((data for _, data in panels if data), None)
    figure = sample_panels(plot_title(board), [*shown, *([("data", data)] if data else [])])
    colorful = any(picture.convert("RGB").getcolors() is None for _, picture in shown)  # more than 256 colors
    return render(figure, shades=None if colorful else SHADES, source=source(board, chosen))["png"]


def split(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the two panels of a picture, the second None if there is only one.

    Panels are squares, or the two sides of a white gap in the middle.
    """
    width, height = picture.size
    side = (width - GAP) // 2
    middle = picture.convert("L").crop((side, 0, width - side, height)).getextrema() if side > 0 else (0, 0)
    side = side if middle == (255, 255) else height
    if width < 2 * side or side == width:
        return picture, None
    return picture.crop((0, 0, side, height)), picture.crop((width - side, 0, width, height))


def reusable(path: Path, source: str) -> bytes | None:
    """Return the gallery at `path` if it was made from `source` and is undamaged, else None."""
    if not source or path.is_symlink() or not path.is_file():
        return None
    content = path.read_bytes()
    picture = decode_png(content)
    return content if picture and getattr(picture, "text", {}).get("Source") == source else None
