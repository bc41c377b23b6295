"""Lines for the user about what was repaired on the way: printed at once, or collected for the record of a run."""

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
    """Collect the lines that are sent inside instead of printing them: a worker of Ray has nobody to print to."""
    lines: list[str] = []
    token = _collected.set(lines)
    try:
        yield lines
    finally:
        _collected.reset(token)
