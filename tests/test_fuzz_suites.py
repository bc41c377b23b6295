"""Thousands of broken suite files: each is read or refused, in one line, with exit code 0 or 2, in bounded time."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from genbench.command_line import main
from genbench.suite import suite_paths

FILES = 5000
LONGEST = 5.0  # seconds of CPU time for one file
SEEDS = {name: suite_paths()[name] for name in ("smoke", "labelled", "vaes-ais", "flows-photos", "flows-mnist-gpu")}
SCALARS = (
    "yes", "no", "on", "null", "~", "true", "1_000", "010", "0x1F", "1:30", "1e3", "1e400", ".nan", "-.inf", "-1", "0",
    "1.5", "9" * 30, "9" * 5000, "2024-02-30", "2024-02-29", "!!python/name:os.system x", "!!str 3", "!!int x", "!x y",
    "*a", "&a 1", "'1'", '""', "'  '", "[]", "{}", "[[]]", "{a: {b: c}}", "[1, 2", "{1: 2}", "../up", "plots",
    ".hidden", "/etc/passwd", "'a\\0'", '"\\0"', '"\\e[31m"', '"\\ud800"', "toys:moons", "toys:nope", "os:system",
    "math:pi", "json", "flows.nice:NICE", "likelihood", "digits", "x" * 300, "é" * 90, "日本", "=1+1", "<<", "|", ">",
    "?", "- -", "%", "@", "`", "#", "---", "...",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 10**12, 2**63, 10**40, 0.5, -0.0, 1e308, float("inf"), float("nan"), "", " ", "x",
    "é", "\0", "a\nb", "yes", "1", "../up", "digits", "flows.nice:NICE", "likelihood", [], {}, [None], [[]], [0, 0],
    ["digits", "digits"], {"": 1}, {"x": {"y": [1]}}, {"model": "flows.nice:NICE"}, {"options": {"hidden": ["a"]}},
    list(range(50)), {1: 2}, "x" * 1000,
)  # fmt: skip
BYTES = (b"[", b"{", b"- ", b"? ", b"\t", b"\n", b": ", b"'", b'"', b"&a ", b"*a ")
KEYS = ("", "lr", "steps", "data", "model", "suite", "<<", "a\nb")


def flipped(text: bytes, rng: random.Random) -> bytes:
    """Return `text` with bits flipped, bytes inserted, or slices removed, doubled or moved."""
    data = bytearray(text)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        i, j = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        j = min(j, i + rng.choice((1, 3, 30)))
        match rng.randrange(5):
            case 0:
                data[i:i] = bytes([rng.randrange(256)])
            case 1 if i < len(data):
                data[i] ^= 1 << rng.randrange(8)
            case 2:
                del data[i:j]
            case 3:
                data[i:i] = data[i:j] * rng.choice((1, 2, 50))
            case _:
                data[i:i] = rng.choice(BYTES) * rng.choice((1, 200))
        data = data or bytearray(b" ")
    return bytes(data)


def reworded(text: bytes, rng: random.Random) -> bytes:
    """Return `text` with scalars replaced by awkward ones, or with a line doubled, indented or merged into another."""
    lines = text.decode().splitlines()
    for _ in range(rng.choice((1, 1, 2, 4))):
        i = rng.randrange(len(lines))
        words = list(re.finditer(r"[^\s,:{}\[\]#]+", lines[i]))
        match rng.randrange(4):
            case 0:
                lines.insert(i, lines[i])
            case 1:
                lines[i] = " " * rng.randrange(9) + lines[i].lstrip()
            case 2:
                lines[i] = re.sub(r"\{", "{<<: *a, ", lines[i]) if rng.random() < 0.5 else f"{lines[i]} &a"
            case _ if words:
                word = rng.choice(words)
                lines[i] = lines[i][: word.start()] + rng.choice(SCALARS) + lines[i][word.end() :]
    return "\n".join(lines).encode()


def restructured(text: bytes, rng: random.Random) -> bytes:
    """Return `text` with values of its tree replaced, removed, doubled or moved: valid YAML of another shape."""
    tree = yaml.safe_load(text)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(containers(tree))
        place = rng.choice(places)
        if not place:
            continue
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        match rng.randrange(4):
            case 0:
                del place[key]
            case 1 if isinstance(place, dict):
                place[rng.choice((f"{key}x", key[:1], *KEYS))] = place[key]
            case 2:
                place[key] = copy.deepcopy(rng.choice(places))
            case _:
                place[key] = rng.choice(VALUES)
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode()


def containers(tree: Any) -> Any:
    """Yield every list and mapping of a tree."""
    if isinstance(tree, dict | list):
        yield tree
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from containers(value)


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (flipped, reworded, restructured)


@pytest.mark.slow
@pytest.mark.parametrize("mutate", MUTATIONS)
def test_every_broken_suite_is_read_or_refused_in_one_line(
    mutate: Callable[[bytes, random.Random], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, texts = random.Random(mutate.__name__), [suite.read_bytes() for suite in SEEDS.values()]
    outcomes: Counter[int] = Counter()
    slowest = 0.0
    path = tmp_path / "mine.yaml"
    monkeypatch.chdir(tmp_path)
    for i in range(-(-FILES // len(MUTATIONS))):
        text = mutate(rng.choice(texts), rng)
        path.write_bytes(text)
        began, out, err = time.process_time(), io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(["run", "mine.yaml", "--dry-run"])
            except BaseException as error:
                pytest.fail(f"file {i}: {type(error).__name__}: {error}\n{text[:2000]!r}")
        slowest = max(slowest, time.process_time() - began)
        outcomes[code] += 1
        lines = err.getvalue().splitlines()
        assert code in (0, 2), f"file {i}: exit code {code}\n{text[:2000]!r}"
        assert (code == 0) == bool(out.getvalue()), f"file {i}: runs are printed if and only if the suite is valid"
        if code == 2:
            assert len(lines) == 1, f"file {i}: {lines}\n{text[:2000]!r}"
            assert re.match(r"genbench: mine\.yaml: .+", lines[0]), lines
    assert slowest < LONGEST
    assert os.listdir(tmp_path) == ["mine.yaml"], "nothing else is written"
    print(f"{mutate.__name__}: {outcomes[0]} read, {outcomes[2]} refused, the slowest in {slowest:.2f} s")
    assert outcomes[0] > 20
    assert outcomes[2] > 500
