"""The registry: models, datasets and metrics by name, from this package, from plug-ins and from modules of the user.

Names and docstrings are read from source files, so that listing imports nothing.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.metadata
import inspect
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from genbench.errors import UsageError, nearest

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*)?")


def find(kind: str, name: str) -> Any:
    """Return the instance of `kind` ("models", "datasets", "metrics") that is called `name`.

    `name` is ``module:attribute``, or ``module`` alone where the attribute is called like the module. It is
    looked up in ``genbench.<kind>``, then among the entry points of group ``genbench.<kind>`` (by their full
    name), then, if it has a colon, as an import path of another package.

    Raises:
        UsageError: nothing has that name (the nearest name is given), a package it needs is missing, its module
            cannot be imported (the message gives the cause, the file and the line), or it is not of that kind.
    """
    module, _, attribute = name.partition(":")
    attribute = attribute or module.rpartition(".")[2]
    valid = bool(_PATH.fullmatch(name))
    if valid and (own := imported(f"genbench.{kind}.{module}", name)) and hasattr(own, attribute):
        return of_kind(kind, name, getattr(own, attribute))
    for entry in importlib.metadata.entry_points(group=f"genbench.{kind}", name=name):
        with importing(name, entry.value):
            loaded = entry.load()
        return of_kind(kind, name, loaded)
    if valid and ":" in name and (other := imported(module, name)):
        return of_kind(kind, name, attribute_of(other, attribute, name, kind))
    raise unknown(kind, name)


def unknown(kind: str, name: str) -> UsageError:
    """Return an error that names what is nearest to `name`, or the module that does not exist."""
    hint = nearest(name, names(kind))
    module, colon, _ = name.partition(":")
    if colon and _PATH.fullmatch(name) and f"genbench.{kind}.{module}" not in sys.modules:
        missing = f": there is no module {module!r} in genbench.{kind}, in this folder or among the installed packages"
        hint = missing + (hint if "did you mean" in hint else "")
    return UsageError(f"unknown {kind.removesuffix('s')} {name!r}{hint}")


def origin(kind: str, name: str) -> str | None:
    """Return the module outside genbench from which `find` takes `name`; None if genbench has it.

    Raises:
        UsageError: a module of genbench cannot be imported, or nothing has that name.
    """
    module, _, attribute = name.partition(":")
    own = imported(f"genbench.{kind}.{module}", name) if _PATH.fullmatch(name) else None
    if own and hasattr(own, attribute or module.rpartition(".")[2]):
        return None
    for entry in importlib.metadata.entry_points(group=f"genbench.{kind}", name=name):
        return entry.module
    if not attribute:
        raise unknown(kind, name)
    return module


def attribute_of(module: ModuleType, attribute: str, name: str, kind: str) -> Any:
    """Return an attribute of the user's `module`; raises UsageError with the nearest name if it has none."""
    with importing(name, module.__name__):  # a module may compute its attributes
        if hasattr(module, attribute):
            return getattr(module, attribute)
    offered = [word for word in vars(module) if not word.startswith("_")]
    what = f"unknown {kind.removesuffix('s')} {name!r}: the module {module.__name__} has no {attribute!r}"
    raise UsageError(f"{what}{nearest(attribute, offered)}")


def imported(path: str, name: str) -> ModuleType | None:
    """Return the module `path`, None if there is none; `name` is what the user wrote.

    Raises:
        UsageError: the module cannot be imported, or imports a package that is missing.
    """
    if module := sys.modules.get(path):
        return module
    with importing(name, path):
        try:
            return importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name and f"{path}.".startswith(f"{error.name}."):
                return None
            raise


@contextmanager
def importing(name: str, path: str) -> Iterator[None]:
    """Import code of others inside: whatever it raises becomes a UsageError, what it prints goes to stderr.

    It may end in any way, `SystemExit` included, but for KeyboardInterrupt. A working directory that it changes is
    restored.
    """
    with output_on_stderr(), same_folder():
        try:
            yield
        except KeyboardInterrupt:
            raise
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if not package or sys.modules.get(package):  # the package is there, a module in it is not
                raise UsageError(f"{name!r}: {path} cannot be imported: {cause(error)}") from None
            raise UsageError(f"{name!r} needs the package {package!r}: {_install(package)}") from None
        except SystemExit as error:
            raise UsageError(f"{name!r}: {path} exits while it is imported: SystemExit({error.code!r})") from None
        except BaseException as error:  # code of others may raise anything
            raise UsageError(f"{name!r}: {path} cannot be imported: {cause(error)}") from None


