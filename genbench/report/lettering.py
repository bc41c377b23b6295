"""Text in plots: in fonts that have its letters, and no wider than there is room."""

from __future__ import annotations

import functools

from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.textpath import text_to_path

from genbench.console import printable

FONT = "DejaVu Sans"  # comes with matplotlib
OTHERS = (  # that have letters of Chinese, Japanese and Korean; the first that are installed are used
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK TC", "Noto Sans CJK KR", "Noto Sans JP", "Noto Sans SC"),
    *("Noto Sans KR", "Source Han Sans", "Source Han Sans CN", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei"),
    *("Droid Sans Fallback", "IPAGothic", "IPAexGothic", "TakaoGothic", "UnDotum", "NanumGothic", "AR PL UMing CN"),
    *("Microsoft YaHei", "SimHei", "MS Gothic", "Yu Gothic", "Meiryo", "Malgun Gothic", "PingFang SC", "Heiti SC"),
    *("Hiragino Sans", "Apple SD Gothic Neo", "Arial Unicode MS", "Unifont", "Noto Emoji", "Symbola"),
)
LONGEST = 200  # letters of which a width is taken


@functools.cache
def fonts() -> list[str]:
    """Return the fonts of plots, in the order in which a letter is looked for."""
    installed = {entry.name for entry in fontManager.ttflist}
    return [FONT, *(name for name in OTHERS if name in installed)]


@functools.cache
def _letters() -> frozenset[int]:
    """Return the code points that `fonts` can draw."""
    return frozenset(code for name in fonts() for code in FT2Font(findfont(name)).get_charmap())


@functools.cache
def width(text: str, size: float) -> float:
    """Return how wide `text` is in points, in letters of `size` points."""
    font = FontProperties(family=fonts(), size=size)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


def lettered(text: str) -> str:
    r"""Return `text` on one line, each letter that no font has as an escape: ``\u4e2d``, which is seen, not a box."""
    text = printable(text)
    if text.isascii():
        return text
    return "".join(c if c.isascii() or ord(c) in _letters() else ascii(c)[1:-1] for c in text)


def fitted(text: str, size: float, room: float) -> str:
    """Return `text` as `lettered` does, its end cut off where it is wider than `room` points."""
    text = lettered(text)
    text = text if len(text) <= LONGEST else text[:LONGEST] + "…"
    while len(text) > 1 and width(text, size) > room:
        text = text.rstrip("…")[:-1] + "…"
    return text


def keyed(text: str, size: float, room: float) -> str:
    """Return `text` as `fitted` does, for a legend: matplotlib leaves out what begins with an underscore."""
    text = fitted(text, size, room)
    return f" {text}" if text.startswith("_") else text
