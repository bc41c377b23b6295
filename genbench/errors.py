"""Errors in user input: one line that says what is wrong, where, and what to write instead."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from genbench.console import printable

LONGEST = 2000  # characters of a message
LISTED = 40  # names that a message lists


class UsageError(ValueError):
    """An error in user input; the message is always one line."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str, longest: int = LONGEST) -> str:
    """Return `text` with line breaks as spaces and control characters escaped, cut after `longest` characters."""
    text = printable(re.sub(r"\s*[\r\n]\s*", " ", text[: 2 * longest].strip()))
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def short(value: object, longest: int = 80) -> str:
    """Return the repr of `value`, cut after `longest` characters."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for an unknown `name`, or the list of valid names."""
    valid = sorted(set(itertools.islice(valid, 5000)))
    close = difflib.get_close_matches(name[:200], valid, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    more = f" and {len(valid) - LISTED} more" if len(valid) > LISTED else ""
    return f"; available: {', '.join(valid[:LISTED])}{more}" if valid else ""


@contextmanager
def error_context(where: str) -> Iterator[None]:
    """Put `where` before the message of a UsageError raised inside."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
