"""What a suite and a run are: plain data, no torch.

A `Suite` is a file under suites/. It expands into `Run`s; each holds everything that determines one trained model.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    Strict,
    model_validator,
)

from genbench.errors import UsageError, error_context, nearest
from genbench.file_names import label, one_paragraph, suite_name
from genbench.options import options_of
from genbench.registry import find
from genbench.strict_model import Amount, Count, Decay, NonNegative, Positive, Seed, Steps, StrictModel, checked
from genbench.strict_yaml import read_yaml

ROOT = Path(__file__).resolve().parents[1]


class Optimizer(StrictModel):
    """Optimizer, learning rates, clipping and averaging of weights."""

    name: Literal["adam", "adamw", "adamax", "rmsprop", "sgd"] = "adam"
    lr: Positive = 1e-3
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    weight_decay: NonNegative = 0.0
    schedule: Literal["constant", "cosine", "linear", "stages"] = "constant"
    warmup: Steps = 0  # steps of linear warm-up of the learning rate
    clip: Positive | None = None  # largest gradient norm of each optimized loss
    ema: Decay = 0.0  # decay of averaged weights, which are evaluated; 0: no averaging


class Resources(StrictModel):
    """Resources that a run requests; they do not affect its id."""

    cpus: Annotated[Amount, Field(gt=0)] = 1.0
    gpus: Amount = 0.0
    memory: Annotated[int, Strict(), Field(ge=1)] | None = None  # bytes
    timeout: Annotated[Positive, Field(le=1e9)] | None = None  # seconds


class Settings(StrictModel):
    """Settings of any level of a suite: its defaults, a data entry, a model entry."""

    steps: Steps = 1000  # 0: only Model.fit_closed_form
    batch: Count = 128
    optimizer: Optimizer = Optimizer()
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    checks: Annotated[Count, Field(le=100_000)] = 20  # evaluations of the validation split, evenly spaced over the run
    selection: Literal["best", "last"] = "best"  # report the weights with the best validation score, or the last
    options: dict[str, Any] = {}  # of the model
    resources: Resources = Resources()

    @model_validator(mode="before")
    @classmethod
    def _lr_is_short_for_optimizer_lr(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "lr" in data and isinstance(data.get("optimizer", {}), Mapping):
            if "lr" in data.get("optimizer", {}):
                raise ValueError("lr and optimizer.lr are the same setting; give one of them")
            data = dict(data)
            data["optimizer"] = {**data.get("optimizer", {}), "lr": data.pop("lr")}
        return data

    @classmethod
    def _aliases(cls) -> tuple[str, ...]:
        return ("lr",)


RENAMED_METRICS = {"evaluations": "nfe"}  # by the names in older records


def _current_names(metrics: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(RENAMED_METRICS.get(name, name) for name in metrics)


MetricNames = Annotated[tuple[str, ...], AfterValidator(_current_names)]


class Run(Settings):
    """Everything that determines one trained model, with its name, metrics and resources.

    The default of a field must never change once records are published: `id` leaves defaults out, so that adding a
    field changes no id.
    """

    suite: str
    version: PositiveInt = 1
    name: str  # of the row
    model: str
    data: str
    seed: NonNegativeInt = 0
    metrics: MetricNames = ()

    @functools.cached_property
    def id(self) -> str:
        """16 hexadecimal digits of the SHA-256 of everything that determines the trained model.

        Metrics, resources and names are left out.
        """
        decides = self.model_dump(mode="json", exclude_defaults=True, exclude={"suite", "name", "metrics", "resources"})
        text = json.dumps(decides, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.name} / {self.data} / seed {self.seed}"


# -------------------------------------------------------------------------------------------------- suites

Kind = Literal["exact", "bound", "estimate"]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | int | Mapping) else value


def _each_once(values: Any) -> Any:
    for value, times in Counter(values).items():
        if times > 1:
            raise ValueError(f"{value!r} is given twice")
    return values


MAX_SEEDS = 10_000
MAX_CELLS = 10_000  # rows times data sets of a suite
MAX_RUNS = 100_000
Seeds = Annotated[
    tuple[Seed, ...], Field(min_length=1, max_length=MAX_SEEDS), BeforeValidator(_listed), AfterValidator(_each_once)
]
Label = Annotated[str, AfterValidator(label)]
MeasurementNames = Annotated[tuple[Label, ...], BeforeValidator(_listed), AfterValidator(_each_once)]


class Defaults(Settings):
    """Settings for the whole suite, and its seeds."""

    seeds: Seeds = (0, 1, 2)


class DataEntry(Settings):
    """A data set of a suite, with its own settings."""

    data: Label


class ModelEntry(Settings):
    """A row of a suite: a model, its data sets (default: all), and its settings, also per data set."""

    model: str
    data: Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_listed)] | None = None
    per_data: dict[str, Settings] = {}


class Published(StrictModel):
    """Published results of a model, shown next to measured rows and never ranked."""

    source: Annotated[str, Field(min_length=1, max_length=500), BeforeValidator(one_paragraph)]  # title, year, table
    kind: Kind = "exact"
    values: Annotated[dict[str, dict[str, FiniteFloat]], Field(min_length=1)]  # measurement -> data -> value


def _data_entry(value: Any) -> Any:
    return {"data": value} if isinstance(value, str) else value


def _model_entry(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


class Suite(StrictModel):
    """A protocol: models, data sets, seeds and metrics."""

    suite: Annotated[str, AfterValidator(suite_name)]
    version: Count = 1
    title: Annotated[str, Field(max_length=200), BeforeValidator(one_paragraph)] = ""
    question: Annotated[str, Field(max_length=1000), BeforeValidator(one_paragraph)] = ""
    rank_by: MeasurementNames = ()  # ranks the rows: the first that a data set has; default: report.columns.RANK_BY
    defaults: Defaults = Defaults()
    data: Annotated[tuple[Annotated[DataEntry, BeforeValidator(_data_entry)], ...], Field(min_length=1)]
    metrics: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_each_once)]
    models: Annotated[dict[Label, Annotated[ModelEntry, BeforeValidator(_model_entry)]], Field(min_length=1)]
    published: dict[Label, Published] = {}  # by the name of the row

    @model_validator(mode="after")
    def _check_data_names(self) -> Self:
        names = [entry.data for entry in self.data]
        by_casefold: dict[str, str] = {}
        for i, name in enumerate(names):
            if (first := by_casefold.get(name.casefold())) is not None:
                same = f"and {first!r} differ in case only and would share files"
                problem = "is given twice" if first == name else same
                raise ValueError(f"data.{i}: {name!r} {problem}")
            by_casefold[name.casefold()] = name
        valid = set(names)
        for key, value in self._data_references():
            if value not in valid:
                raise ValueError(f"{key}: no data {value!r} in this suite{nearest(value, names)}")
        cells = sum(len(names) if row.data is None else len(row.data) for row in self.models.values())
        if cells > MAX_CELLS:
            raise ValueError(f"models: {cells} pairs of row and data are more than {MAX_CELLS}; split the suite")
        return self

    def _data_references(self) -> Iterator[tuple[str, str]]:
        """Yield (key, data) for every reference to a data set."""
        for name, entry in self.models.items():
            yield from ((f"models.{name}.data", value) for value in entry.data or ())
            yield from ((f"models.{name}.per_data", value) for value in entry.per_data)
        for name, paper in self.published.items():
            yield from (
                (f"published.{name}.values.{m}", value) for m, values in paper.values.items() for value in values
            )

    def runs(
        self, only: str = "*", seeds: Sequence[int] | None = None, change: Mapping[str, Any] | None = None
    ) -> list[Run]:
        """Return the runs by data set, model and seed; later settings win: defaults, data, model, per_data, `change`.

        Args:
            only: a glob of rows, or of ``row/data``.
            seeds: instead of the suite's own.

        Raises:
            UsageError: a model, data set, metric or model option that does not resolve (the key is named), two rows
                that are the same, or an `only` that matches nothing.
        """
        self._check_metrics()
        cells = [
            (name, model, data)
            for data in self.data
            for name, model in self.models.items()
            if model.data is None or data.data in model.data
        ]
        chosen = [cell for cell in cells if matches(only, cell[0], cell[2].data)]
        if not chosen:
            raise UsageError(f"--only {only!r} matches no row{nearest(only, self.models)}")
        seeds = self.defaults.seeds if seeds is None else seeds
        if len(chosen) * len(seeds) > MAX_RUNS:
            raise UsageError(f"{len(chosen) * len(seeds)} runs are more than {MAX_RUNS}; take fewer seeds, or --only")
        changed = checked(Settings, change or {}).model_dump(exclude_unset=True)
        runs = [run for cell in chosen for run in self._cell(*cell, seeds, changed)]
        seen: dict[str, Run] = {}
        for run in runs:
            if (twin := seen.setdefault(run.id, run)) is not run:
                raise UsageError(f"models.{run.name}: on {run.data} it is the same run as {twin.name!r}")
        return runs

    def _check_metrics(self) -> None:
        """Refuse unknown metrics, and two that produce the same measurement."""
        owners: dict[str, str] = {}
        for i, metric in enumerate(self.metrics):
            with error_context(f"metrics.{i}"):
                names = getattr(find("metrics", metric), "names", ())
                if clash := next((name for name in names if name in owners), None):
                    raise UsageError(f"{metric!r} measures {clash!r}, as {owners[clash]!r} does; keep one of them")
                owners |= dict.fromkeys(names, metric)

    def _cell(
        self,
        name: str,
        model: ModelEntry,
        data: DataEntry,
        seeds: Sequence[int],
        change: dict[str, Any],
    ) -> list[Run]:
        layers = [self.defaults, data, model, model.per_data.get(data.data)]
        layers_given = [
            layer.model_dump(exclude_unset=True, exclude={"seeds", "data", "model", "per_data"})
            for layer in layers
            if layer
        ]
        settings = functools.reduce(merged, [*layers_given, change])
        with error_context(f"data.{data.data}"):
            find("datasets", data.data)
        with error_context(f"models.{name}"):
            settings["options"] = options_of(find("models", model.model), settings.get("options", {}))
            row = {
                "suite": self.suite,
                "version": self.version,
                "name": name,
                "model": model.model,
                "data": data.data,
                "metrics": self.metrics,
            }
            run = checked(Run, settings | row)
            return [run.model_copy(update={"seed": seed}) for seed in seeds]


def matches(only: str, row: str, data: str) -> bool:
    """Return whether the glob `only` matches `row` or ``row/data``; a name with glob characters matches itself."""
    return any(name == only or fnmatchcase(name, only) for name in (row, f"{row}/{data}"))


def merged(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Return `a` updated with `b`, recursively in mappings."""
    both = {
        k: merged(a[k], b[k]) for k in a.keys() & b.keys() if isinstance(a[k], Mapping) and isinstance(b[k], Mapping)
    }
    return {**a, **b, **both}


