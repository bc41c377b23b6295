"""Where data and the weights of feature nets are kept, and how what is missing gets there."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

STALL = 20.0  # seconds in which a download must send something
FEATURE_NETS = "feature-nets"  # the folder under `data_root` for nets that metrics look through


def data_root() -> Path:
    """Return the folder that GENBENCH_DATA names (default: data)."""
    return Path(os.environ.get("GENBENCH_DATA") or "data").expanduser().resolve()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one process at a time put something into `folder`, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".download.lock"):
        yield


@contextmanager
def downloading(folder: Path) -> Iterator[None]:
    """Let one process at a time download into `folder`, and end a download that stalls."""
    before = socket.getdefaulttimeout()
    with alone(folder):
        socket.setdefaulttimeout(STALL)
        try:
            yield
        finally:
            socket.setdefaulttimeout(before)
