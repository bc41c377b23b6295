"""The work folder: checkpoints, trained models and pictures, on a disk or at any fsspec URL.

Every file has a checksum. A picture is named by the SHA-256 of its content. Any other file ends with a line of text,
``genbench sha256 <64 digits>``, the SHA-256 of its name and content, so that a flipped bit or a file copied from
another run is noticed. Zip readers ignore data after the archive, so ``torch.load("model.pt")`` opens a trained model.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from genbench.errors import UsageError
from genbench.notices import notify

TRAILER = re.compile(rb"\ngenbench sha256 ([0-9a-f]{64})\n\Z")
PICTURE = re.compile(r"files/([0-9a-f]{32})(\.[^/]*)?")
NOT_A_FILE = (errno.EISDIR, errno.ELOOP, errno.EINVAL)  # a folder, a link to itself, a pipe or device


class StorageError(OSError):
    """A file or folder cannot be read or written; the message is one line with its path and the system's reason."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def storage_errors(path: str | Path, action: str) -> Iterator[None]:
    """Turn any OSError inside into a StorageError that names `path` and `action`, "read" or "written"."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(error.errno, f"{path} cannot be {action}: {error.strerror or error}") from error


class Work:
    """Files by name under `url`, a path or an fsspec URL, written atomically.

    Damaged files are renamed to NAME.damaged, with a line on stderr, and treated as missing.
    """

    def __init__(self, url: str | Path) -> None:
        import fsspec  # slow to import, and the command line imports this module
        from fsspec.implementations.local import LocalFileSystem

        self.url = str(url)
        self._files, self._root = fsspec.core.url_to_fs(self.url)
        self._local = isinstance(self._files, LocalFileSystem)

    def _path(self, name: str) -> str:
        """Return the path of `name`; raises UsageError for one outside the work folder."""
        if not is_inside(name):
            raise UsageError(f"{name!r} is refused: it is not a file inside the work folder {self.url}")
        return str(PurePosixPath(self._root, name))

    def save(self, name: str, content: bytes) -> None:
        """Write `content` as `name`, replacing an older file; raises StorageError."""
        self._write(name, content if PICTURE.fullmatch(name) else content + _trailer(name, content))

    def put(self, content: bytes, suffix: str) -> str:
        """Write `content` under its SHA-256 and return its name; raises StorageError."""
        name = f"files/{hashlib.sha256(content).hexdigest()[:32]}{suffix}"
        if self.load(name) is None:
            self.save(name, content)
        return name

    def _write(self, name: str, content: bytes) -> None:
        path = self._path(name)
        with storage_errors(path, "written"):
            self._files.makedirs(os.path.dirname(path), exist_ok=True)
            if not self._local:  # object stores put whole objects
                self._files.pipe_file(path, content)
                return
        if os.path.isdir(path):
            self.set_aside(name, "it is a folder")
        write_whole(Path(path), content)

    def load(self, name: str) -> bytes | None:
        """Return the content of `name`; None if it is missing or damaged. Raises StorageError if it cannot be read."""
        content, problem = self._read_verified(name)
        if problem:
            self.set_aside(name, problem)
        return content

    def is_damaged(self, name: str) -> bool:
        """Return whether `name` is damaged, or missing because it was damaged and set aside."""
        content, problem = self._read_verified(name)
        return bool(problem) or (content is None and self._files.exists(f"{self._path(name)}.damaged"))

    def _read_verified(self, name: str) -> tuple[bytes | None, str | None]:
        """Return the content of `name` and None, or None and the problem; both None if it is missing."""
        path = self._path(name)
        try:
            content: bytes = read_whole(path) if self._local else self._files.cat_file(path)
        except FileNotFoundError:
            return None, None
        except OSError as error:
            if error.errno in NOT_A_FILE:
                return None, f"it is not a regular file ({error.strerror})"
            raise StorageError(error.errno, f"{path} cannot be read: {error.strerror or error}") from error
        if picture := PICTURE.fullmatch(name):
            matches = hashlib.sha256(content).hexdigest().startswith(picture[1])
            return (content, None) if matches else (None, "its content does not match the SHA-256 in its name")
        trailer = TRAILER.search(content)
        if trailer is None:
            return None, "it has no checksum at its end: it is incomplete, or from another program or version"
        content = content[: trailer.start()]
        if _trailer(name, content) != trailer[0]:
            return None, "its content does not match its SHA-256"
        return content, None

    def set_aside(self, name: str, problem: str) -> None:
        """Rename `name` to NAME.damaged and notify the user; raises StorageError."""
        path = self._path(name)
        if self._local:
            set_aside(path, problem)
            return
        target = _unused_path(f"{path}.damaged", self._files.exists)
        with storage_errors(path, "renamed"):
            self._files.mv(path, target)
        notify(_set_aside_line(path, target, problem))

    def remove(self, name: str) -> None:
        """Remove `name` if it exists; raises StorageError."""
        with storage_errors(path := self._path(name), "removed"), suppress(FileNotFoundError):
            self._files.rm_file(path)


def set_aside(path: str | Path, problem: str) -> None:
    """Rename `path` to NAME.damaged, or NAME.damaged-2 and so on, and notify the user; raises StorageError."""
    target = _unused_path(f"{path}.damaged", os.path.lexists)
    with storage_errors(path, "renamed"):
        os.rename(path, target)
    notify(_set_aside_line(path, target, problem))


def _unused_path(path: str, exists: Callable[[str], bool]) -> str:
    names = (path, *(f"{path}-{number}" for number in range(2, 1000)))
    return next((name for name in names if not exists(name)), path)


def _set_aside_line(path: str | Path, target: str, problem: str) -> str:
    return f"{path} is damaged: {problem}; it was renamed to {PurePosixPath(target).name} and will be recreated"


def is_inside(name: str) -> bool:
    """Return whether `name`, a relative path with slashes, stays inside the folder it is joined to."""
    parts = PurePosixPath(name).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts and not re.search(r"[\0\\:\ud800-\udfff]", name)


def _trailer(name: str, content: bytes) -> bytes:
    digest = hashlib.sha256(name.encode(errors="surrogatepass") + b"\0")
    digest.update(content)
    return b"\ngenbench sha256 %s\n" % digest.hexdigest().encode()


def read_whole(path: str | Path) -> bytes:
    """Return the content of a regular file; raises OSError for folders, pipes and devices."""
    with open(path, "rb", buffering=0, opener=_without_waiting) as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, "it is a folder, pipe or device", path)
        return file.read()


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: after a crash, either the old or the new version exists.

    Raises:
        StorageError: it cannot be written; the old file is unchanged.
    """
    new = path.with_name(f".{secrets.token_hex(8)}.new")
    with storage_errors(path, "written"):
        try:
            with new.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
        except BaseException:
            with suppress(OSError):
                new.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
