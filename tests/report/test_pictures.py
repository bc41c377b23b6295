"""Pictures on the page: only undamaged PNGs from the work folder."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import pytest
from PIL import Image

from genbench.report import write
from tests.report.records import PageParser, row_of, write_page


def test_pictures_are_embedded_once_a_row_and_only_from_the_work_folder(tmp_path):
    files = tmp_path / ".work" / "files"
    files.mkdir(parents=True)
    for path in (files / "a.png", tmp_path / "secret.png"):
        Image.new("RGB", (8, 8), "red").save(path)
    (files / "fake.png").write_bytes(b"<svg onload=alert(1)>")
    rows = [
        *row_of([1.0, 1.1], "A", files={"samples.png": "files/a.png"}),
        *row_of([1.0, 1.1], "Missing", files={"samples.png": "files/none.png"}),
        *row_of([1.0, 1.1], "Outside", files={"samples.png": "../secret.png"}),
        *row_of([1.0, 1.1], "Fake", files={"samples.png": "files/fake.png"}),
    ]
    images = [attributes["alt"] for tag, attributes in write_page(rows, tmp_path).tags if tag == "img"]
    assert images == ["samples.png of A on moons, seed 0"]


def png(color: str = "red", size: tuple[int, int] = (8, 8)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "png")
    return file.getvalue()


def count_shown_pictures(tmp_path: Path, path: str) -> int:
    """Return how many pictures a report has of a row whose record names `path`."""
    write(row_of([1.0], files={"samples.png": path}), tmp_path, tmp_path / "out")
    page = PageParser((tmp_path / "out" / "leaderboard.html").read_text(encoding="utf-8"))
    return sum(tag == "img" for tag, _ in page.tags)


@pytest.mark.parametrize(
    "path", ["../secret.png", "link.png", "loop.png", "files", "x\x00.png", "a" * 5000, "", "pipe.png"]
)
def test_only_regular_files_in_the_work_folder_are_read(tmp_path, path, capsys):
    work = tmp_path / ".work"
    (work / "files").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(png())
    (work / "link.png").symlink_to(tmp_path / "secret.png")
    (work / "loop.png").symlink_to(work / "loop.png")
    os.mkfifo(work / "pipe.png")
    assert count_shown_pictures(tmp_path, path) == 0
    assert count_shown_pictures(tmp_path, str(tmp_path / "secret.png")) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damage", ["empty", "cut", "bit", "jpeg", "bomb", "content"])
def test_a_damaged_picture_is_named_and_left_out(tmp_path, damage, capsys):
    files_folder = tmp_path / ".work" / "files"
    files_folder.mkdir(parents=True)
    good = png(size=(50, 50))
    jpeg = io.BytesIO()
    Image.new("RGB", (8, 8)).save(jpeg, "jpeg")
    bomb = good[:16] + (60_000).to_bytes(4, "big") * 2 + good[24:]
    flipped = good[:60] + bytes([good[60] ^ 4]) + good[61:]
    content = {
        "empty": b"",
        "cut": good[:-30],
        "bit": flipped,
        "jpeg": jpeg.getvalue(),
        "bomb": bomb,
        "content": png("blue"),
    }
    name = f"{hashlib.sha256(good).hexdigest()[:32]}.png" if damage == "content" else "a.png"
    (files_folder / name).write_bytes(content[damage])
    assert count_shown_pictures(tmp_path, f"files/{name}") == 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"files/{name}: damaged picture, left out of the report: " in error
    (files_folder / name).write_bytes(good)
    assert count_shown_pictures(tmp_path, f"files/{name}") == 1
