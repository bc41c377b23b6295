"""What a run is, what a suite is, what a record is: plain data, no torch.

A `Suite` is a file under suites/. It expands into `Run`s, each of which says all that decides one trained
model. Performing a run gives a `Record`.
"""

from __future__ import annotations

import builtins
import functools
import hashlib
import inspect
import json
import os
import stat
import typing
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    PydanticUserError,
    Strict,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass

from genbench.errors import UsageError as UsageError
from genbench.errors import naming as naming
from genbench.errors import nearest as nearest
from genbench.errors import short
from genbench.file_names import label, one_paragraph, suite_name
from genbench.registry import docs_of as docs_of
from genbench.registry import find as find
from genbench.registry import names as names
from genbench.strict_yaml import read_yaml

T = TypeVar("T", bound=BaseModel)
ROOT = Path(__file__).resolve().parents[1]


# ------------------------------------------------------------------------------------------ data that is checked


CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=(), defer_build=True)


class Frozen(BaseModel):
    """Immutable data that refuses a key it does not know."""

    model_config = ConfigDict(**CHECKED, frozen=True)


class Written(Frozen):
    """What people write: of a key that it does not know it names the nearest."""

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            known = cls._keys()
            for key in data:
                if key not in known:
                    raise ValueError(f"unknown key {key!r}{nearest(str(key), known)}")
        return data

    @classmethod
    @functools.cache
    def _keys(cls) -> frozenset[str]:
        return frozenset(field.alias or name for name, field in cls.model_fields.items()) | set(cls._sugar())

    @classmethod
    def _sugar(cls) -> tuple[str, ...]:
        """Return the keys that a validator of this class rewrites."""
        return ()


def checked(kind: type[T], data: Any) -> T:
    """Return `data` as a `kind`; raises UsageError with one line that names the key."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise UsageError(first_error(error)) from None


def first_error(error: ValidationError) -> str:
    """Return the first problem of `error` in one line: "options.lr: input should be greater than 0, got -1"."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"] if part != "[key]")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        message = "is missing"
    elif first["type"] != "value_error":
        message = "should be a mapping (key: value)" if first["type"] == "model_type" else message
        message = f"{message[:1].lower()}{message[1:]}, got {short(first['input'])}"
    return f"{where}: {message}" if where else message


# Numbers are strict: neither a bool nor text is one. The largest are beyond any use: they refuse slips of the pen.
Count = Annotated[int, Strict(), Field(ge=1, le=1_000_000)]
Steps = Annotated[int, Strict(), Field(ge=0, le=1_000_000_000)]
Seed = Annotated[int, Strict(), Field(ge=0, lt=1 << 63)]
Positive = Annotated[float, Strict(), Field(gt=0)]
NonNegative = Annotated[float, Strict(), Field(ge=0)]
Decay = Annotated[float, Strict(), Field(ge=0, lt=1)]
Amount = Annotated[float, Strict(), Field(ge=0, le=100_000)]


class Optimizer(Written):
    """How parameters move: the rule, its rates, and what is done to gradients and weights around it."""

    name: Literal["adam", "adamw", "adamax", "rmsprop", "sgd"] = "adam"
    lr: Positive = 1e-3
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    weight_decay: NonNegative = 0.0
    schedule: Literal["constant", "cosine", "linear", "stages"] = "constant"
    warmup: Steps = 0  # steps in which the rate rises linearly from 0
    clip: Positive | None = None  # largest norm of a player's gradient
    ema: Decay = 0.0  # decay of the averaged weights that are evaluated; 0: none


class Resources(Written):
    """What a run occupies while it is performed; never part of what it is."""

    cpus: Annotated[Amount, Field(gt=0)] = 1.0
    gpus: Amount = 0.0
    memory: Annotated[int, Strict(), Field(ge=1)] | None = None  # bytes
    timeout: Annotated[Positive, Field(le=1e9)] | None = None  # seconds


class Settings(Written):
    """What may be set at any level of a suite: its defaults, a data entry, a model entry."""

    steps: Steps = 1000  # 0: nothing but the closed-form fit of Model.finish
    batch: Count = 128
    optimizer: Optimizer = Optimizer()
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    checks: Annotated[Count, Field(le=100_000)] = 20  # how often the validation split is looked at, evenly over the run
    selection: Literal["best", "last"] = "best"  # which weights are reported: best at a check, or the last
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
    def _sugar(cls) -> tuple[str, ...]:
        return ("lr",)


