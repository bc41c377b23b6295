"""Pictures that metrics drew, for a page that carries them in itself."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import math
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from genbench.notices import notify
from genbench.records.artifacts import read_whole
from genbench.report.board import Board, Row
from genbench.report.tidy import Runs

PICTURES = 480  # in a page
ABOUT = {  # what is not plain from a picture itself
    "samples.png": "model left, data right",
    "density.png": "model left, truth right where it is known",
    "critic.png": "the bluer, the more like data to the critic; data black, samples orange",
    "training.png": "weights as they moved, samples of the same draws; the data last",
    "sample-interpolations.png": "each row from one sample to another",
    "labelled.png": "model left, data right",
}
BYTES, SIDE = 300_000, 800  # a larger file is drawn again with this longest side, in pixels
LARGEST, PIXELS = 1 << 26, 1 << 25  # bytes and pixels beyond which a file is none that a metric drew
HASH = re.compile("[0-9a-f]{32}")
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def pictures(boards: Sequence[Board], runs: Runs, work: Path) -> dict[str, list[dict[str, str]]]:
    """Return by board its pictures, each once for a row, of its first seed that has them; at most `PICTURES`."""
    found: dict[str, list[dict[str, str]]] = {}
    left = PICTURES
    for board in boards:
        mine = [picture for row in board.rows for picture in _drawn(board, row, runs, work, left)][:left]
        found[board.key] = sorted(mine, key=lambda picture: picture["name"])
        left -= len(mine)
    return found


def _drawn(board: Board, row: Row, runs: Runs, work: Path, left: int) -> list[dict[str, str]]:
    if left <= 0:
        return []
    for seed, run in row.ids.items():
        files = next((r.files for r in reversed(runs[board.suite, run]) if r.files), {})
        uris = {name: uri for name, path in sorted(files.items()) if (uri := _uri(work, path))}
        if uris:
            return [{"row": row.name, "seed": str(seed), "name": name, "uri": uris[name]} for name in uris]
    return []


def drawn(work: Path, path: str) -> bytes | None:
    """Return the PNG at `path` under `work`; None where there is none. One that is damaged is named on stderr."""
    try:
        file = (work / path).resolve()
        if not file.is_relative_to(work.resolve()) or not file.is_file():
            return None
        content = read_whole(str(file)) if file.stat().st_size <= LARGEST else b""
    except (OSError, ValueError, RuntimeError):  # a name too long or with a NUL in it, a loop of links, no permission
        return None
    if (problem := _problem(content, file.stem)) is not None:
        _name_damaged(file, problem)
        return None
    return content


def _problem(content: bytes, stem: str) -> str | None:
    """Return what is wrong with a picture whose file is called `stem`, by its contents' hash if it is in the work
    folder."""
    if not content:
        return f"it is empty or larger than {LARGEST >> 20} MiB"
    if HASH.fullmatch(stem) and hashlib.sha256(content).hexdigest()[:32] != stem:
        return "its contents are not those that its name says"
    return None if opened(content) else "it is no PNG of a size that can be shown"


def opened(content: bytes) -> Image.Image | None:
    """Return the picture in a PNG file, decoded; None if it is damaged, too large, or another format."""
    size = struct.unpack(">II", content[16:24]) if content.startswith(b"\x89PNG\r\n\x1a\n") and content[23:] else (0, 0)
    if not 0 < math.prod(size) <= PIXELS:
        return None
    try:
        picture = Image.open(io.BytesIO(content), formats=["PNG"])
        picture.load()
    except DAMAGE:
        return None
    return picture


@functools.cache  # once a report: several rows may show one file
def _name_damaged(file: Path, problem: str) -> None:
    notify(f"{file}: not shown, damaged: {problem}")


def _uri(work: Path, path: str) -> str | None:
    """Return the PNG at `path` under `work` as a data URI; None if it is not there or is something else."""
    content = drawn(work, path)
    if content is None:
        return None
    content = _smaller(content) if len(content) > BYTES else content
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _smaller(content: bytes) -> bytes:
    picture, file = Image.open(io.BytesIO(content)), io.BytesIO()
    picture.thumbnail((SIDE, SIDE))
    picture.save(file, "png", optimize=True)
    return file.getvalue()
