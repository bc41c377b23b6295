"""YAML: one meaning for every scalar, and one line, in bounded time, for whatever is not data."""

from __future__ import annotations

import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from genbench.errors import UsageError
from genbench.strict_yaml import MAX_BYTES, read_yaml, scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5), ("+5", 5), ("-0", 0), ("0x1F", 31), ("9223372036854775807", 2**63 - 1),
        ("1e3", 1000.0), ("1E-3", 0.001), ("1.", 1.0), (".5", 0.5), ("-1.5e+3", -1500.0), ("436e-2", 4.36),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("y", "y"), ("nan", "nan"), ("None", "None"), ("08", "08"), ("0o17", "0o17"), ("toys:moons", "toys:moons"),
        ("1.2.3", "1.2.3"), ("-", "-"), ("2024-13", "2024-13"), ("1-D flow", "1-D flow"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_the_core_schema(text: str, value: object) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


@pytest.mark.parametrize(
    "text",
    ["yes", "No", "ON", "off", "010", "-07", "1_000", "0b11", "-0x1F", "1:30", "190:20:30.5", "1_0.5", "2024-02-30",
     "2024-02-29", "2001-12-14t21:59:43.10-05:00"],
)  # fmt: skip
def test_scalars_that_versions_of_yaml_read_differently_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^defaults\.steps: .*to others|^defaults\.steps: .*to different readers"):
        read_yaml(f"defaults: {{steps: {text}}}")
    assert read_yaml(f"'{text}'") == text, "quoted it is text"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("9" * 5000, "(5002 characters) is beyond the range of 64-bit"), (str(2**63), "64-bit"),
     ("-" + "9" * 30, "64-bit"),
     ("1e400", "beyond the range of floating point"), (".inf", "finite number, got .inf"), ("-.INF", "finite"),
     (".NaN", "finite number, got .NaN")],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(text: str, expected: str) -> None:
    with pytest.raises(UsageError) as error:
        read_yaml(text, "lr")
    assert str(error.value).startswith("lr: ")
    assert expected in str(error.value)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(plain)
def test_what_is_written_is_read_back(value: object) -> None:
    assert read_yaml(yaml.safe_dump(value)) == value


def test_merge_keys() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {x: 3, z: 4}\n"
    assert read_yaml(text + "c: {<<: *a, y: 5}")["c"] == {"x": 1, "y": 5}, "a key of its own wins, whatever the order"
    assert read_yaml(text + "c: {y: 5, <<: *a}")["c"] == {"x": 1, "y": 5}
    assert read_yaml(text + "c: {<<: [*a, *b]}")["c"] == {"x": 1, "y": 2, "z": 4}, "the first of several wins"
    assert read_yaml(text + "c: {'<<': 3}")["c"] == {"<<": 3}, "quoted it is a key as any other"
    for bad, message in (
        ("c: {<<: 3}", "c.<<: a merge key takes a mapping"),
        ("c: {<<: [*a, 3]}", "c.<<: a merge key takes a mapping"),
        ("c: {<<: *a, <<: *b}", "c.<<: the key is given twice"),
        ("c: {<<: *a, x: 1, x: 2}", "c.x: the key is given twice"),
    ):
        with pytest.raises(UsageError, match=message.replace("*", r"\*")):
            read_yaml(text + bad)


def test_aliases_stand_for_their_anchors() -> None:
    assert read_yaml("a: &a [1, {b: 2}]\nc: [*a, *a]") == {"a": [1, {"b": 2}], "c": [[1, {"b": 2}], [1, {"b": 2}]]}
    assert read_yaml("a: &a x\n*a : 3") == {"a": "x", "x": 3}


def bomb() -> str:
    """Return nine lists of ten of the one before each: a billion values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    return "\n".join(lines + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a: " + "[" * 100_000, "more than 50 deep"),
        ("- " * 100_000, "more than 50 deep"),
        ("a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 400)), "line 50: .*50 deep"),
        ("a: " + "{" * 100_000, "a: a key must be text"),
        ("? " * 100_000, "a key must be text"),
        (bomb(), r"line 5: .*more than 100000 values, counting what aliases stand for"),
        ("[" + "a," * 200_000 + "]", "more than 100000 values"),
        (b"a: " + b"x" * MAX_BYTES, "is larger than 1048576 bytes"),
        ('a: "' + "x" * 500_000, "^is not YAML: found unexpected end of stream"),
        ("a: [", "^is not YAML: did not find expected node content"),
        ("a: 1\nb: [", "^is not YAML: line .*did not find"),
        ("a:\n\t- b", "is not YAML: line 2, column 1: found character that cannot start any token"),
        ("a: &a [*a]", "a.0: no anchor &a ends before the alias"),
        ("a: *b", "a: no anchor &b ends before the alias"),
        ("x:\n  a: !!python/object/apply:os.system [ls]", "line 2: x.a: the tag !!python/object/apply:os.system"),
        ("a: !mine b", "a: the tag !mine is not allowed"),
        ("a: !!set {x}", "a: the tag !!set is not allowed"),
        ("a: !!int x", "a: this is not of the type that its tag !!int says"),
        ("a: !!str [x]", "a: this is not of the type that its tag !!str says"),
        ("x:\n  3: a", "line 2: x: the key 3 is not text; put it in quotes"),
        ("on: a", "'on' means true or false"),
        ("true: a", "the key True is not text"),
        ("~: a", "the key None is not text"),
        ("? [a]\n: b", "line 1: a key must be text"),
        ("a: 1\n---\nb: 2", "line 2: a second document begins"),
        ("a:\n  x: 1\n  x: 2", "line 3: a.x: the key is given twice, first on line 2"),
        ("a: 1\nb: \0", r"line 2: the character U\+0000 is not allowed"),
        ("a: \udcff", r"line 1: the character U\+DCFF is not allowed"),
        (b"a: 1\nb: \xe9", "cannot be read: line 2 is not UTF-8 .byte 0xE9"),
        ("a: 1".encode("utf-16"), "cannot be read: line 1 is not UTF-8"),
        ('a: "\\ud800"', "^is not YAML: found invalid Unicode character"),
        ("%YAML 9.0\n---\na: 1", "^is not YAML: line 1"),
    ],
)  # fmt: skip
def test_what_is_no_data_is_one_line_at_once(source: str | bytes, expected: str) -> None:
    began = time.process_time()
    with pytest.raises(UsageError, match=expected) as error:
        read_yaml(source)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    assert time.process_time() - began < 10


@pytest.mark.parametrize("source", ["", "# nothing", "---\n", b"\xef\xbb\xbf", "null"])
def test_an_empty_document_is_none(source: str | bytes) -> None:
    assert read_yaml(source) is None


def test_what_editors_add_is_read() -> None:
    assert read_yaml(b"\xef\xbb\xbfa: 1\r\nb: \xc3\xa9\r\n") == {"a": 1, "b": "é"}
    assert read_yaml("%YAML 1.2\n---\na: !!str 5\n...\n") == {"a": "5"}
