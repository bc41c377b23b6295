"""Every contender of every case on three clocks: device times go to pytest-benchmark, the rest into extra_info.

The rounds are timed by `timing.measure`, which knows about devices, and then played to pytest-benchmark on a clock that
shows those times: its JSON, statistics and `compare` work as ever.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

import genbench_kernels
import pytest
import torch

from bench.cases import Calls, Case, Direction, Unavailable, build, cases, phase
from bench.conftest import LAUNCHES
from bench.timing import Cache, launches, measure, peak_memory, summary

SETS = 3
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward", "both")
CACHES: tuple[Cache, ...] = ("cold", "warm")


class Tape:
    """A clock that shows recorded times: each `play()` moves it on by the next."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.shown = 0.0

    def play(self) -> None:
        self.shown += self.seconds.pop()


TAPE = Tape()


def device_clock() -> float:
    """Return the time that the tape shows, in seconds."""
    return TAPE.shown


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    tiny = metafunc.config.getoption("--tiny")
    made = cases(genbench_kernels, tiny=tiny)
    if metafunc.function is test_speed:
        all_of = [(c, n, d, h) for c in made for n in ("copy", *c.contenders) for d in DIRECTIONS for h in CACHES]
        names = ["/".join((c.name, *rest)) for c, *rest in all_of]
        metafunc.parametrize(("case", "contender", "direction", "cache"), all_of, ids=names)
    else:
        plain = [(c, name) for c in made for name, contender in c.contenders.items() if contender.form == "plain"]
        metafunc.parametrize(("case", "contender"), plain, ids=[f"{c.name}/{name}" for c, name in plain])


@pytest.fixture(scope="module")
def built(device: torch.device, request: pytest.FixtureRequest) -> Callable[[Case, str], Calls]:
    """Return a function that builds a contender, or gives what it last built or why it could not."""
    last: dict[tuple[str, str], Calls | Exception] = {}

    def give(case: Case, contender: str) -> Calls:
        key = case.name, contender
        if key not in last:
            last.clear()
            _say(request, f"{case.name}: {contender}")
            try:
                calls = build(case, contender, device, SETS)
                calls.both(0)  # compiles
                last[key] = calls
            except Exception as error:
                last[key] = error
        found = last[key]
        if isinstance(found, Calls):
            return found
        if isinstance(found, Unavailable) or not contender.startswith("ours"):
            pytest.skip(f"{contender}: {type(found).__name__}: {str(found).strip().splitlines()[:1]}")
        raise found

    return give


def _say(request: pytest.FixtureRequest, line: str) -> None:
    capture: Any = request.config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{line} ", end="", flush=True)


@pytest.mark.benchmark(timer=device_clock)
def test_speed(
    case: Case,
    contender: str,
    direction: Direction,
    cache: Literal["cold", "warm"],
    built: Callable[[Case, str], Calls],
    device: torch.device,
    benchmark: Any,
    request: pytest.FixtureRequest,
) -> None:
    calls = built(case, contender)
    rounds = 10 if request.config.getoption("--tiny") else 200
    times = measure(*phase(calls, direction, cache), device, cache=cache, rounds=rounds, sets=SETS)
    counted = (direction, cache) == ("both", "cold") and not contender.endswith("graph")  # its memory is in its pool
    benchmark.group = f"{case.name}/{direction}/{cache}"
    benchmark.extra_info.update(
        case=case.name,
        contender=contender,
        direction=direction,
        cache=cache,
        least=case.least[direction],
        device=asdict(summary(times.device)),
        host=asdict(summary(times.host)),
        wall=asdict(summary(times.wall)),
        late=times.late,
        memory=peak_memory(partial(calls.both, 0), device) if counted else None,
    )
    TAPE.seconds = times.device[::-1]
    benchmark.pedantic(TAPE.play, rounds=len(times.device))


def test_launches(case: Case, contender: str, device: torch.device, request: pytest.FixtureRequest) -> None:
    calls = build(case, contender, device, 1)
    counts: dict[str, int | None] = {}
    for direction in DIRECTIONS:
        call, prepare = phase(calls, direction, "cold")
        calls.both(0)
        counts[direction] = launches(partial(call, 0), partial(prepare, 0), device)
    request.config.stash[LAUNCHES][f"{case.name}/{contender}"] = counts
    assert device.type != "cuda" or any(counts.values()), "the profiler saw no kernel"
