"""Immutable data that is validated strictly: what people write in suites, and what records hold."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator

from genbench.errors import UsageError, nearest, short

T = TypeVar("T", bound=BaseModel)

CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=(), defer_build=True)


class FrozenModel(BaseModel):
    """Immutable data that refuses unknown keys."""

    model_config = ConfigDict(**CHECKED, frozen=True)


class StrictModel(FrozenModel):
    """Immutable data written by people: for an unknown key the error suggests the nearest one."""

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
        return frozenset(field.alias or name for name, field in cls.model_fields.items()) | set(cls._aliases())

    @classmethod
    def _aliases(cls) -> tuple[str, ...]:
        """Return further keys that a validator of this class rewrites."""
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


# Numbers are strict: no bools, no text. The upper limits are far beyond any use and catch typing errors.
Count = Annotated[int, Strict(), Field(ge=1, le=1_000_000)]
Steps = Annotated[int, Strict(), Field(ge=0, le=1_000_000_000)]
Seed = Annotated[int, Strict(), Field(ge=0, lt=1 << 63)]
Positive = Annotated[float, Strict(), Field(gt=0)]
NonNegative = Annotated[float, Strict(), Field(ge=0)]
Decay = Annotated[float, Strict(), Field(ge=0, lt=1)]
Amount = Annotated[float, Strict(), Field(ge=0, le=100_000)]
