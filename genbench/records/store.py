"""Records on disk: ``<folder>/<suite>/<run id>/<execution>.json``, one immutable file per execution.

Beside them stands the file of their suite, ``<folder>/<suite>/suite-v<version>.yaml``. There is no index and no
counter, so merging the results of two machines is copying their folders together.
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
from genbench.records.artifacts import read_whole, storage, write_whole
from genbench.records.record import Record
from genbench.suite import Run, Suite, read_suite

TIMED = re.compile(r"\d{8}T\d{12}Z-")  # how the name of an execution starts: UTC time to the microsecond
Place = tuple[str, str, str]  # of a record: suite, run id, execution


class Store:
    """The records under `folder`, and `work`, its folder for what is not published.

    Attributes:
        damaged: (file, why) of every file, or folder, that the last reading skipped. Nothing is ever deleted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / ".work"
        self.damaged: list[tuple[Path, str]] = []

    def prepare(self) -> None:
        """Make the folders; raises UsageError if they cannot be written to."""
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK) or not os.access(self.work, os.W_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise UsageError(f"results folder {self.folder} is not writable: {where}{error.strerror}") from None

    def write(self, record: Record) -> Path:
        """Write `record` whole and return its path; no other record is touched.

        The name of an execution starts with its time, and the newest counts. If the clock was set back, so that an
        older record of the run has a later name, this one is named a microsecond after that.

        Raises:
            StorageError: it cannot be written.
        """
        folder = self.folder / record.run.suite / record.id
        with storage(folder, "written to"):
            folder.mkdir(parents=True, exist_ok=True)
            latest = max((name for name in os.listdir(folder) if TIMED.match(name)), default="")
        if record.execution <= latest:
            record = record.model_copy(update={"execution": _just_after(latest, record.execution)})
        path = folder / f"{record.execution}.json"
        text = json.dumps(record.model_dump(mode="json"), sort_keys=True, allow_nan=False, indent=1)
        write_whole(path, f"{text}\n".encode())
        return path

    def keep(self, suite: Suite, text: bytes) -> None:
        """Write `text`, the file of `suite`, beside its records, in place of what was kept of this version."""
        path = self._kept(suite.suite, suite.version)
        with storage(path.parent, "made"):
            path.parent.mkdir(exist_ok=True)
        write_whole(path, text)

    def kept(self, name: str, version: int) -> Suite | None:
        """Return the suite that was kept for the records of `version`; None where none was, or it cannot be read."""
        try:
            suite = read_suite(self._kept(name, version))
        except UsageError:
            return None
        return suite if (suite.suite, suite.version) == (name, version) else None

    def _kept(self, name: str, version: int) -> Path:
        return self.folder / name / f"suite-v{version}.yaml"

    def suites(self) -> set[str]:
        """Return the names of the suites that have records."""
        return {suite for suite, _, _ in self._places()}

    def _places(self, suites: Collection[str] | None = None, run: str | None = None) -> Iterator[Place]:
        """Yield where every record is, of `suites` and of `run`; other files may stand beside, as in ``peers/``."""
        for suite in self._listed() if suites is None else suites:
            for id in self._listed(suite) if run is None else [run]:
                files = (file for file in self._listed(suite, id) if file.endswith(".json"))
                yield from ((suite, id, file.removesuffix(".json")) for file in files)

    def _listed(self, *path: str) -> list[str]:
        """Return what is in a folder and not hidden, nothing where there is none; `damaged` names one that cannot be
        read."""
        folder = os.path.join(self.folder, *path)
        try:
            return [name for name in os.listdir(folder) if not name.startswith(".")]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self.damaged.append((Path(folder), error.strerror or str(error)))
            return []

    def records(self, suites: str | Iterable[str] | None = None) -> list[Record]:
        """Return the records of `suites` (default: all), oldest first; what cannot be read is put in `damaged`."""
        self.damaged = []
        chosen = None if suites is None else {suites} if isinstance(suites, str) else set(suites)
        return self._read(self._places(chosen))

    def _read(self, places: Iterable[Place]) -> list[Record]:
        read = (self._record(place) for place in places)
        return sorted((r for r in read if r is not None), key=lambda r: r.execution)

    def _record(self, place: Place) -> Record | None:
        path = f"{os.path.join(self.folder, *place)}.json"  # a pathlib.Path takes as long as the reading
        try:
            record = Record.model_validate_json(read_whole(path))
            in_place = (record.run.suite, record.id, record.execution) == place
        except (OSError, ValueError, RecursionError) as error:  # ValueError: also numbers that an id cannot be made of
            self.damaged.append((Path(path), _problem(error)))
            return None
        if not in_place:
            self.damaged.append((Path(path), "what it holds is of another suite, run or execution than its name says"))
            return None
        return record

    def of(self, run: Run) -> list[Record]:
        """Return the records of `run`, oldest first."""
        return self._read(self._places([run.suite], run.id))


def _problem(error: Exception) -> str:
    """Return one line that says what is wrong with a file."""
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
    """Return `execution` with the time of `latest`, a microsecond later; as it is if that is no time."""
    try:
        time = datetime.strptime(latest[:21], "%Y%m%dT%H%M%S%f") + timedelta(microseconds=1)
    except (ValueError, OverflowError):
        return execution
    return f"{time:%Y%m%dT%H%M%S%fZ}-{execution.partition('-')[2]}"
