"""Records on disk: ``<folder>/<suite>/<run id>/<execution>.json``, one immutable file per execution.

The file of their suite is next to them, ``<folder>/<suite>/suite-v<version>.yaml``. There is no index: the results of
two machines are merged by copying folders.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from genbench.errors import UsageError
from genbench.records.artifacts import read_whole, storage_errors, write_whole
from genbench.records.record import Record
from genbench.suite import Run, Suite, read_suite

EXECUTION_TIME = re.compile(r"\d{8}T\d{12}Z-")  # prefix of an execution: UTC time to the microsecond
RecordKey = tuple[str, str, str]  # of a record: suite, run id, execution


class Store:
    """The records under `folder`, and its work folder `work` for unpublished files.

    Attributes:
        damaged: (path, problem) of every file or folder that the last call of `records` skipped. Nothing is deleted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / ".work"
        self.damaged: list[tuple[Path, str]] = []

    def prepare(self) -> None:
        """Create the folders; raises UsageError if they are not writable."""
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK) or not os.access(self.work, os.W_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise UsageError(f"results folder {self.folder} is not writable: {where}{error.strerror}") from None

    def write(self, record: Record) -> Path:
        """Write `record` atomically and return its path.

        The name of an execution starts with its time, and the newest is used. If the clock was set back, so that an
        earlier record has a later name, this one is named a microsecond after that.

        Raises:
            StorageError: it cannot be written.
        """
        folder = self.folder / record.run.suite / record.id
        with storage_errors(folder, "written to"):
            folder.mkdir(parents=True, exist_ok=True)
            latest = max((name for name in os.listdir(folder) if EXECUTION_TIME.match(name)), default="")
        if record.execution <= latest:
            record = record.model_copy(update={"execution": _just_after(latest, record.execution)})
        path = folder / f"{record.execution}.json"
        text = json.dumps(record.model_dump(mode="json"), sort_keys=True, allow_nan=False, indent=1)
        write_whole(path, f"{text}\n".encode())
        return path

    def save_suite(self, suite: Suite, text: bytes) -> None:
        """Save `text`, the file of `suite`, next to its records, replacing an earlier one of the same version."""
        path = self._suite_path(suite.suite, suite.version)
        with storage_errors(path.parent, "created"):
            path.parent.mkdir(exist_ok=True)
        write_whole(path, text)

    def load_suite(self, name: str, version: int) -> Suite | None:
        """Return the saved suite of `version`; None if there is none or it cannot be read."""
        try:
            suite = read_suite(self._suite_path(name, version))
        except UsageError:
            return None
        return suite if (suite.suite, suite.version) == (name, version) else None

    def _suite_path(self, name: str, version: int) -> Path:
        return self.folder / name / f"suite-v{version}.yaml"

    def suites(self) -> set[str]:
        """Return the names of the suites that have records."""
        return {suite for suite, _, _ in self._record_keys()}

    def _record_keys(self, suites: Collection[str] | None = None, run: str | None = None) -> Iterator[RecordKey]:
        """Yield the keys of all records of `suites` and of `run`; other files in the folders are ignored."""
        for suite in self._list_folder() if suites is None else suites:
            for id in self._list_folder(suite) if run is None else [run]:
                files = (file for file in self._list_folder(suite, id) if file.endswith(".json"))
                yield from ((suite, id, file.removesuffix(".json")) for file in files)

    def _list_folder(self, *path: str) -> list[str]:
        """Return the visible names in a folder, none if it does not exist; an unreadable one is added to `damaged`."""
        folder = os.path.join(self.folder, *path)
        try:
            return [name for name in os.listdir(folder) if not name.startswith(".")]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self.damaged.append((Path(folder), error.strerror or str(error)))
            return []

    def records(self, suites: str | Iterable[str] | None = None) -> list[Record]:
        """Return the records of `suites` (default: all), oldest first; unreadable files are listed in `damaged`."""
        self.damaged = []
        chosen = None if suites is None else {suites} if isinstance(suites, str) else set(suites)
        return self._read(self._record_keys(chosen))

    def _read(self, keys: Iterable[RecordKey]) -> list[Record]:
        loaded = (self._record(key) for key in keys)
        return sorted((r for r in loaded if r is not None), key=lambda r: r.execution)

    def _record(self, key: RecordKey) -> Record | None:
        path = f"{os.path.join(self.folder, *key)}.json"  # building a pathlib.Path would take as long as reading
        try:
            record = Record.model_validate_json(read_whole(path))
            matches_path = (record.run.suite, record.id, record.execution) == key
        except (OSError, ValueError, RecursionError) as error:  # ValueError: also for numbers that have no JSON
            self.damaged.append((Path(path), _problem(error)))
            return None
        if not matches_path:
            self.damaged.append((Path(path), "it belongs to another suite, run or execution than its path"))
            return None
        return record

    def of(self, run: Run) -> list[Record]:
        """Return the records of `run`, oldest first."""
        return self._read(self._record_keys([run.suite], run.id))


def _problem(error: Exception) -> str:
    """Return a one-line description of `error`."""
    match error:
        case ValidationError():
            first = error.errors(include_url=False, include_input=False)[0]
            text = ".".join([*map(str, first["loc"]), ""])[:80] + f" {first['msg']}"
        case OSError():
            text = error.strerror or str(error)
        case _:
            text = str(error)
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))[:200]


def _just_after(latest: str, execution: str) -> str:
    """Return `execution` with a time one microsecond after that of `latest`; unchanged if that has no time."""
    try:
        time = datetime.strptime(latest[:21], "%Y%m%dT%H%M%S%f") + timedelta(microseconds=1)
    except (ValueError, OverflowError):
        return execution
    return f"{time:%Y%m%dT%H%M%S%fZ}-{execution.partition('-')[2]}"
