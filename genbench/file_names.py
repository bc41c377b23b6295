"""Names of suites, rows and data: which are allowed, and how they become names of files."""

from __future__ import annotations

import hashlib
import re

RESERVED = {"plots", "leaderboard.md", "leaderboard.html", "leaderboard.csv"}  # written by reports
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")  # device names on Windows
_SUITE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._+-]{0,62}[A-Za-z0-9_+-])?")
LONGEST = 100  # characters of a label


def suite_name(name: str) -> str:
    """Return `name` if it can be the name of a results folder; raises ValueError otherwise."""
    if not _SUITE.fullmatch(name):
        raise ValueError(
            "the name becomes a folder: at most 64 letters a-z, digits and . _ + -, a letter or digit first, "
            f"no . last, got {name!r}"
        )
    if name.lower() in RESERVED or _DEVICES.fullmatch(name.lower()):
        raise ValueError(f"the name {name!r} is reserved; choose another")
    return name


def label(name: str) -> str:
    """Return `name` if it can be the title of a row or table; raises ValueError otherwise."""
    if not name or name != name.strip() or not name.isprintable():
        raise ValueError(f"a name is one line of printable text without spaces around it, got {name!r}")
    if len(name) > LONGEST:
        raise ValueError(f"a name has at most {LONGEST} characters, got {len(name)}")
    return name


def one_paragraph(text: object) -> object:
    """Return text in one line; raises ValueError if it contains control characters."""
    if not isinstance(text, str):
        return text
    text = " ".join(text.split())
    if not text.isprintable():
        raise ValueError(f"{text!r} contains control characters")
    return text


def file_key(suite: str, version: int, data: str = "") -> str:
    """Return ``suite-version-data``, valid as a file name and an anchor, and unique per board.

    Other characters than letters, digits, ``-``, ``_`` and ``.`` become ``-``. If that could make two keys equal, or
    the key is long, eight digits of a hash are appended.
    """
    text = f"{suite}-v{version}" + (f"-{data}" if data else "")
    key = re.sub(r"[^A-Za-z0-9._-]", "-", text)
    regular = re.fullmatch(r"(?!.*-v\d)[A-Za-z0-9_-]+", suite) and re.fullmatch(r"([\w.]+(:[\w.]+)?)?", data, re.ASCII)
    if regular and len(key) <= 150:
        return key
    return f"{key[:120].lstrip('.')}-{hashlib.sha256(repr((suite, version, data)).encode()).hexdigest()[:8]}"
