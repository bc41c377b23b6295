"""What a run is, what a suite is, what a record is: plain data, no torch.

A `Suite` is a file under suites/. It expands into `Run`s, each of which says all that decides one trained
model. Performing a run gives a `Record`. `find` is the whole registry.
"""

from __future__ import annotations

import ast
import difflib
import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import json
import re
import typing
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass

T = TypeVar("T", bound=BaseModel)
ROOT = Path(__file__).resolve().parents[1]


class UsageError(ValueError):
    """Something the user wrote is wrong; the message is one line that says what and where."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?``, or what there is, for an unknown `name`."""
    valid = sorted(set(valid))
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there is {', '.join(valid)}" if valid else ""


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Put `where` before the message of a UsageError raised inside."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


# ---------------------------------------------------------------------------------------------- the registry


def find(kind: str, name: str) -> Any:
    """Return the instance of `kind` ("models", "datasets", "metrics") that `name` says.

    `name` is ``module:attribute``, or ``module`` alone where the attribute is called like the module. It is
    looked up in ``genbench.<kind>``, then among the entry points of group ``genbench.<kind>`` (by their full
    name), then, if it has a colon, as an import path of another package.

    Raises:
        UsageError: nothing has that name (the nearest name is said), or a package it needs is missing.
    """
    module, _, attribute = name.partition(":")
    attribute = attribute or module.rpartition(".")[2]
    paths = [f"genbench.{kind}.{module}"] + ([module] if ":" in name else [])
    for path in paths:
        try:
            return getattr(importlib.import_module(path), attribute)
        except AttributeError:
            continue
        except ModuleNotFoundError as error:
            if not (error.name and f"{path}.".startswith(f"{error.name}.")):
                raise UsageError(f"{name!r} needs the package {error.name!r}: {_install(error.name)}") from None
    for entry in importlib.metadata.entry_points(group=f"genbench.{kind}", name=name):
        return entry.load()
    raise UsageError(f"unknown {kind.removesuffix('s')} {name!r}{nearest(name, names(kind))}")


def _install(package: str | None) -> str:
    """Return how to install `package`: by the extra of this project that lists it, if one does."""
    with suppress(importlib.metadata.PackageNotFoundError):
        for needed in importlib.metadata.requires("genbench") or ():
            if found := re.fullmatch(rf"{package}\b.*extra == .(\w+).", needed):
                return f"pip install 'genbench[{found[1]}]'"
    return f"pip install {package}"


@functools.cache
def names(kind: str) -> dict[str, str]:
    """Return every registered name of `kind` with the first line of its docstring; nothing is imported.

    A module offers what its ``__all__`` lists; a module without ``__all__`` is shared by its neighbours and
    offers nothing.
    """
    folder, found = Path(__file__).parent / kind, {}
    for path in sorted(folder.rglob("*.py")):
        module = ".".join(path.relative_to(folder).with_suffix("").parts)
        if "__all__" in (text := path.read_text(encoding="utf-8")):
            found.update(_offered(module, ast.parse(text)))
    for entry in importlib.metadata.entry_points(group=f"genbench.{kind}"):
        found[entry.name] = f"from {entry.value}"
    return found


def _offered(module: str, tree: ast.Module) -> dict[str, str]:
    docs, about, last = docs_of(tree), first_line(tree), module.rpartition(".")[2]
    offered: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and "__all__" in map(ast.unparse, node.targets):
            offered = ast.literal_eval(node.value)
    return {module if name == last else f"{module}:{name}": docs.get(name) or about for name in offered}


