"""The work folder: checkpoints, trained models and pictures, on a disk or behind any fsspec URL."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path, PurePosixPath


class Work:
    """Files by name under `url`, a path or an fsspec URL. A file is there whole or not at all."""

    def __init__(self, url: str | Path) -> None:
        import fsspec  # here, for it takes long and the command line imports this module
        from fsspec.implementations.local import LocalFileSystem

        self.url = str(url)
        self._files, self._root = fsspec.core.url_to_fs(self.url)
        self._local = isinstance(self._files, LocalFileSystem)

    def _path(self, name: str) -> str:
        return str(PurePosixPath(self._root, name))

    def save(self, name: str, content: bytes) -> None:
        """Write `content` as `name`, replacing what was there."""
        path = self._path(name)
        self._files.makedirs(os.path.dirname(path), exist_ok=True)
        if not self._local:  # object stores put whole objects
            self._files.pipe_file(path, content)
            return
        write_whole(Path(path), content)

    def put(self, content: bytes, suffix: str) -> str:
        """Write `content` under its SHA-256 and return the name it got."""
        name = f"files/{hashlib.sha256(content).hexdigest()[:32]}{suffix}"
        if not self._files.exists(self._path(name)):
            self.save(name, content)
        return name

    def load(self, name: str) -> bytes | None:
        """Return what stands under `name`, or None."""
        try:
            content: bytes = self._files.cat_file(self._path(name))
        except FileNotFoundError:
            return None
        return content

    def remove(self, name: str) -> None:
        """Remove `name` if it is there."""
        if self._files.exists(self._path(name)):
            self._files.rm_file(self._path(name))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that after a crash at any moment the old or the new one is there, never a part."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
