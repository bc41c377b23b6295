"""Pictures that metrics drew, embedded in the page."""

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

MAX_PICTURES = 480  # in a page
PICTURE_CAPTIONS = {  # what a picture does not explain itself
    "samples.png": "model left, data right",
    "density.png": "model left, true density right if it is known",
    "critic.png": "the bluer, the more the critic takes it for data; data black, samples orange",
    "training.png": "critic and samples of fixed noise during training; data last",
    "sample-interpolations.png": "each row interpolates from one sample to another",
    "labelled.png": "model left, data right",
}
MAX_EMBEDDED_BYTES, MAX_EMBEDDED_SIDE = 300_000, 800  # a larger file is scaled so that its longest side is 800 pixels
MAX_BYTES, MAX_PIXELS = 1 << 26, 1 << 25  # no metric draws larger pictures
HASH = re.compile("[0-9a-f]{32}")
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def embedded_pictures(boards: Sequence[Board], runs: Runs, work: Path) -> dict[str, list[dict[str, str]]]:
    """Return the pictures of each board by its key: for each row those of its first seed that has any.

    There are at most `MAX_PICTURES` in all.
    """
    by_board: dict[str, list[dict[str, str]]] = {}
    left = MAX_PICTURES
    for board in boards:
        pictures = [picture for row in board.rows for picture in _row_pictures(board, row, runs, work, left)][:left]
        by_board[board.key] = sorted(pictures, key=lambda picture: picture["name"])
        left -= len(pictures)
    return by_board


def _row_pictures(board: Board, row: Row, runs: Runs, work: Path, left: int) -> list[dict[str, str]]:
    if left <= 0:
        return []
    for seed, run_id in row.run_ids.items():
        files = next((r.files for r in reversed(runs[board.suite, run_id]) if r.files), {})
        uris = {name: uri for name, path in sorted(files.items()) if (uri := _data_uri(work, path))}
        if uris:
            return [{"row": row.name, "seed": str(seed), "name": name, "uri": uri} for name, uri in uris.items()]
    return []


def read_picture(work: Path, path: str) -> bytes | None:
    """Return the PNG at `path` under `work`; None if there is none. A damaged one is None and named on stderr."""
    try:
        file = (work / path).resolve()
        if not file.is_relative_to(work.resolve()) or not file.is_file():
            return None
        content = read_whole(str(file)) if file.stat().st_size <= MAX_BYTES else b""
    except (OSError, ValueError, RuntimeError):  # name too long or with a NUL, loop of links, no permission
        return None
    if (problem := _find_problem(content, file.stem)) is not None:
        _report_damaged(file, problem)
        return None
    return content


def _find_problem(content: bytes, stem: str) -> str | None:
    """Return what is wrong with a picture, None if nothing is; its `stem` may be the hash of its content."""
    if not content:
        return f"empty or larger than {MAX_BYTES >> 20} MiB"
    if HASH.fullmatch(stem) and hashlib.sha256(content).hexdigest()[:32] != stem:
        return "the content does not match the hash in the name"
    return None if decode_png(content) else "not a PNG, or too large to show"


def decode_png(content: bytes) -> Image.Image | None:
    """Return the decoded picture; None if it is damaged, too large, or in another format."""
    size = struct.unpack(">II", content[16:24]) if content.startswith(b"\x89PNG\r\n\x1a\n") and content[23:] else (0, 0)
    if not 0 < math.prod(size) <= MAX_PIXELS:
        return None
    try:
        picture = Image.open(io.BytesIO(content), formats=["PNG"])
        picture.load()
    except DECODE_ERRORS:
        return None
    return picture


@functools.cache  # once per report: several rows may show the same file
def _report_damaged(file: Path, problem: str) -> None:
    notify(f"{file}: damaged picture, left out of the report: {problem}")


def _data_uri(work: Path, path: str) -> str | None:
    """Return the PNG at `path` under `work` as a data URI; None if there is no such PNG."""
    content = read_picture(work, path)
    if content is None:
        return None
    content = _shrink(content) if len(content) > MAX_EMBEDDED_BYTES else content
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _shrink(content: bytes) -> bytes:
    picture, file = Image.open(io.BytesIO(content)), io.BytesIO()
    picture.thumbnail((MAX_EMBEDDED_SIDE, MAX_EMBEDDED_SIDE))
    picture.save(file, "png", optimize=True)
    return file.getvalue()
