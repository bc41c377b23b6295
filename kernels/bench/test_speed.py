"""Every contender of every case on three clocks: device times go to pytest-benchmark, the others into extra_info.

Rounds are timed by `timing.measure`, which handles devices, and then replayed to pytest-benchmark on a clock that shows
these times, so that its JSON, statistics and `compare` work as usual.
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


class ReplayClock:
    """A clock that replays recorded times: each `advance()` moves it on by the next one."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.now = 0.0

    def advance(self) -> None:
        self.now += self.seconds.pop()


CLOCK = ReplayClock()


def device_clock() -> float:
    """Return the time of the replay clock, in seconds."""
    return CLOCK.now


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    tiny = metafunc.config.getoption("--tiny")
    selected = cases(genbench_kernels, tiny=tiny)
    if metafunc.function is test_speed:
        rows = [(c, n, d, h) for c in selected for n in ("copy", *c.contenders) for d in DIRECTIONS for h in CACHES]
        names = ["/".join((c.name, *rest)) for c, *rest in rows]
        metafunc.parametrize(("case", "contender", "direction", "cache"), rows, ids=names)
    else:
        plain = [(c, name) for c in selected for name, contender in c.contenders.items() if contender.form == "plain"]
        metafunc.parametrize(("case", "contender"), plain, ids=[f"{c.name}/{name}" for c, name in plain])


@pytest.fixture(scope="module")
def built(device: torch.device, request: pytest.FixtureRequest) -> Callable[[Case, str], Calls]:
    """Return a function that builds a contender; the last one, or its error, is cached."""
    last: dict[tuple[str, str], Calls | Exception] = {}

    def get(case: Case, contender: str) -> Calls:
        key = case.name, contender
        if key not in last:
            last.clear()
            _print(request, f"{case.name}: {contender}")
            try:
                calls = build(case, contender, device, SETS)
                calls.both(0)  # compiles
                last[key] = calls
            except Exception as error:
                last[key] = error
        result = last[key]
        if isinstance(result, Calls):
            return result
        if isinstance(result, Unavailable) or not contender.startswith("ours"):
            pytest.skip(f"{contender}: {type(result).__name__}: {str(result).strip().splitlines()[:1]}")
        raise result

    return get


def _print(request: pytest.FixtureRequest, line: str) -> None:
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
    # the memory of a CUDA graph is in its own pool
    has_memory = (direction, cache) == ("both", "cold") and not contender.endswith("graph")
    benchmark.group = f"{case.name}/{direction}/{cache}"
    benchmark.extra_info.update(
        case=case.name,
        contender=contender,
        direction=direction,
        cache=cache,
        least=case.min_bytes[direction],
        device=asdict(summary(times.device)),
        host=asdict(summary(times.host)),
        wall=asdict(summary(times.wall)),
        late=times.late,
        memory=peak_memory(partial(calls.both, 0), device) if has_memory else None,
    )
    CLOCK.seconds = times.device[::-1]
    benchmark.pedantic(CLOCK.advance, rounds=len(times.device))


def test_launches(case: Case, contender: str, device: torch.device, request: pytest.FixtureRequest) -> None:
    calls = build(case, contender, device, 1)
    counts: dict[str, int | None] = {}
    for direction in DIRECTIONS:
        call, prepare = phase(calls, direction, "cold")
        calls.both(0)
        counts[direction] = launches(partial(call, 0), partial(prepare, 0), device)
    request.config.stash[LAUNCHES][f"{case.name}/{contender}"] = counts
    assert device.type != "cuda" or any(counts.values()), "the profiler saw no kernel"
