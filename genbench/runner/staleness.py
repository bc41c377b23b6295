"""Which records no longer hold, because code, data or pictures have changed since they were written."""

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
from genbench.records.sources import changed, own_digest, sources
from genbench.registry import find, origin
from genbench.suite import Run

KINDS = {"models": "model", "datasets": "dataset", "metrics": "metric"}  # as Record.code has them
Digest = Callable[[Run], str | None]  # of the data of a run as they are now; None where they cannot be loaded


@dataclass
class Staleness:
    """What has changed since records were written, looked up once for a call.

    Attributes:
        earlier: the executions there were when the call began: what it has written itself holds.
        rerun: nothing earlier holds.
        digest: loads the data of a run for their SHA-256; None: data are not looked at.
        damaged: names of pictures that are not what was drawn.
    """

    earlier: Collection[str] = ()
    rerun: bool = False
    digest: Digest | None = None
    damaged: Collection[str] = ()
    _sources: dict[tuple[str, str], str | None] = field(default_factory=dict)
    _digests: dict[str, str | None] = field(default_factory=dict)

    def holds(self, record: Record, metric: str) -> bool:
        """Return whether what `record` has of `metric` still holds."""
        if record.execution not in self.earlier:
            return True
        drawn = not self.damaged or not set(self.damaged) & set(record.files.values())
        return drawn and not self.of_model(record) and not self.of_metric(record, metric)

    def of_model(self, record: Record) -> list[str]:
        """Return what has changed that the trained model of `record` depends on: files, plug-ins, data."""
        if record.execution not in self.earlier:
            return []
        if self.rerun:
            return ["--rerun"]
        run = record.run
        files = {*self._changed(record, "models", run.model), *self._changed(record, "datasets", run.data)}
        return sorted(files) or ([f"the data of {run.data}"] if self._other_data(record) else [])

    def of_metric(self, record: Record, metric: str) -> list[str]:
        """Return what has changed that `metric` alone depends on."""
        return self._changed(record, "metrics", metric) if record.execution in self.earlier else []

    def of_genbench(self, record: Record) -> bool:
        """Return whether genbench's own sources have changed."""
        return record.execution in self.earlier and record.code.get("sources") != own_digest()

    def _changed(self, record: Record, kind: str, name: str) -> list[str]:
        before = record.code.get(f"{KINDS[kind]} {name}")
        if (kind, name) not in self._sources:
            try:
                self._sources[kind, name] = sources(kind, name)
            except UsageError:  # it does not resolve: the run says so
                self._sources[kind, name] = None
        now = self._sources[kind, name]
        return changed(before, now) if isinstance(before, str) and now and before != now else []

    def _other_data(self, record: Record) -> bool:
        """Return whether the data are other now; of records that an older genbench wrote it is not known."""
        run, known = record.run, record.data_sha256 and "sources" in record.code
        if self.digest is None or not known or not changeable(run.data):
            return False
        files = record.code.get(f"files {run.data}")
        if files is not None and files == files_digest(run.data):
            return False
        if run.data not in self._digests:
            self._digests[run.data] = self.digest(run)
        return self._digests[run.data] not in (None, record.data_sha256)


def changeable(data: str) -> bool:
    """Return whether the data set called `data` may change while genbench does not: it reads files, or is a plug-in."""
    try:
        return hasattr(find("datasets", data), "fetch") or origin("datasets", data) is not None
    except UsageError:
        return False


def files_digest(data: str) -> str | None:
    """Return a digest of names, sizes and times of the files that a data set reads; None if it does not list them."""
    paths: Callable[[], Iterable[Path]] | None = getattr(find("datasets", data), "paths", None)
    if paths is None or origin("datasets", data) is not None:
        return None
    digest = hashlib.sha256()
    for path in sorted(paths()):
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def damaged_pictures(records: Iterable[Record], work: Work) -> tuple[frozenset[str], list[str]]:
    """Set pictures aside that are not what was drawn; return the names of all that ever were, and a line for each."""
    names = {name for record in records for name in record.files.values() if PICTURE.fullmatch(name)}
    with collecting() as lines:
        damaged = frozenset(name for name in sorted(names) if work.load(name) is None and work.is_damaged(name))
    return damaged, lines


def explain(staleness: Staleness, records: Mapping[str, Mapping[str, Record]]) -> list[str]:
    """Return one line for each reason to repeat runs, and one if genbench itself has changed.

    Args:
        records: by the run's id and the metric, the record that counts.
    """
    repeated, measured, older = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set), set[str]()
    for id, by_metric in records.items():
        for metric, record in by_metric.items():
            if of_model := staleness.of_model(record):
                repeated[", ".join(of_model)].add(id)
            elif of_metric := staleness.of_metric(record, metric):
                measured[", ".join(of_metric)].add(id)
            elif staleness.of_genbench(record):
                older.add(id)
    if staleness.rerun:
        return [f"repeating {_runs(ids)}, as --rerun demands" for ids in repeated.values()]
    lines = [
        f"repeating {_runs(ids)}: {reason} changed since {_were(ids)} recorded" for reason, ids in repeated.items()
    ]
    for reason, ids in measured.items():
        lines.append(f"measuring {_runs(ids)} again: {reason} changed since {_were(ids)} recorded")
    if older := older - set().union(*repeated.values()):
        was, them = ("was", "it") if len(older) == 1 else ("were", "them")
        lines.append(f"genbench itself changed since {_runs(older)} {was} recorded; --rerun repeats {them}")
    return lines


def _runs(ids: Collection[str]) -> str:
    return f"{len(ids)} run{'s' if len(ids) > 1 else ''}"


def _were(ids: Collection[str]) -> str:
    return "they were" if len(ids) > 1 else "it was"
