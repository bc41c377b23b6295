"""Where data and the weights of feature nets lie, and how missing ones are downloaded.

Every file that is downloaded has a SHA-256 in the source code here, and gets its name only if it has that digest.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import filelock

from genbench.records.artifacts import set_aside

STALL = 20.0  # seconds in which a download must send something
FEATURE_NETS = "feature-nets"  # the folder under `data_root` for nets that metrics look through


def data_root() -> Path:
    """Return the folder that GENBENCH_DATA names (default: data)."""
    return Path(os.environ.get("GENBENCH_DATA") or "data").expanduser().resolve()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one process at a time put something into `folder`, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".download.lock")
    try:
        lock.acquire()
    except NotImplementedError as error:  # what filelock makes of ENOSYS
        raise OSError(errno.ENOLCK, f"{folder} is on a file system without locks") from error
    try:
        yield
    finally:
        lock.release()


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


def has_digest(path: Path, sha256: str) -> bool:
    """Return whether the file `path` exists and has this SHA-256; one with another is set aside, with a line on stderr.

    Raises:
        OSError: it cannot be read or renamed.
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        set_aside(path, f"its SHA-256 is {digest} and should be {sha256}")
    return digest == sha256


def download(path: Path, urls: Sequence[str], sha256: str) -> None:
    """Put the file with this SHA-256 at `path`, from the first of `urls` that gives it; nothing is done if it is there.

    Raises:
        OSError, RuntimeError, HTTPException: none of them does; nothing is left at `path`.
    """
    import torch

    if has_digest(path, sha256):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    for last, url in zip([False] * (len(urls) - 1) + [True], urls, strict=True):
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256, progress=False)
            return
        except (OSError, RuntimeError, HTTPException):
            if last:
                raise
