"""Text in plots: drawable characters, and no wider than the space for it."""

from __future__ import annotations

import warnings

from genbench.report import fonts
from genbench.report.curves import newest_curves
from genbench.report.figures import figures
from genbench.report.tidy import by_run
from tests.report.records import CURVE, board_of, row_of


def test_characters_that_no_font_has_are_escaped_and_never_boxes(monkeypatch):
    monkeypatch.setattr(fonts, "_drawable_codes", lambda: frozenset(map(ord, "é±")))
    assert fonts.drawable("é 中😀") == "é \\u4e2d\\U0001f600"
    monkeypatch.undo()
    records = [
        *row_of([1.0, 1.1], "中文😀", curve=CURVE, data="數據"),
        *row_of([1.0, 1.1], "é", curve=CURVE, data="數據"),
    ]
    with warnings.catch_warnings(action="error"):  # matplotlib warns of each letter that it draws as a box
        assert len(dict(figures([board_of(records)], newest_curves(by_run(records)), 9))) == 2


def test_long_names_are_cut_to_the_space_for_them():
    text = fonts.fit_text("x" * 100_000, 8, 180)
    assert text.endswith("…")
    assert fonts.text_width(text, 8) <= 180
