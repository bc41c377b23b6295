"""Galleries: reused while their pictures are the same, split and padded without distortion."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from genbench.records.artifacts import Work
from genbench.report import write
from genbench.report.figures import sample_panels
from genbench.report.gallery import split
from tests.report.records import family_records, row_of


def test_a_gallery_is_reused_while_its_pictures_are_the_same(tmp_path):
    work, records = tmp_path / ".work", []
    for r in family_records():
        Image.new("RGB", (20, 8), "red").save(tmp_path / "a.png")
        name = Work(work).put((tmp_path / "a.png").read_bytes() + r.run.name.encode(), ".png")
        records.append(r.model_copy(update={"files": {"samples.png": name}}))
    path = tmp_path / "plots" / "flows-v1-moons.samples.png"
    write(records, tmp_path, tmp_path)
    drawn = path.read_bytes()
    assert Image.open(path).text["Source"].count(".png") == 5, "the best of each family"
    shutil.rmtree(work)
    write(records, tmp_path, tmp_path)
    assert path.read_bytes() == drawn
    assert "flows-v1-moons.samples.png" in (tmp_path / "LEADERBOARD.md").read_text()
    write([r for r in records if r.run.name != "GAN"], tmp_path, tmp_path)
    assert not path.exists(), "it showed a row that is gone"


@pytest.mark.parametrize("colors", [16, 400])
def test_a_gallery_of_photographs_keeps_their_colors(tmp_path, colors):
    pixels = np.random.default_rng(0).integers(0, 256, (colors, 3), dtype=np.uint8)[np.arange(400) % colors]
    Image.fromarray(pixels.reshape(20, 20, 3)).resize((400, 400), Image.Resampling.NEAREST).save(tmp_path / "a.png")
    name = Work(tmp_path / ".work").put((tmp_path / "a.png").read_bytes(), ".png")
    write(row_of([1.0, 1.1], files={"samples.png": name}), tmp_path, tmp_path)
    shown = Image.open(tmp_path / "plots" / "flows-v1-moons.samples.png").convert("RGB").getcolors(1 << 20)
    assert (len(shown) > 256) == (colors > 256)


def test_a_picture_is_split_at_its_gap_whatever_its_proportions():
    left, right = Image.new("RGB", (30, 100), "red"), Image.new("RGB", (30, 100), "blue")
    whole = Image.new("RGB", (72, 100), "white")
    whole.paste(left, (0, 0))
    whole.paste(right, (42, 0))
    assert [part.getcolors() for part in split(whole)] == [left.getcolors(), right.getcolors()]
    assert split(left) == (left, None)
    figure = sample_panels("t", [("tall", left)])
    (axes,) = figure.axes
    shown = np.asarray(axes.images[0].get_array())
    assert shown.shape[0] == shown.shape[1]
    assert (shown[:, 0] == 255).all(), "padded with white, not stretched"