def suite_paths() -> dict[str, Path]:
    """Return the paths of all suites by name: from ./suites and from the project's own folder."""
    folders = [ROOT / "suites", Path("suites")]
    return {path.stem: path.absolute() for folder in folders for path in sorted(folder.glob("*.yaml"))}


def suite_path(name: str) -> Path:
    """Return the path of the suite `name`, a name under suites/ or a path.

    Raises:
        UsageError: it is neither; the message suggests the nearest name.
    """
    if name in (paths := suite_paths()):
        return paths[name]
    if "/" in name or os.sep in name or name.endswith((".yaml", ".yml")) or (name and os.path.lexists(name)):
        return Path(name)
    raise UsageError(f"unknown suite {name!r}{nearest(name, paths)}")


def read_suite(path: Path) -> Suite:
    """Return the suite in the YAML file `path`.

    Raises:
        UsageError: the file is missing, not a regular file, unreadable, empty or not YAML, or a key is unknown, given
            twice or of the wrong type; the message names file and key.
    """
    with error_context(str(path)):
        try:
            if not stat.S_ISREG(mode := path.stat().st_mode):
                raise UsageError("is a folder, not a suite's file" if stat.S_ISDIR(mode) else "is not a regular file")
            data = read_yaml(path.read_bytes())
        except OSError as error:
            raise UsageError(f"cannot be read: {error.strerror or error}") from None
        if data is None:
            raise UsageError("is empty")
        if not isinstance(data, Mapping):
            raise UsageError(f"is not a mapping of keys, but {type(data).__name__}")
        return checked(Suite, data)
