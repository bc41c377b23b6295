"""Fast implementations of equations, and the switch that turns them off.

Model files hold equations, which autograd differentiates. Where that is too slow there is a second implementation with
a hand-written gradient, registered by type: the one for a class (or function) of ``<folder>/<file>.py`` is an entry of
the table ``FAST`` in ``<folder>/fastpath/<file>.py``; other tables there hold parts that fast implementations combine.
Tables are found by file name, so no model refers to them, and without them all numbers stay the same up to rounding.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from genbench_kernels.op import eager

P = ParamSpec("P")
R = TypeVar("R")

_ENABLED: ContextVar[bool] = ContextVar("fastpath", default=True)


@contextmanager
def fastpath(enabled: bool) -> Iterator[None]:
    """Use fast implementations (the default), or only equations, inside."""
    token = _ENABLED.set(enabled)
    try:
        yield
    finally:
        _ENABLED.reset(token)


def is_enabled() -> bool:
    """Return whether fast implementations may be used: not in graphs, transforms and forward-mode derivatives."""
    return eager() and _ENABLED.get()


def accelerated(equation: Callable[P, R]) -> Callable[P, R]:
    """Return the method or function `equation`, replaced by its entry in ``FAST`` where that applies.

    The entry of a method is that of its class. It takes the same arguments and returns None where it does not apply.
    """

    @functools.cache
    def entry() -> tuple[dict[Any, Callable[P, R | None]], Any]:
        owner, _, name = equation.__qualname__.rpartition(".")
        return entries(equation.__module__), getattr(sys.modules[equation.__module__], owner or name)

    @functools.wraps(equation)
    def dispatched(*args: P.args, **kwargs: P.kwargs) -> R:
        if is_enabled():  # first: a compiler must not trace the lookup
            table, key = entry()
            if (fast := table.get(key)) is not None and (result := fast(*args, **kwargs)) is not None:
                return result
        return equation(*args, **kwargs)

    return dispatched


@functools.cache
def implementation(kind: type, table: str) -> Any | None:
    """Return the entry of the class `kind` in another `table` of its fast path; None if there is none.

    A subclass shares the entry of its base class unless it has a `forward` of its own.
    """
    owner = next((base for base in kind.__mro__ if "forward" in vars(base)), kind)
    return entries(owner.__module__, table).get(owner)


def entries(module: str, table: str = "FAST") -> dict[Any, Any]:
    """Return a table of the fast path of a module of genbench, empty where there is none."""
    if not module.startswith("genbench."):
        return {}
    folder, _, file = module.rpartition(".")
    path = f"{folder}.fastpath.{file}"
    try:
        return getattr(importlib.import_module(path), table, {})
    except ModuleNotFoundError as error:
        if error.name and f"{path}.".startswith(f"{error.name}."):
            return {}
        raise
