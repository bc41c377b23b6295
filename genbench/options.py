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
    """Return `options` converted to the types in the signature of `model`, without those that equal its defaults.

    Raises:
        UsageError: an option is unknown, missing or of the wrong type.
    """
    parameters, hints, accepts_any = keywords_of(model)
    resolved: dict[str, Any] = {}
    for key, value in options.items():
        if key not in parameters:
            if not accepts_any:
                raise UsageError(f"unknown option {key!r}{nearest(key, parameters)}")
            resolved[key] = value
            continue
        with error_context(f"option {key!r}"):
            value = of_type(hints.get(key, Any), value)
        if (value == parameters[key].default) is not True:  # comparing tensors gives a tensor
            resolved[key] = value
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in options:
            raise UsageError(f"option {key!r} has no default and is missing")
    return resolved


def of_type(hint: Any, value: Any) -> Any:
    """Return `value`, read from YAML, as type `hint`: lists become tuples, integers become floats.

    Raises:
        UsageError: it has another type, or YAML has no values of that type.
    """
    try:
        return TypeAdapter(hint).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise UsageError(first_error(error)) from None
    except PydanticUserError:
        raise UsageError(f"a suite cannot give values of its type, {hint!r}") from None


def keywords_of(model: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], dict[str, Any], bool]:
    """Return the keywords of `model`, their types, and whether it accepts any others.

    A class that passes ``**options`` on accepts the keywords of its base class, too.
    """
    constructors = (
        [vars(c)["__init__"] for c in model.__mro__ if "__init__" in vars(c)] if inspect.isclass(model) else [model]
    )
    keywords: dict[str, inspect.Parameter] = {}
    hints: dict[str, Any] = {}
    for i, constructor in enumerate(constructors):
        first = 1 + inspect.isclass(model)  # after self and the space
        parameters = list(inspect.signature(constructor).parameters.values())[first:]
        own = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        passed_on = any(p.kind is p.VAR_KEYWORD for p in parameters)
        if i and not own and not passed_on:  # no base class accepts what is passed on
            return keywords, hints, True
        keywords, hints = own | keywords, _hints(constructor) | hints
        if not passed_on:
            return keywords, hints, False
    return keywords, hints, True


def _hints(constructor: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of the arguments of `constructor`; names that only type checkers import are Any."""
    try:
        return typing.get_type_hints(constructor, localns=_Resolvable(constructor))
    except (AttributeError, SyntaxError, TypeError) as error:
        raise UsageError(f"its type hints cannot be read: {type(error).__name__}: {error}") from None


class _Resolvable(dict[str, Any]):
    """The names visible to a function, and Any for every other name."""

    def __init__(self, constructor: Callable[..., Any]) -> None:
        super().__init__(vars(builtins) | getattr(constructor, "__globals__", {}))

    def __missing__(self, name: str) -> Any:
        return Any