@contextmanager
def output_on_stderr() -> Iterator[None]:
    """Print to stderr what is printed inside, at its end: stdout is for what was asked."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        if not printed.closed:
            sys.stderr.write(printed.getvalue())


@contextmanager
def same_folder() -> Iterator[None]:
    """Return to the working directory afterwards, if there is one."""
    try:
        before = os.getcwd()
    except FileNotFoundError:  # it has been deleted
        yield
        return
    try:
        yield
    finally:
        os.chdir(before)


def cause(error: BaseException) -> str:
    """Return what `error` is in one line: its type, its message, and the file and line that raised it."""
    if isinstance(error, SyntaxError):  # which says itself where it is
        return f"{type(error).__name__}: {error}"
    text = " ".join(traceback.format_exception_only(error)).strip()
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    if not frames or frames[-1].filename == __file__:
        return text
    return f"{text} ({frames[-1].filename}, line {frames[-1].lineno})"


def of_kind(kind: str, name: str, value: Any) -> Any:
    """Return `value` if a suite can name it as one of `kind`; raises UsageError that says what it is instead."""
    problem = _KINDS[kind](value) if kind in _KINDS else None
    if problem:
        what = f"the class {value.__name__}" if inspect.isclass(value) else f"of type {type(value).__name__}"
        raise UsageError(f"{name!r} is not a {kind.removesuffix('s')}: it is {what}, {problem}")
    return value


def _model_problem(value: Any) -> str | None:
    from genbench.model import Model

    if inspect.isclass(value) and not issubclass(value, Model):
        return "which does not extend genbench.model.Model"
    if not callable(value):
        return "which cannot be called; a model is a class that extends genbench.model.Model"
    return _call_problem(value, "with a Space", None)


def _dataset_problem(value: Any) -> str | None:
    if not callable(value):
        return "which cannot be called; a dataset is a function without arguments that returns a Dataset"
    return _call_problem(value, "without arguments")


def _call_problem(value: Callable[..., Any], how: str, *arguments: Any) -> str | None:
    try:
        signature = inspect.signature(value)
        (signature.bind_partial if arguments else signature.bind)(*arguments)
    except TypeError as error:
        return f"which cannot be called {how}: {error}"
    except ValueError:  # its signature is not known
        pass
    return None


def _metric_problem(value: Any) -> str | None:
    from genbench.evaluation import Metric

    return None if isinstance(value, Metric) else "where a genbench.evaluation.Metric is needed"


_KINDS: dict[str, Callable[[Any], str | None]] = {
    "models": _model_problem,
    "datasets": _dataset_problem,
    "metrics": _metric_problem,
}


def _install(package: str) -> str:
    """Return how to install `package`: by the extra of this project that lists it, if one does."""
    with suppress(importlib.metadata.PackageNotFoundError):
        for needed in importlib.metadata.requires("genbench") or ():
            if extra := re.fullmatch(rf"{re.escape(package)}\b.*extra == .(\w+).", needed):
                return f"pip install 'genbench[{extra[1]}]'"
    return f"pip install {package}"


@functools.cache
def names(kind: str) -> dict[str, str]:
    """Return every registered name of `kind` with the first line of its docstring; nothing is imported.

    A module offers what its ``__all__`` lists; a module without ``__all__`` is shared by its neighbours and
    offers nothing. Of a module that cannot be read the line says why.
    """
    folder, registered = Path(__file__).parent / kind, {}
    for path in sorted(folder.rglob("*.py")):
        module = ".".join(path.relative_to(folder).with_suffix("").parts)
        try:
            if "__all__" in (text := path.read_text(encoding="utf-8")):
                registered.update(_offered(module, ast.parse(text)))
        except (OSError, SyntaxError, ValueError) as error:
            registered[module] = f"cannot be read: {type(error).__name__}: {error}"
    for entry in importlib.metadata.entry_points(group=f"genbench.{kind}"):
        registered[entry.name] = f"from {entry.value}"
    return registered


def _offered(module: str, tree: ast.Module) -> dict[str, str]:
    docs, about, last = docs_of(tree), first_line(tree), module.rpartition(".")[2]
    offered: list[str] = []
    for node in tree.body:
        if (
            isinstance(node, ast.AnnAssign | ast.Assign)
            and node.value
            and "__all__" in map(ast.unparse, _targets(node))
        ):
            offered = [str(name) for name in ast.literal_eval(node.value or ast.Tuple([]))]
    return {module if name == last else f"{module}:{name}": docs.get(name) or about for name in offered}


def _targets(node: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target]


def docs_of(tree: ast.Module) -> dict[str, str]:
    """Return the first line of the docstring of every function and class of a module."""
    return {node.name: first_line(node) for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def first_line(node: ast.Module | ast.FunctionDef | ast.ClassDef) -> str:
    """Return the first line of a docstring."""
    return (ast.get_docstring(node) or "").partition("\n")[0]