def docs_of(tree: ast.Module) -> dict[str, str]:
    """Return the first line of the docstring of every function and class of a module."""
    return {node.name: first_line(node) for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def first_line(node: ast.Module | ast.FunctionDef | ast.ClassDef) -> str:
    """Return the first line of a docstring."""
    return (ast.get_docstring(node) or "").partition("\n")[0]


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
        raise UsageError(_first_error(error)) from None


def _first_error(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        message = "is missing"
    elif first["type"] != "value_error":
        message = f"{message[:1].lower()}{message[1:]}, got {first['input']!r}"
    return f"{where}: {message}" if where else message


class Optimizer(Written):
    """How parameters move: the rule, its rates, and what is done to gradients and weights around it."""

    name: Literal["adam", "adamw", "adamax", "rmsprop", "sgd"] = "adam"
    lr: PositiveFloat = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 0.0
    schedule: Literal["constant", "cosine", "linear", "stages"] = "constant"
    warmup: NonNegativeInt = 0  # steps in which the rate rises linearly from 0
    clip: PositiveFloat | None = None  # largest norm of a player's gradient
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of the averaged weights that are evaluated; 0: none


class Resources(Written):
    """What a run occupies while it is performed; never part of what it is."""

    cpus: PositiveFloat = 1.0
    gpus: NonNegativeFloat = 0.0
    memory: PositiveInt | None = None  # bytes
    timeout: PositiveFloat | None = None  # seconds


class Settings(Written):
    """What may be set at any level of a suite: its defaults, a data entry, a model entry."""

    steps: NonNegativeInt = 1000  # 0: nothing but the closed-form fit of Model.finish
    batch: PositiveInt = 128
    optimizer: Optimizer = Optimizer()
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    checks: PositiveInt = 20  # how often the validation split is looked at, evenly over the run
    selection: Literal["best", "last"] = "best"  # which weights are reported: best at a check, or the last
    options: dict[str, Any] = {}  # of the model
    resources: Resources = Resources()

    @model_validator(mode="before")
    @classmethod
    def _lr_is_short_for_optimizer_lr(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "lr" in data and isinstance(data.get("optimizer", {}), Mapping):
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


class Defaults(Settings):
    """Settings for the whole suite, and its seeds."""

    seeds: Annotated[tuple[NonNegativeInt, ...], BeforeValidator(_listed), Field(min_length=1)] = (0, 1, 2)


class DataEntry(Settings):
    """A data set of a suite and the settings it needs of its own."""

    data: str


class ModelEntry(Settings):
    """A row of a suite: a model, its settings, the data it takes (default: all) and its settings on each."""

    model: str
    data: Annotated[tuple[str, ...], BeforeValidator(_listed)] | None = None
    per_data: dict[str, Settings] = {}


class Published(Written):
    """What a paper reports of a model, shown beside the rows that are measured here and never ranked among them."""

    source: Annotated[str, Field(min_length=1)]  # title, year, table
    kind: Kind = "exact"
    values: Annotated[dict[str, dict[str, FiniteFloat]], Field(min_length=1)]  # measurement -> data -> value


def _data_entry(value: Any) -> Any:
    return {"data": value} if isinstance(value, str) else value


def _model_entry(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


class Suite(Written):
    """One protocol: every model on every data set with every seed, and what is measured."""

    suite: str
    version: PositiveInt = 1
    title: str = ""
    question: str = ""
    defaults: Defaults = Defaults()
    data: Annotated[tuple[Annotated[DataEntry, BeforeValidator(_data_entry)], ...], Field(min_length=1)]
    metrics: Annotated[tuple[str, ...], Field(min_length=1)]
    models: Annotated[dict[str, Annotated[ModelEntry, BeforeValidator(_model_entry)]], Field(min_length=1)]
    published: dict[str, Published] = {}  # by the name of the row

    @model_validator(mode="after")
    def _data_that_is_named_is_there(self) -> Self:
        here = [entry.data for entry in self.data]
        for again in (name for i, name in enumerate(here) if name in here[:i]):
            raise ValueError(f"data: {again!r} is given twice")
        for key, value in self._data_named():
            if value not in here:
                raise ValueError(f"{key}: no data {value!r} here{nearest(value, here)}")
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
        for i, metric in enumerate(self.metrics):
            with naming(f"metrics.{i}"):
                find("metrics", metric)
        cells = [
            (name, model, data)
            for data in self.data
            for name, model in self.models.items()
            if model.data is None or data.data in model.data
        ]
        wanted = [c for c in cells if fnmatch(c[0], only) or fnmatch(f"{c[0]}/{c[2].data}", only)]
        if not wanted:
            raise UsageError(f"--only {only!r} matches no row{nearest(only, self.models)}")
        runs = [run for cell in wanted for run in self._cell(*cell, seeds or self.defaults.seeds, change or {})]
        seen: dict[str, Run] = {}
        for run in runs:
            if (twin := seen.setdefault(run.id, run)) is not run:
                raise UsageError(f"models.{run.name}: on {run.data} it is the same run as {twin.name!r}")
        return runs

    def _cell(
        self,
        name: str,
        model: ModelEntry,
        data: DataEntry,
        seeds: Sequence[int],
        change: Mapping[str, Any],
    ) -> list[Run]:
        layers = [self.defaults, data, model, model.per_data.get(data.data)]
        said = [
            layer.model_dump(exclude_unset=True, exclude={"seeds", "data", "model", "per_data"})
            for layer in layers
            if layer
        ]
        settings = functools.reduce(merged, [*said, checked(Settings, change).model_dump(exclude_unset=True)])
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
            return [checked(Run, settings | row | {"seed": seed}) for seed in seeds]


def merged(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Return `a` with `b` over it, mapping by mapping."""
    both = {
        k: merged(a[k], b[k]) for k in a.keys() & b.keys() if isinstance(a[k], Mapping) and isinstance(b[k], Mapping)
    }
    return {**a, **b, **both}


def options_of(model: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `options` coerced to the types in the signature of `model`, less those that equal its defaults.

    Raises:
        UsageError: an option that `model` does not take, or of the wrong type.
    """
    parameters, hints, takes_any = keywords_of(model)
    kept: dict[str, Any] = {}
    for key, value in options.items():
        if key not in parameters:
            if not takes_any:
                raise UsageError(f"unknown option {key!r}{nearest(key, parameters)}")
            kept[key] = value
            continue
        try:
            value = TypeAdapter(hints.get(key, Any)).validate_python(value)
        except ValidationError as error:
            raise UsageError(f"option {key!r}: {_first_error(error)}") from None
        if value != parameters[key].default:
            kept[key] = value
    return kept


def keywords_of(model: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], dict[str, Any], bool]:
    """Return the keywords that `model` takes, their types, and whether it takes any others.

    A class that passes ``**options`` on takes the keywords of the class that it extends, too.
    """
    makers = (
        [vars(c)["__init__"] for c in model.__mro__ if "__init__" in vars(c)] if inspect.isclass(model) else [model]
    )
    found: dict[str, inspect.Parameter] = {}
    hints: dict[str, Any] = {}
    for i, make in enumerate(makers):
        taken = list(inspect.signature(make).parameters.values())[1 + inspect.isclass(model) :]  # self, the space
        own = {p.name: p for p in taken if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        passed_on = any(p.kind is p.VAR_KEYWORD for p in taken)
        if i and not own and not passed_on:  # nothing above takes what is passed on: it keeps it
            return found, hints, True
        found, hints = own | found, typing.get_type_hints(make) | hints
        if not passed_on:
            return found, hints, False
    return found, hints, True


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where libyaml is


class _StrictLoader(_SafeLoader):  # type: ignore[misc]
    """A safe loader that refuses a key given twice, which YAML forbids and PyYAML lets pass."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key, line = loader.construct_object(key_node, deep=True), key_node.start_mark.line + 1
        if not isinstance(key, Hashable):
            raise UsageError(f"line {line}: {key!r} cannot be a key")
        if key in seen:
            raise UsageError(f"line {line}: key {key!r} is given twice, first on line {seen[key]}")
        seen[key] = line
    mapping: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return mapping


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def suite_paths() -> dict[str, Path]:
    """Return the suites there are by name: in ./suites, then in the project's own folder."""
    folders = [ROOT / "suites", Path.cwd() / "suites"]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def suite_path(name: str) -> Path:
    """Return the file of the suite `name`, which is a name under suites/ or a path.

    Raises:
        UsageError: there is none; the nearest name is said.
    """
    if name in suite_paths():
        return suite_paths()[name]
    if Path(name).is_file():
        return Path(name)
    raise UsageError(f"unknown suite {name!r}{nearest(name, suite_paths())}")


def read_suite(path: Path) -> Suite:
    """Return the suite in the YAML file `path`.

    Raises:
        UsageError: one line that names the file and the key: unreadable, not YAML, empty, a key unknown, given
            twice or of the wrong type.
    """
    with naming(str(path)):
        try:
            data = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
        except yaml.YAMLError as error:
            raise UsageError(f"is not YAML: {' '.join(str(error).split())}") from None
        if not data:
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
    files: dict[str, str] = {}  # what was drawn: name -> path under results/.work, by hash
    data_sha256: str | None = None
    selected_step: int | None = None
    curve: tuple[Point, ...] = ()
    timings: dict[str, float] = {}  # seconds of wall time: data, train, evaluate, total
    environment: dict[str, str | int | float | bool | None] = {}
    code: dict[str, str | bool | None] = {}  # commit, dirty, diff
    command: str | None = None

    @property
    def id(self) -> str:
        """The id of the run."""
        return self.run.id
