"""What a run gave: its record, written once by the driver and never changed."""

from __future__ import annotations

from typing import Literal

from pydantic import FiniteFloat, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from genbench.strict_model import CHECKED, FrozenModel
from genbench.suite import Kind, MetricNames, Run

Better = Literal["lower", "higher"] | None  # None: neither is

Status = Literal[
    "ok", "diverged", "cuda_oom", "host_oom", "timeout", "crashed", "error", "unschedulable", "interrupted"
]


@dataclass(frozen=True, slots=True, kw_only=True, config=CHECKED)
class Measurement:
    """One number, and what must be known to read it. `value` is None where there is none, never 0 or NaN."""

    value: FiniteFloat | None
    unit: str
    better: Better = None
    kind: Kind = "exact"
    n: NonNegativeInt = 1  # how many test points, samples or repetitions it was taken from
    stderr: FiniteFloat | None = None  # over those n, not over seeds
    impl: str  # metric and version, and a digest of weights where it uses any
    raw: tuple[FiniteFloat, ...] = ()  # of a timing: each repetition
    verdict: str | None = None  # what the number says of the run, in a word that its row shows: "collapsed"


@dataclass(frozen=True, slots=True, kw_only=True, config=CHECKED)
class Point:
    """A point of the learning curve: mean training loss since the last point, and validation score in nats."""

    step: int
    seconds: float
    loss: FiniteFloat | None
    validation: FiniteFloat | None = None


class Record(FrozenModel):
    """What came of performing a run once: written once, by the driver, and never changed."""

    schema_version: Literal[1] = 1
    run: Run
    execution: str  # UTC time, host, random
    status: Status
    attempts: PositiveInt = 1
    error: str | None = None
    notes: tuple[str, ...] = ()  # what was repaired on the way, as a damaged checkpoint
    measurements: dict[str, Measurement] = {}
    completed: MetricNames = ()  # metrics that were taken, though others may have failed
    not_applicable: MetricNames = ()  # metrics that measure and draw nothing of this model and data
    files: dict[str, str] = {}  # what was drawn: name -> path under results/.work, by hash
    data_sha256: str | None = None
    selected_step: int | None = None
    curve: tuple[Point, ...] = ()
    timings: dict[str, float] = {}  # seconds of wall time: data, train, evaluate, total
    environment: dict[str, str | int | float | bool | None] = {}
    code: dict[str, str | bool | None] = {}  # commit, dirty, diff; version; digests of sources: see sources.py
    command: str | None = None

    @property
    def id(self) -> str:
        """The id of the run."""
        return self.run.id

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that were taken; records older than `completed` say nothing else than that a run was ok."""
        return self.run.metrics if self.status == "ok" else self.completed

    @property
    def weights(self) -> Literal["best-validation", "last"] | None:
        """Which weights were measured; None where the curve does not say: no steps, or trained by another execution.

        "best" selects by validation scores. A model without a likelihood has none, and one whose scores were never
        finite has none to go by: of these, the last weights are taken, as `selected_step` says.
        """
        if not self.curve:
            return None
        scored = any(point.validation is not None for point in self.curve)
        return "best-validation" if scored and self.run.selection == "best" else "last"
