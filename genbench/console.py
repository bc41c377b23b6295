"""Text that any terminal, table or page can show, whatever records and names hold and whatever the encoding is."""

from __future__ import annotations

import codecs
import io
import re
import sys

ASCII = {"±": "+-", "↓": "v", "↑": "^", "–": "-", "—": "-", "…": "...", "†": "+", "×": "x", "\u00a0": " "}
UNPRINTABLE = re.compile(  # control characters; marks that reorder or hide text; line ends that are not spaces
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    r"""Return `text` on one line, its control characters spelled out: an escape sequence begins with ``\x1b``."""
    return text if text.isprintable() else UNPRINTABLE.sub(_spelled, text)


def _spelled(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def accept_any_text() -> None:
    """Let stdout and stderr write characters that their encoding lacks: ``±`` as ``+-``, others as escapes.

    An error handler that the user chose (``PYTHONIOENCODING=ascii:replace``) stays.
    """
    codecs.register_error("readable", _readable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape", "backslashreplace"):
            stream.reconfigure(errors="readable")


def _readable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(ASCII.get(c) or c.encode("unicode_escape").decode("ascii") for c in characters), error.end
