"""LEADERBOARD.md takes all text literally."""

from __future__ import annotations

from genbench.report.markdown import escape_markdown, inline_code, markdown
from genbench.report.protocol import hardware_by_suite
from tests.report.records import board_of, row_of


def test_names_are_literal_text_in_markdown():
    assert escape_markdown("a|b`c`<i>$x$~~") == "a\\|b\\`c\\`&lt;i&gt;\\$x\\$\\~\\~"
    assert (inline_code("plain"), inline_code("a`b"), inline_code("``")) == ("`plain`", "`` a`b ``", "``` `` ```")
    hostile = board_of(row_of([1.0, 1.1], suite="x` <img src=y onerror=alert(1)> `"))
    text = markdown([hostile], hardware_by_suite(row_of([1.0], suite=hostile.suite)))
    assert "``` " not in text
    assert "Suite `` x` <img src=y onerror=alert(1)> ` ``, version 1." in text
