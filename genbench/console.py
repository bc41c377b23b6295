"""Makes any text printable on any terminal, table or page."""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ASCII = {"±": "+-", "↓": "v", "↑": "^", "–": "-", "—": "-", "…": "...", "†": "+", "×": "x", "\u00a0": " "}
UNPRINTABLE = re.compile(  # control characters, marks that reorder or hide text, line separators
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    r"""Return `text` on one line, with control characters as escapes such as ``\x1b``."""
    return text if text.isprintable() else UNPRINTABLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def accept_any_text() -> None:
    """Let stdout and stderr replace characters that their encoding lacks: ``±`` by ``+-``, others by escapes.

    An error handler chosen by the user (``PYTHONIOENCODING=ascii:replace``) is left in place.
    """
    codecs.register_error("readable", _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape", "backslashreplace"):
            stream.reconfigure(errors="readable")


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(ASCII.get(c) or c.encode("unicode_escape").decode("ascii") for c in characters), error.end


@contextmanager
def suppress_stderr() -> Iterator[None]:
    """Discard what C++ libraries write to stderr inside; their errors are raised as exceptions, too."""
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
