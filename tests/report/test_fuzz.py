"""Reports of records that genbench would not write: flipped bits, swapped types, any values and names."""

from __future__ import annotations

import copy
import io
import json
import random
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import pytest

import genbench
from genbench.command_line import main
from genbench.records.record import Record
from genbench.records.store import Store
from tests.report.records import CURVE, PageParser, measured, record

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2028]")
BATCHES, SIZE = 14, 380  # reports, and records of each
VALUES: list[Any] = [
    *(1e308, -1e308, 1.7976931348623157e308, 5e-324, -5e-324, 0.0, -0.0, 1e-300, 1, 10**30, 2**63, 2**64 + 1, -1),
    *(None, True, False, "", "x", [], {}, [1], {"a": 1}, "1e308", "NaN", float("nan"), float("inf"), -float("inf")),
]
NAMES = [
    *("\x1b[31mred\x1b[0m", "a\nb", "tab\there", "NUL\x00", "\x7f\x9b", "\u202eright to left", "\u2028"),
    *(
        "<b>bold</b>",
        "</script><script>alert(1)</script>",
        "<!--",
        "a|b|c",
        "`code` ``two``",
        "*_[a](b)_*",
        "$\\frac{$",
    ),
    *(
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "'",
        '"',
        "a,b;c",
        "中文模型",
        "モデル",
        "😀👍🏽",
        "e\u0301",
        "مرحبا",
        "_x",
        ".",
    ),
    *(
        "..",
        "../../up",
        "/etc/passwd",
        "C:\\x",
        "con",
        "",
        " ",
        "x" * 300,
        "中" * 300,
        "[red]",
        "[/]",
        "{0}",
        "%s",
        "\\",
    ),
]
PATHS = [
    "files/a.png",
    "../a.png",
    "/etc/hostname",
    "files/../../a",
    "x\x00y",
    "a" * 4000,
    "",
    ".",
    "files",
    "link.png",
]