class Run(Settings):
    """All that decides one trained model, and beside it what is to be measured, with what, under which name.

    A default of a field, once records are published, does not change: `id` leaves defaults out, so that a
    field added later leaves every id as it is.
    """

    suite: str
    version: PositiveInt = 1
    name: str  # of the row
    model: str
    data: str
    seed: NonNegativeInt = 0
    metrics: tuple[str, ...] = ()

    @functools.cached_property
    def id(self) -> str:
        """16 hexadecimal digits of the SHA-256 of all that decides the trained model.

        Not of metrics, resources or names: the same model asked for more, or run elsewhere, is the same run.
        """
        decides = self.model_dump(mode="json", exclude_defaults=True, exclude={"suite", "name", "metrics", "resources"})
        text = json.dumps(decides, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.name} / {self.data} / seed {self.seed}"


# -------------------------------------------------------------------------------------------------- suites

Kind = Literal["exact", "bound", "estimate"]
Better = Literal["lower", "higher"] | None  # None: neither is


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


class Defaults(Settings):
    """Settings for the whole suite, and its seeds."""

    seeds: Seeds = (0, 1, 2)


class DataEntry(Settings):
    """A data set of a suite and the settings it needs of its own."""

    data: Label


class ModelEntry(Settings):
    """A row of a suite: a model, its settings, the data it takes (default: all) and its settings on each."""

    model: str
    data: Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_listed)] | None = None
    per_data: dict[str, Settings] = {}


class Published(Written):
    """What a paper reports of a model, shown beside the rows that are measured here and never ranked among them."""

    source: Annotated[str, Field(min_length=1, max_length=500), BeforeValidator(one_paragraph)]  # title, year, table
    kind: Kind = "exact"
    values: Annotated[dict[str, dict[str, FiniteFloat]], Field(min_length=1)]  # measurement -> data -> value


def _data_entry(value: Any) -> Any:
    return {"data": value} if isinstance(value, str) else value


