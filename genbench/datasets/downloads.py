"""Where data and the weights of feature networks are stored, and how missing files are downloaded.

The source code has the SHA-256 of every file that can be downloaded; a file gets its name only after verification.
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

STALL_SECONDS = 20.0  # a download that receives nothing for this long is aborted
FEATURE_NETS = "feature-nets"  # folder under `data_root` for the networks that metrics compute features with


def data_root() -> Path:
    """Return the folder named by GENBENCH_DATA (default: data)."""
    return Path(os.environ.get("GENBENCH_DATA") or "data").expanduser().resolve()


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, which is created if missing: one process at a time writes into it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".download.lock")
    try:
        lock.acquire()
    except NotImplementedError as error:  # filelock raises it for ENOSYS
        raise OSError(errno.ENOLCK, f"{folder} is on a file system without locks") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def downloading(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, and abort downloads that stall."""
    before = socket.getdefaulttimeout()
    with folder_lock(folder):
        socket.setdefaulttimeout(STALL_SECONDS)
        try:
            yield
        finally:
            socket.setdefaulttimeout(before)


def has_digest(path: Path, sha256: str) -> bool:
    """Return whether the file `path` exists with this SHA-256; a different file is renamed, with a line on stderr.

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
    """Download the file with this SHA-256 to `path`, trying `urls` in order, unless it is already present.

    Raises:
        OSError, RuntimeError, HTTPException: no URL serves it; nothing is left at `path`.
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
