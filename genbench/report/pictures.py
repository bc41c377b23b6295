"""Pictures that metrics drew, for a page that carries them in itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

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
        files = next((r.files for r in reversed(runs[board.suite, run]) if r.status == "ok" and r.files), {})
        uris = {name: uri for name, path in sorted(files.items()) if (uri := _uri(work, path))}
        if uris:
            return [{"row": row.name, "seed": str(seed), "name": name, "uri": uris[name]} for name in uris]
    return []


def drawn(work: Path, path: str) -> bytes | None:
    """Return the PNG at `path` under `work`; None if it is not there or is something else."""
    file = (work / path).resolve()
    if not file.is_relative_to(work.resolve()) or not file.is_file():
        return None
    content = file.read_bytes()
    return content if content.startswith(b"\x89PNG\r\n") else None


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
