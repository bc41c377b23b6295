"""Finds records that are out of date because code, data or pictures have changed since."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from genbench.errors import UsageError
from genbench.notices import collecting
from genbench.records.artifacts import PICTURE, Work
from genbench.records.record import Record
from genbench.records.sources import changed, own_digest, sources_of
from genbench.registry import find, origin
from genbench.suite import Run

KINDS = {"models": "model", "datasets": "dataset", "metrics": "metric"}  # as in Record.code
Digest = Callable[[Run], str | None]  # the current SHA-256 of the data of a run; None if they cannot be loaded


@dataclass
class Staleness:
    """Compares records with the current code and data, each looked up once per call.

    Attributes:
        earlier: the executions that existed when the call started; newer ones are current.
        rerun: treat all earlier records as out of date.
        digest: returns the SHA-256 of the data of a run; None: do not compare data.
        damaged: names of damaged pictures.
    """

    earlier: Collection[str] = ()
    rerun: bool = False
    digest: Digest | None = None
    damaged: Collection[str] = ()
    _sources: dict[tuple[str, str], str | None] = field(default_factory=dict)
    _digests: dict[str, str | None] = field(default_factory=dict)

    def is_current(self, record: Record, metric: str) -> bool:
        """Return whether `record` is up to date for `metric`."""
        if record.execution not in self.earlier:
            return True
        drawn = not self.damaged or not set(self.damaged) & set(record.files.values())
        return drawn and not self.model_changes(record) and not self.metric_changes(record, metric)

    def model_changes(self, record: Record) -> list[str]:
        """Return the changed files, plug-ins and data that the trained model of `record` depends on."""
        if record.execution not in self.earlier:
            return []
        if self.rerun:
            return ["--rerun"]
        run = record.run
        files = {*self._changed(record, "models", run.model), *self._changed(record, "datasets", run.data)}
        return sorted(files) or ([f"the data of {run.data}"] if self._data_changed(record) else [])

    def metric_changes(self, record: Record, metric: str) -> list[str]:
        """Return the changed files and plug-ins that only `metric` depends on."""
        return self._changed(record, "metrics", metric) if record.execution in self.earlier else []

    def genbench_changed(self, record: Record) -> bool:
        """Return whether genbench's own sources have changed."""
        return record.execution in self.earlier and record.code.get("sources") != own_digest()

    def _changed(self, record: Record, kind: str, name: str) -> list[str]:
        before = record.code.get(f"{KINDS[kind]} {name}")
        if (kind, name) not in self._sources:
            try:
                self._sources[kind, name] = sources_of(kind, name)
            except UsageError:  # unknown name: the run reports it
                self._sources[kind, name] = None
        now = self._sources[kind, name]
        return changed(before, now) if isinstance(before, str) and now and before != now else []

    def _data_changed(self, record: Record) -> bool:
        """Return whether the data have changed; False for records of older versions, which have no digest."""
        run, has_digest = record.run, record.data_sha256 and "sources" in record.code
        if self.digest is None or not has_digest or not may_change(run.data):
            return False
        files = record.code.get(f"files {run.data}")
        if files is not None and files == files_digest(run.data):
            return False
        if run.data not in self._digests:
            self._digests[run.data] = self.digest(run)
        return self._digests[run.data] not in (None, record.data_sha256)


def may_change(data: str) -> bool:
    """Return whether the data set `data` may change without genbench: it reads files, or is a plug-in."""
    try:
        return hasattr(find("datasets", data), "fetch") or origin("datasets", data) is not None
    except UsageError:
        return False


def files_digest(data: str) -> str | None:
    """Return a digest of names, sizes and times of the files of a data set; None if it does not list them."""
    paths: Callable[[], Iterable[Path]] | None = getattr(find("datasets", data), "paths", None)
    if paths is None or origin("datasets", data) is not None:
        return None
    digest = hashlib.sha256()
    for path in sorted(paths()):
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def damaged_pictures(records: Iterable[Record], work: Work) -> tuple[frozenset[str], list[str]]:
    """Set damaged pictures aside; return the names of all, also from earlier calls, and a line for each new one."""
    names = {name for record in records for name in record.files.values() if PICTURE.fullmatch(name)}
    with collecting() as lines:
        damaged = frozenset(name for name in sorted(names) if work.load(name) is None and work.is_damaged(name))
    return damaged, lines


def explain(staleness: Staleness, records: Mapping[str, Mapping[str, Record]]) -> list[str]:
    """Return a line for each reason to repeat runs, and one if genbench itself has changed.

    Args:
        records: by run id and metric, the record in use.
    """
    repeated, measured, outdated = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set), set[str]()
    for id, by_metric in records.items():
        for metric, record in by_metric.items():
            if model_changes := staleness.model_changes(record):
                repeated[", ".join(model_changes)].add(id)
            elif metric_changes := staleness.metric_changes(record, metric):
                measured[", ".join(metric_changes)].add(id)
            elif staleness.genbench_changed(record):
                outdated.add(id)
    if staleness.rerun:
        return [f"repeating {_count_runs(ids)}, because of --rerun" for ids in repeated.values()]
    lines = [
        f"repeating {_count_runs(ids)}: {reason} changed since {_they_were(ids)} recorded"
        for reason, ids in repeated.items()
    ]
    for reason, ids in measured.items():
        lines.append(f"measuring {_count_runs(ids)} again: {reason} changed since {_they_were(ids)} recorded")
    if outdated := outdated - set().union(*repeated.values()):
        was, them = ("was", "it") if len(outdated) == 1 else ("were", "them")
        lines.append(f"genbench itself changed since {_count_runs(outdated)} {was} recorded; --rerun repeats {them}")
    return lines


def _count_runs(ids: Collection[str]) -> str:
    return f"{len(ids)} run{'s' if len(ids) > 1 else ''}"


def _they_were(ids: Collection[str]) -> str:
    return "they were" if len(ids) > 1 else "it was"
