"""Digests of the source files that a run depends on: genbench's own, and those of models, data and metrics of users.

The sources of a user's module are its file and the files that it imports, recursively, except those of installed
packages, genbench and Python. Imports are read from the source, nothing is executed. Of an installed plug-in the
version is used.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import genbench
from genbench.records.environment import installed
from genbench.registry import origin
from genbench.suite import Run

NEUTRAL = (  # in genbench: files and folders that affect no number; all others do
    *("__init__.py", "__main__.py", "command_line.py", "commands", "console.py", "errors.py", "file_names.py"),
    *("notices.py", "records", "registry.py", "report", "strict_yaml.py", "datasets/downloads.py"),
    *(f"runner/{name}.py" for name in ("driver", "executors", "isolation", "progress", "ray_cluster", "resources")),
    *("runner/staleness.py", "runner/verify.py"),
)
MEASURING = ("evaluation.py", "metrics")  # affects no trained model
INSTALLED = {"site-packages", "dist-packages"}
STDLIB = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))


# ---------------------------------------------------------------------------------------------- genbench's own


@functools.cache
def own_digest(training: bool = False) -> str:
    """Return 16 hexadecimal digits of the sources of genbench and its kernels that affect numbers.

    Args:
        training: use only those that affect trained models.

    Raises:
        FileNotFoundError: a file or folder listed here is missing.
    """
    package, kernels = map(Path, _own_folders())
    skipped = {require(package / name) for name in (*NEUTRAL, *(MEASURING if training else ()))}
    digest = hashlib.sha256()
    for folder in (package, kernels):
        for path in sorted(folder.rglob("*.py")):
            name = path.relative_to(folder)
            if skipped.isdisjoint((path, *path.parents)):
                digest.update(f"{name.as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def require(path: Path) -> Path:
    """Return `path`; raises FileNotFoundError if it is missing, so that a moved file is not skipped silently."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; genbench/records/sources.py lists it")
    return path


# -------------------------------------------------------------------------------------- of modules from elsewhere


def external_sources(run: Run) -> dict[str, str]:
    """Return the sources outside genbench, by use: ``model own:Good`` -> ``own.py 1f3a..., ...``.

    Raises:
        UsageError: a name is unknown.
    """
    return training_sources(run) | {
        key: text for metric in run.metrics if (text := sources_of("metrics", metric)) for key in [f"metric {metric}"]
    }


def source_fingerprint(run: Run) -> str:
    """Return a digest of all code that affects the trained model of `run`, and of torch's version.

    Trained models and checkpoints with another fingerprint are not used.
    """
    parts = [
        str(installed("torch")),
        own_digest(training=True),
        run.model,
        run.data,
        repr(training_sources(run)),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def training_sources(run: Run) -> dict[str, str]:
    """Return those of `external_sources` that affect the trained model."""
    texts = {
        f"model {run.model}": sources_of("models", run.model),
        f"dataset {run.data}": sources_of("datasets", run.data),
    }
    return {key: text for key, text in texts.items() if text}


def sources_of(kind: str, name: str) -> str | None:
    """Return the files of `name` with digests, or its package with a version; None if it is part of genbench."""
    module = origin(kind, name)
    if module is None:
        return None
    spec = spec_of(module)
    if spec is not None and spec.origin and INSTALLED & set(Path(spec.origin).parts):
        return _version(module.partition(".")[0])
    files = user_files(module)
    return ", ".join(f"{label} {digest_of(path)}" for label, path in sorted(files.items()))


def changed(before: str, now: str) -> list[str]:
    """Return the names whose digest or version differs between two results of `sources_of`."""
    a, b = (dict(entry.rpartition(" ")[::2] for entry in text.split(", ")) for text in (before, now))
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def digest_of(path: Path) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a file, "missing" if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return "missing"


def _version(package: str) -> str:
    distributions = importlib.metadata.packages_distributions().get(package, [])
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in sorted(set(distributions))) or package


def user_files(module: str) -> dict[str, Path]:
    """Return the user's files that `module` imports, by path relative to the folder on ``sys.path``."""
    files: dict[str, Path] = {}
    queue, visited = _with_parents(module), set[str]()
    while queue:
        name = queue.pop()
        if name in visited:
            continue
        visited.add(name)
        spec = spec_of(name)
        if spec is None or spec.origin is None or not _is_users(path := Path(spec.origin)):
            continue
        is_package = spec.submodule_search_locations is not None
        files["/".join(name.split(".")) + (f"/{path.name}" if is_package else path.suffix)] = path
        queue += [part for imported in imports(path, name, is_package) for part in _with_parents(imported)]
    return files


def _with_parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _is_users(path: Path) -> bool:
    others = {*map(Path, STDLIB), *map(Path, _own_folders())}
    return path.is_file() and not others & set(path.parents) and not INSTALLED & set(path.parts)


@functools.cache
def _own_folders() -> tuple[str, str]:
    """Return the folders of genbench and of its kernels."""
    kernels = importlib.util.find_spec("genbench_kernels")
    if kernels is None or not kernels.submodule_search_locations:
        raise FileNotFoundError("the package genbench_kernels is missing")
    return str(Path(genbench.__file__).parent), next(iter(kernels.submodule_search_locations))


def spec_of(module: str) -> ModuleSpec | None:
    """Return the spec of `module` without importing it or its parents; None if there is none."""
    path: Iterable[str] | None = None
    spec: ModuleSpec | None = None
    for name in _with_parents(module):
        try:
            specs = (f.find_spec(name, path) for f in sys.meta_path if hasattr(f, "find_spec"))  # type: ignore[arg-type]
            spec = next((spec for spec in specs if spec is not None), None)
        except (ImportError, ValueError, OSError):
            return None
        if spec is None:
            return None
        path = spec.submodule_search_locations or []
    return spec


PARSING = threading.Lock()  # concurrent parsing can fail: "AST constructor recursion depth mismatch"


def imports(path: Path, module: str, is_package: bool) -> Iterator[str]:
    """Yield the names of modules that the file of `module` may import; none if it is not Python source."""
    try:
        with PARSING:
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom():
                base = package[: len(package) - node.level + 1] if node.level else []
                source = ".".join([*base, *([node.module] if node.module else [])])
                yield from ([source] if source else [])
                yield from (f"{source}.{alias.name}" for alias in node.names if source and alias.name != "*")
            case ast.Call(args=[ast.Constant(value=str(name)), *_]) if "import" in ast.unparse(node.func):
                yield name  # import_module("x"), __import__("x")
