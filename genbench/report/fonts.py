"""Text in plots: in fonts that have its characters, and cut to the available width."""

from __future__ import annotations

import functools

from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.textpath import text_to_path

from genbench.console import printable

MAIN_FONT = "DejaVu Sans"  # comes with matplotlib
FALLBACK_FONTS = (  # with Chinese, Japanese and Korean characters; the installed ones are used, in this order
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK TC", "Noto Sans CJK KR", "Noto Sans JP", "Noto Sans SC"),
    *("Noto Sans KR", "Source Han Sans", "Source Han Sans CN", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei"),
    *("Droid Sans Fallback", "IPAGothic", "IPAexGothic", "TakaoGothic", "UnDotum", "NanumGothic", "AR PL UMing CN"),
    *("Microsoft YaHei", "SimHei", "MS Gothic", "Yu Gothic", "Meiryo", "Malgun Gothic", "PingFang SC", "Heiti SC"),
    *("Hiragino Sans", "Apple SD Gothic Neo", "Arial Unicode MS", "Unifont", "Noto Emoji", "Symbola"),
)
MAX_LENGTH = 200  # characters; longer text is cut before its width is measured


@functools.cache
def plot_fonts() -> list[str]:
    """Return the installed fonts of plots, in the order in which matplotlib looks for a character."""
    installed = {entry.name for entry in fontManager.ttflist}
    return [MAIN_FONT, *(name for name in FALLBACK_FONTS if name in installed)]


@functools.cache
def _drawable_codes() -> frozenset[int]:
    """Return the code points that `plot_fonts` can draw."""
    return frozenset(code for name in plot_fonts() for code in FT2Font(findfont(name)).get_charmap())


@functools.cache
def text_width(text: str, size: float) -> float:
    """Return the width of `text` in points, in a font of `size` points."""
    font = FontProperties(family=plot_fonts(), size=size)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


def drawable(text: str) -> str:
    r"""Return `text` on one line, with characters that no font has escaped as ``\u4e2d`` instead of drawn as boxes."""
    text = printable(text)
    if text.isascii():
        return text
    return "".join(c if c.isascii() or ord(c) in _drawable_codes() else ascii(c)[1:-1] for c in text)


def fit_text(text: str, size: float, max_width: float) -> str:
    """Return `text` as `drawable` does, with its end cut off if it is wider than `max_width` points."""
    text = drawable(text)
    text = text if len(text) <= MAX_LENGTH else text[:MAX_LENGTH] + "…"
    while len(text) > 1 and text_width(text, size) > max_width:
        text = text.rstrip("…")[:-1] + "…"
    return text


def legend_text(text: str, size: float, max_width: float) -> str:
    """Return `text` as `fit_text` does, for a legend: matplotlib omits entries that start with an underscore."""
    text = fit_text(text, size, max_width)
    return f" {text}" if text.startswith("_") else text