def _model_entry(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


class Suite(Written):
    """One protocol: every model on every data set with every seed, and what is measured."""

    suite: Annotated[str, AfterValidator(suite_name)]
    version: Count = 1
    title: Annotated[str, Field(max_length=200), BeforeValidator(one_paragraph)] = ""
    question: Annotated[str, Field(max_length=1000), BeforeValidator(one_paragraph)] = ""
    defaults: Defaults = Defaults()
    data: Annotated[tuple[Annotated[DataEntry, BeforeValidator(_data_entry)], ...], Field(min_length=1)]
    metrics: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_each_once)]
    models: Annotated[dict[Label, Annotated[ModelEntry, BeforeValidator(_model_entry)]], Field(min_length=1)]
    published: dict[Label, Published] = {}  # by the name of the row

    @model_validator(mode="after")
    def _data_that_is_named_is_there(self) -> Self:
        here = [entry.data for entry in self.data]
        spelled: dict[str, str] = {}
        for i, name in enumerate(here):
            if (first := spelled.get(name.casefold())) is not None:
                problem = "is given twice" if first == name else f"and {first!r} differ in case only, and share files"
                raise ValueError(f"data.{i}: {name!r} {problem}")
            spelled[name.casefold()] = name
        valid = set(here)
        for key, value in self._data_named():
            if value not in valid:
                raise ValueError(f"{key}: no data {value!r} here{nearest(value, here)}")
        cells = sum(len(here) if row.data is None else len(row.data) for row in self.models.values())
        if cells > MAX_CELLS:
            raise ValueError(f"models: {cells} pairs of row and data are more than {MAX_CELLS}; split the suite")
        return self

    def _data_named(self) -> Iterator[tuple[str, str]]:
        """Yield (key, data) for every mention of a data set but the list of them."""
        for name, entry in self.models.items():
            yield from ((f"models.{name}.data", value) for value in entry.data or ())
            yield from ((f"models.{name}.per_data", value) for value in entry.per_data)
        for name, said in self.published.items():
            yield from (
                (f"published.{name}.values.{m}", value) for m, values in said.values.items() for value in values
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
        """Refuse a metric that does not resolve, and two of which it is known that they measure the same."""
        owners: dict[str, str] = {}
        for i, metric in enumerate(self.metrics):
            with naming(f"metrics.{i}"):
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
        given = [
            layer.model_dump(exclude_unset=True, exclude={"seeds", "data", "model", "per_data"})
            for layer in layers
            if layer
        ]
        settings = functools.reduce(merged, [*given, change])
        with naming(f"data.{data.data}"):
            find("datasets", data.data)
        with naming(f"models.{name}"):
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
    """Return whether the glob `only` is of `row` or of ``row/data``; a name that looks like a glob matches itself."""
    return any(name == only or fnmatchcase(name, only) for name in (row, f"{row}/{data}"))


def merged(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Return `a` with `b` over it, mapping by mapping."""
    both = {
        k: merged(a[k], b[k]) for k in a.keys() & b.keys() if isinstance(a[k], Mapping) and isinstance(b[k], Mapping)
    }
    return {**a, **b, **both}


def options_of(model: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `options` as the types in the signature of `model`, less those that equal its defaults.

    Raises:
        UsageError: an option that `model` does not take, one that it needs and does not get, or one of the wrong type.
    """
    parameters, hints, takes_any = keywords_of(model)
    kept: dict[str, Any] = {}
    for key, value in options.items():
        if key not in parameters:
            if not takes_any:
                raise UsageError(f"unknown option {key!r}{nearest(key, parameters)}")
            kept[key] = value
            continue
        with naming(f"option {key!r}"):
            value = of_type(hints.get(key, Any), value)
        if (value == parameters[key].default) is not True:  # of tensors it is a tensor
            kept[key] = value
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in options:
            raise UsageError(f"option {key!r} has no default and is missing")
    return kept


def of_type(hint: Any, value: Any) -> Any:
    """Return `value`, read from YAML, as the type `hint`: lists as tuples, integers as floats, and nothing beyond that.

    Raises:
        UsageError: it is of another type, or YAML has no values of that type.
    """
    try:
        return TypeAdapter(hint).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise UsageError(first_error(error)) from None
    except PydanticUserError:
        raise UsageError(f"no suite can give values of its type, {hint!r}") from None


def keywords_of(model: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], dict[str, Any], bool]:
    """Return the keywords that `model` takes, their types, and whether it takes any others.

    A class that passes ``**options`` on takes the keywords of the class that it extends, too.
    """
    makers = (
        [vars(c)["__init__"] for c in model.__mro__ if "__init__" in vars(c)] if inspect.isclass(model) else [model]
    )
    keywords: dict[str, inspect.Parameter] = {}
    hints: dict[str, Any] = {}
    for i, make in enumerate(makers):
        taken = list(inspect.signature(make).parameters.values())[1 + inspect.isclass(model) :]  # self, the space
        own = {p.name: p for p in taken if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        passed_on = any(p.kind is p.VAR_KEYWORD for p in taken)
        if i and not own and not passed_on:  # nothing above takes what is passed on: it keeps it
            return keywords, hints, True
        keywords, hints = own | keywords, _hints(make) | hints
        if not passed_on:
            return keywords, hints, False
    return keywords, hints, True


def _hints(make: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of the arguments of `make`; a name that cannot be resolved, as one that only type checkers
    import, is Any."""
    try:
        return typing.get_type_hints(make, localns=_Resolvable(make))
    except (AttributeError, SyntaxError, TypeError) as error:
        raise UsageError(f"its type hints cannot be read: {type(error).__name__}: {error}") from None


class _Resolvable(dict[str, Any]):
    """The names that a function sees, and Any for every other one."""

    def __init__(self, make: Callable[..., Any]) -> None:
        super().__init__(vars(builtins) | getattr(make, "__globals__", {}))

    def __missing__(self, name: str) -> Any:
        return Any


def suite_paths() -> dict[str, Path]:
    """Return the suites there are by name: in ./suites, then in the project's own folder."""
    folders = [ROOT / "suites", Path("suites")]
    return {path.stem: path.absolute() for folder in folders for path in sorted(folder.glob("*.yaml"))}


def suite_path(name: str) -> Path:
    """Return the file of the suite `name`, which is a name under suites/ or a path.

    Raises:
        UsageError: it is neither; the nearest name is given.
    """
    if name in (paths := suite_paths()):
        return paths[name]
    if "/" in name or os.sep in name or name.endswith((".yaml", ".yml")) or (name and os.path.lexists(name)):
        return Path(name)
    raise UsageError(f"unknown suite {name!r}{nearest(name, paths)}")


def read_suite(path: Path) -> Suite:
    """Return the suite in the YAML file `path`.

    Raises:
        UsageError: one line that names the file and the key: not there, not a regular file, unreadable, not YAML,
            empty, a key unknown, given twice or of the wrong type.
    """
    with naming(str(path)):
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


# -------------------------------------------------------------------------------------------------- records

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


class Record(Frozen):
    """What came of performing a run once: written once, by the driver, and never changed."""

    schema_version: Literal[1] = 1
    run: Run
    execution: str  # UTC time, host, random
    status: Status
    attempts: PositiveInt = 1
    error: str | None = None
    notes: tuple[str, ...] = ()  # what was repaired on the way, as a damaged checkpoint
    measurements: dict[str, Measurement] = {}
    completed: tuple[str, ...] = ()  # metrics that were taken, though others may have failed
    not_applicable: tuple[str, ...] = ()  # metrics that measure and draw nothing of this model and data
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
