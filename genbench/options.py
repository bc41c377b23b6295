"""The options of a model, checked against the signature of its class."""

from __future__ import annotations

import builtins
import inspect
import json
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from genbench.errors import UsageError, error_context, nearest
from genbench.strict_model import first_error


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
        with error_context(f"option {key!r}"):
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
