"""Records on disk: ``<folder>/<suite>/<run id>/<execution>.json``, one immutable file per execution.

There is no index and no counter, so merging the results of two machines is copying their folders together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from genbench.run import Record, Run, UsageError
from genbench.work import write_whole


class Store:
    """The records under `folder`, and `work`, its folder for what is not published.

    Attributes:
        damaged: (file, why) of every file that the last reading skipped. Nothing is ever deleted.
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
            raise UsageError(f"results folder {self.folder} is not writable: {error.strerror}") from None

    def write(self, record: Record) -> Path:
        """Write `record` whole and return its path."""
        folder = self.folder / record.run.suite / record.id
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{record.execution}.json"
        text = json.dumps(record.model_dump(mode="json"), sort_keys=True, allow_nan=False, indent=1)
        write_whole(path, f"{text}\n".encode())
        return path

    def records(self, suites: str | Iterable[str] | None = None) -> list[Record]:
        """Return the records of `suites` (default: all), oldest first; what cannot be read is put in `damaged`."""
        chosen = None if suites is None else {suites} if isinstance(suites, str) else set(suites)
        self.damaged = []
        paths = (
            path
            for path in self.folder.glob("*/*/*.json")
            if not path.name.startswith(".")
            and not path.parts[-3].startswith(".")
            and (chosen is None or path.parts[-3] in chosen)
        )
        read = (self._read(path) for path in paths)
        return sorted((r for r in read if r is not None), key=lambda r: r.execution)

    def _read(self, path: Path) -> Record | None:
        try:
            record = Record.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            self.damaged.append((path, problem))
            return None
        if (record.run.suite, record.id, record.execution) != (path.parts[-3], path.parts[-2], path.stem):
            self.damaged.append((path, "what it holds is of another suite, run or execution than its name says"))
            return None
        return record

    def of(self, run: Run) -> list[Record]:
        """Return the records of `run`, oldest first."""
        read = (self._read(path) for path in (self.folder / run.suite / run.id).glob("[!.]*.json"))
        return sorted((r for r in read if r is not None), key=lambda r: r.execution)

    def held(self, run: Run) -> set[str]:
        """Return the metrics that ok records of `run` hold, under the name it has now: a row may be renamed."""
        good = (record.run for record in self.of(run) if record.status == "ok")
        return {metric for held in good if held.name == run.name for metric in held.metrics}