def field_paths(tree: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every value in nested mappings and lists."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in children:
        yield (*prefix, key)
        yield from field_paths(value, (*prefix, key))


def put(tree: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


def any_value(tree: dict[str, Any], rng: random.Random) -> None:
    put(tree, rng.choice(list(field_paths(tree))), rng.choice(VALUES))


def any_name(tree: dict[str, Any], rng: random.Random) -> None:
    name = rng.choice(NAMES)
    where = [
        *(("run", key) for key in ("name", "model", "data", "suite")),
        *((key,) for key in ("error", "command", "data_sha256")),
        *(("measurements", rng.choice(list(tree["measurements"])), key) for key in ("unit", "impl", "verdict")),
    ]
    put(tree, rng.choice(where), name)
    if rng.random() < 0.3:
        tree["measurements"] = {rng.choice(NAMES): m for m in tree["measurements"].values()}
    if rng.random() < 0.3:
        tree["environment"] = {rng.choice(NAMES): rng.choice([rng.choice(NAMES), 1, 1e308, None, True])}


def extreme_numbers(tree: dict[str, Any], rng: random.Random) -> None:
    for m in tree["measurements"].values():
        for key in ("value", "stderr"):
            m[key] = rng.choice([v for v in VALUES if isinstance(v, float) and v == v and abs(v) != float("inf")])
        m |= {"better": rng.choice(["lower", "higher", None]), "kind": rng.choice(["exact", "bound", "estimate"])}
        m |= {"verdict": rng.choice([None, "invalid", "collapsed"]), "n": rng.choice([0, 1, 10**25])}
        m["raw"] = rng.choice([[], [1e308, -1e308], [5e-324]])
    tree["run"]["seed"] = rng.choice([0, 1, 2, 2**63, 2**70])
    tree["timings"] = {"total": rng.choice([1e308, -1.0, 0.0])}
    tree["curve"] = [{"step": s, "seconds": 1e308, "loss": rng.choice([1e308, -1e308, None])} for s in (1, 10**30)]


def odd_files(tree: dict[str, Any], rng: random.Random) -> None:
    tree["files"] = {rng.choice(["samples.png", "density.png", *NAMES]): rng.choice(PATHS) for _ in range(3)}


def untouched(tree: dict[str, Any], rng: random.Random) -> None:
    tree["run"]["seed"] = rng.randrange(4)


CHANGES: list[Callable[[dict[str, Any], random.Random], None]] = [
    *(any_value, any_value, any_name, any_name, extreme_numbers, odd_files, untouched),
]


def broken_bytes(content: bytes, rng: random.Random) -> bytes:
    """Return a file with a bit flipped, cut short, with bytes put in, or something else altogether."""
    at = rng.randrange(len(content))
    flipped = bytes([content[at] ^ 1 << rng.randrange(8)])
    return rng.choice(
        [
            content[:at] + flipped + content[at + 1 :],
            content[:at],
            content[:at] + rng.randbytes(3) + content[at:],
            rng.choice([b"", b"\x00" * 50, b"null", b"[]", b"\xff\xfe", b"[" * 100_000, b"{" * 9, b"1" * 5000]),
            content.replace(b'"value":1.0', rng.choice([b'"value":NaN', b'"value":1e999', b'"value":Infinity'])),
        ]
    )


def fuzzed(rng: random.Random, base: dict[str, Any], number: int) -> tuple[str, str, str, bytes]:
    """Return suite, run id, execution and contents of a record; they agree if its fields are readable."""
    tree = copy.deepcopy(base)
    for change in rng.sample(CHANGES, rng.choice([1, 1, 2])):
        with suppress(
            KeyError, TypeError, AttributeError, IndexError
        ):  # an earlier change took away what this one changes
            change(tree, rng)
    execution = f"20260101T000000{number:06d}Z-abcdef01-000000"
    tree["execution"] = execution
    content = json.dumps(tree).encode()
    try:
        read = Record.model_validate_json(content)
        suite, id = read.run.suite, read.id
    except (ValueError, RecursionError):
        suite, id = "flows", "0" * 16
    if not suite or "/" in suite or "\x00" in suite or suite.startswith(".") or len(suite.encode()) > 200:
        suite = "flows"
    return suite, id, execution, broken_bytes(content, rng) if rng.random() < 0.3 else content


def base_record() -> dict[str, Any]:
    measurements = {"nats": measured(1.0), "rate": measured(9.0, unit="samples/s", better="higher", raw=(1.0, 2.0))}
    base = record(
        measurements=measurements, curve=CURVE, timings={"total": 1.0}, data_sha256="a", command="genbench run x"
    )
    return base.model_dump(mode="json")


def called(*words: str) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of a call of the command line, in which any warning is an error."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings(action="error"):
        code = main(list(words))
    return code, out.getvalue(), err.getvalue()


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_five_thousand_records_of_any_kind_are_reported_and_the_damaged_ones_named(tmp_path):
    rng, base, damaged, shown = random.Random(0), base_record(), 0, 0
    for _ in range(BATCHES):
        folder, out = tmp_path / "results", tmp_path / "out"
        for number in range(SIZE):
            suite, id, execution, content = fuzzed(rng, base, number)
            path = folder / suite / id / f"{execution}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (folder / ".work" / "files").mkdir(parents=True)
        (folder / ".work" / "files" / "a.png").write_bytes(rng.choice([b"\x89PNG\r\n\x1a\n" + bytes(40), b"", b"GIF"]))
        (folder / ".work" / "link.png").symlink_to("/etc/hostname")
        before = files_under(folder)
        code, printed, errors = called("report", "--results", str(folder), "--out", str(out), "--plots", "4")
        store = Store(folder)
        good = store.records()
        assert code == 0, errors
        assert len(good) + len(store.damaged) == SIZE
        assert all(path.name in errors for path, _ in store.damaged)
        assert not CONTROL.search((printed + errors).replace("\n", ""))
        assert called("compare", str(folder), str(folder))[0] == 1, "there are damaged records"
        assert set(genbench.results(folder).status) >= {"ok"}
        text = (out / "LEADERBOARD.md").read_text(encoding="utf-8")
        assert not CONTROL.search(text.replace("\n", ""))
        assert "<script" not in text
        page = PageParser((out / "leaderboard.html").read_text(encoding="utf-8"))
        assert [tag for tag, _ in page.tags].count("script") == 2
        assert json.loads(page.scripts[0])["boards"]
        assert files_under(folder) == before, "a report changes no record"
        damaged, shown = damaged + len(store.damaged), shown + len(good)
        shutil.rmtree(folder)
    print(f"{damaged + shown} records: {shown} shown, {damaged} named as damaged")
    assert damaged + shown >= 5000
    assert min(damaged, shown) > 1000
