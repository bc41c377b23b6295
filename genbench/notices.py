"""Notices to the user, such as repaired files: printed, or collected for the record of a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from genbench.console import printable

_collected: ContextVar[list[str] | None] = ContextVar("notices", default=None)


def notify(line: str) -> None:
    """Print `line` on stderr, or add it to the list of the innermost `collecting`."""
    if (lines := _collected.get()) is not None:
        lines.append(line)
    else:
        print(f"genbench: {printable(line)}", file=sys.stderr)


@contextmanager
def collecting() -> Iterator[list[str]]:
    """Collect notices inside instead of printing them: the output of a Ray worker is not seen."""
    lines: list[str] = []
    token = _collected.set(lines)
    try:
        yield lines
    finally:
        _collected.reset(token)
