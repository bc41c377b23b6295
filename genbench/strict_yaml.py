"""YAML as plain data, read so that nothing in it means one thing to one reader and another thing to the next.

Values are those of the core schema of YAML 1.2 (yaml.org/spec/1.2.2, section 10.3): null, true, false, integers, floats
and text. What YAML 1.1 reads as something else (yes, 010, 1_000, 1:30, 2024-02-30) is refused, and so are keys that are
not text, keys given twice, tags of other types, and anything too deep or too large to be meant.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

from genbench.errors import UsageError, short

MAX_BYTES = 1 << 20  # of a file
MAX_DEPTH = 50  # of lists and mappings in each other
MAX_VALUES = 100_000  # once aliases are replaced by what they stand for

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where libyaml is
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # section 5.1
_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_YAML_1_1: Any = yaml.resolver.Resolver()
_AMBIGUOUS = {
    "bool": "means true or false to some readers of YAML and text to others: write true or false, or put it in quotes",
    "int": "means different integers to different readers of YAML: write plain decimal digits, or put it in quotes",
    "float": "means different numbers to different readers of YAML: write plain decimal digits, or put it in quotes",
    "timestamp": "means a date to some readers of YAML and text to others: put it in quotes",
}
_TAGS = {"str": str, "int": int, "float": float, "bool": bool, "null": type(None), "seq": list, "map": dict}
_STANDARD = "tag:yaml.org,2002:"
_MERGE = object()  # the key <<, unquoted


def read_yaml(source: str | bytes, *keys: str) -> Any:
    """Return the one document in `source` as dicts with text as keys, lists, str, int, float, bool and None.

    `keys` lead to where the value is to stand, for messages. Integers have at most 64 bits, floats are finite. Merge
    keys (``<<: *anchor``) are followed.

    Raises:
        UsageError: one line that names the line (where there are several) and the key.
    """
    text = _decoded(source) if isinstance(source, bytes) else source
    if bad := _FORBIDDEN.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        raise UsageError(f"line {line}: the character U+{ord(bad[0]):04X} is not allowed in YAML")
    return _Reader(text).document(keys)


def _decoded(source: bytes) -> str:
    if len(source) > MAX_BYTES:
        raise UsageError(f"is larger than {MAX_BYTES} bytes")
    try:
        return source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        raise UsageError(f"cannot be read: line {line} is not UTF-8 (byte 0x{source[error.start]:02X})") from None


class _Reader:
    """Builds data from the events of a parser; depth and size are bounded before anything is built."""

    def __init__(self, text: str) -> None:
        self.events: Iterator[Any] = yaml.parse(text, Loader=_Loader)
        self.lines = "\n" in text.strip()
        self.anchors: dict[str, tuple[Any, int]] = {}  # name -> value, how many values are in it
        self.values = 0

    def document(self, keys: tuple[str, ...]) -> Any:
        self._next()  # the stream begins
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        value = self._value(self._next(), keys)
        self._next()  # the document ends
        if not isinstance(event := self._next(), yaml.StreamEndEvent):
            raise self._error(event, (), "a second document begins; there may be one")
        return value

    def _next(self) -> Any:
        try:
            return next(self.events)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark and self.lines else ""
            raise UsageError(f"is not YAML: {where}{error.problem or error.context}") from None
        except yaml.YAMLError as error:
            raise UsageError(f"is not YAML: {error}") from None

    def _error(self, event: Any, path: tuple[str | int, ...], problem: str) -> UsageError:
        line = f"line {event.start_mark.line + 1}: " if self.lines else ""
        where = ".".join(map(str, path))
        return UsageError(f"{line}{where}: {problem}" if where else f"{line}{problem}")

    def _value(self, event: Any, path: tuple[str | int, ...]) -> Any:
        self._count(event, path, 1)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path)
        before = self.values
        self._deep(event, len(path))
        match event:
            case yaml.SequenceStartEvent():
                value: Any = self._list(event, path)
            case yaml.MappingStartEvent():
                value = self._mapping(event, path)
            case _:
                value = self._scalar(event, path)
        if event.anchor:
            self.anchors[event.anchor] = value, self.values - before
        return value

    def _count(self, event: Any, path: tuple[str | int, ...], more: int) -> None:
        self.values += more
        if self.values > MAX_VALUES:
            raise self._error(event, path, f"there are more than {MAX_VALUES} values, counting what aliases stand for")

    def _alias(self, event: Any, path: tuple[str | int, ...]) -> Any:
        if event.anchor not in self.anchors:
            raise self._error(event, path, f"no anchor &{event.anchor} ends before the alias *{event.anchor}")
        value, size = self.anchors[event.anchor]
        self._count(event, path, size)
        self._deep(event, len(path) + _depth(value))
        return value

    def _deep(self, event: Any, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise self._error(event, (), f"lists and mappings stand more than {MAX_DEPTH} deep in each other")

    def _list(self, start: Any, path: tuple[str | int, ...]) -> list[Any]:
        self._type(start, path, list)
        values: list[Any] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            values.append(self._value(event, (*path, len(values))))
        return values

    def _mapping(self, start: Any, path: tuple[str | int, ...]) -> dict[str, Any]:
        self._type(start, path, dict)
        lines: dict[Any, int] = {}
        merged: dict[str, Any] = {}
        values: dict[str, Any] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key, line = self._key(event, path), event.start_mark.line + 1
            inner = (*path, "<<" if key is _MERGE else key)
            if key in lines:
                raise self._error(event, inner, f"the key is given twice, first on line {lines[key]}")
            lines[key] = line
            value = self._value(self._next(), inner)
            if key is _MERGE:
                merged = self._merged(event, inner, value)
            else:
                values[key] = value
        return merged | values

    def _key(self, event: Any, path: tuple[str | int, ...]) -> Any:
        if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0] and not event.tag:
            return _MERGE
        if not isinstance(event, yaml.ScalarEvent | yaml.AliasEvent):
            raise self._error(event, path, "a key must be text, and this one is a list or a mapping")
        key = self._value(event, path)
        if not isinstance(key, str):
            raise self._error(event, path, f"the key {key!r} is not text; put it in quotes")
        return key

    def _merged(self, event: Any, path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
        """Return what a merge key brings; of several mappings the first that has a key gives it (YAML 1.1, merge)."""
        mappings = value if isinstance(value, list) else [value]
        if not all(isinstance(mapping, dict) for mapping in mappings):
            raise self._error(event, path, "a merge key takes a mapping or a list of mappings, as in <<: *anchor")
        return {key: value for mapping in reversed(mappings) for key, value in mapping.items()}

    def _type(self, event: Any, path: tuple[str | int, ...], *types: type) -> None:
        """Check a tag, as in ``!!str 3``, against the type of what it stands before."""
        if event.tag in (None, "!"):
            return
        name = event.tag.removeprefix(_STANDARD)
        if event.tag == name or name not in _TAGS:
            shown = event.tag if event.tag == name else f"!!{name}"
            raise self._error(event, path, f"the tag {shown} is not allowed; there is !!{', !!'.join(_TAGS)}")
        if _TAGS[name] not in types:
            raise self._error(event, path, f"this is not of the type that its tag !!{name} says")

    def _scalar(self, event: Any, path: tuple[str | int, ...]) -> str | int | float | bool | None:
        text: str = event.value
        plain = event.implicit[0] if event.tag is None else event.tag not in ("!", f"{_STANDARD}str")
        try:
            value = scalar(text) if plain else text
        except UsageError as error:
            raise self._error(event, path, str(error)) from None
        self._type(event, path, type(value))
        return value


def scalar(text: str) -> str | int | float | bool | None:
    """Return what unquoted `text` means.

    Raises:
        UsageError: readers of YAML disagree about it, or it is a number out of range.
    """
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        value = int(text, 0) if len(text) <= 20 else 1 << 63
        if not -(1 << 63) <= value < 1 << 63:
            raise UsageError(f"{short(text)} is beyond the range of 64-bit integers")
        return value
    if _FLOAT.fullmatch(text):
        if not math.isfinite(number := float(text)):
            raise UsageError(f"{short(text)} is beyond the range of floating point")
        return number
    if _NOT_FINITE.fullmatch(text):
        raise UsageError(f"input should be a finite number, got {text}")
    tag = _YAML_1_1.resolve(yaml.ScalarNode, text, (True, False)).removeprefix(_STANDARD)
    if tag in _AMBIGUOUS:
        raise UsageError(f"{short(text)} {_AMBIGUOUS[tag]}")
    return text


def _depth(value: Any) -> int:
    """Return how many lists and mappings stand in each other at the deepest place of `value`."""
    if not isinstance(value, list | dict):
        return 0
    return 1 + max(map(_depth, value.values() if isinstance(value, dict) else value), default=0)
