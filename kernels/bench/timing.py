"""How long a call takes, on the device, on the host and from end to end: three clocks that are never mixed.

Device time lies between two CUDA events. A kernel of ten microseconds is over before Python has started the next, so
events around a call as it is would time Python. Hence the device is first told to wait (`torch.cuda._sleep`) while the
host queues the flush, the event, the call and the second event; a round in which the first event had passed before
the host was done is thrown away, and the wait doubled.

Cold: a buffer of four times the L2 cache is read between a round's preparation and the call. It is read, not written,
so that the call does not pay for writing back lines that are not its own. Warm: the same call has just run on the same
tensors. Both go through several sets of inputs by turns.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, floor
from time import perf_counter
from typing import Any, Literal

import torch

Cache = Literal["cold", "warm"]
Call = Callable[[int], Any]  # of the set of inputs to use
FIRST_WAIT, LONGEST_WAIT = 500_000, 32_000_000  # cycles: about 0.3 and 16 ms


@dataclass(frozen=True)
class Times:
    """Seconds of each round on each clock; `late` rounds have host time in their device time."""

    device: list[float]  # between CUDA events, the launches queued before (on a CPU: as wall)
    host: list[float]  # that the call kept Python busy
    wall: list[float]  # from the call on an idle device until the device is done
    late: int = 0


@dataclass(frozen=True)
class Summary:
    """Median and the 20th and 80th percentile, in seconds."""

    median: float
    p20: float
    p80: float


def summary(seconds: list[float]) -> Summary:
    """Return median, p20 and p80 of the rounds."""
    return Summary(quantile(seconds, 0.5), quantile(seconds, 0.2), quantile(seconds, 0.8))


def quantile(values: list[float], q: float) -> float:
    """Return the q-quantile, linear between the order statistics; ValueError where there are no values."""
    if not values:
        raise ValueError("a quantile of no values")
    ordered, at = sorted(values), q * (len(values) - 1)
    low, high = ordered[floor(at)], ordered[ceil(at)]
    return low + (high - low) * (at - floor(at))


def measure(
    call: Call, prepare: Call, device: torch.device, *, cache: Cache = "cold", rounds: int = 200, sets: int = 1
) -> Times:
    """Return the times of `call(k)`, each round after an untimed `prepare(k)`, with k = 0 ... sets-1 by turns."""
    for k in range(max(3, sets)):
        prepare(k % sets)
        call(k % sets)
    with without_collection():
        if device.type != "cuda":
            wall = [_elapsed(call, prepare, k % sets, lambda: None) for k in range(rounds)]
            return Times(wall, wall, wall)
        flush = _flush(device) if cache == "cold" else lambda: None
        device_times, host, late = queued(call, prepare, flush, rounds, sets)
        wall = [_elapsed(call, prepare, k % sets, flush, torch.cuda.synchronize) for k in range(rounds)]
    return Times(device_times, host, wall, late)


def _elapsed(
    call: Call, prepare: Call, k: int, flush: Callable[[], Any], wait: Callable[[], None] = lambda: None
) -> float:
    prepare(k)
    flush()
    wait()
    start = perf_counter()
    call(k)
    wait()
    return perf_counter() - start


def queued(
    call: Call, prepare: Call, flush: Callable[[], Any], rounds: int, sets: int
) -> tuple[list[float], list[float], int]:
    """Return device and host seconds of rounds queued behind a wait, and how many no wait was long enough for."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    device: list[float] = []
    host: list[float] = []
    late, cycles = 0, FIRST_WAIT
    while len(device) < rounds:
        k = len(device) % sets
        prepare(k)
        torch.cuda._sleep(cycles)
        flush()
        start.record()
        begin = perf_counter()
        call(k)
        spent = perf_counter() - begin
        end.record()
        passed = start.query()
        torch.cuda.synchronize()
        if passed and 0 < cycles < LONGEST_WAIT:
            cycles *= 2
            continue
        if passed:  # the call itself waits for the device: no wait of ours helps
            late, cycles = late + 1, 0
        device.append(start.elapsed_time(end) / 1e3)
        host.append(spent)
    return device, host, late


def _flush(device: torch.device) -> Callable[[], Any]:
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    buffer = torch.ones(max(4 * cache, 64 << 20) // 4, device=device)
    return lambda: torch.sum(buffer)


@contextmanager
def without_collection() -> Iterator[None]:
    """Run with Python's cyclic garbage collector off: in a timed round it is noise, in a graph capture it may fail it.

    (It may unload a kernel's module, which a capture forbids.)
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def peak_memory(call: Callable[[], Any], device: torch.device) -> int | None:
    """Return the bytes that a call allocates beyond what there was, at its highest; None where CUDA does not count."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def launches(call: Callable[[], Any], prepare: Callable[[], Any], device: torch.device) -> int | None:
    """Return how many kernels, copies and fills the device runs in a call, by the profiler; None where it has none.

    The profiler slows what is launched after it, too: count when all times are taken.
    """
    if device.type != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    prepare()
    torch.cuda.synchronize()
    try:
        with profile(activities=[ProfilerActivity.CUDA]) as recorded:
            call()
            torch.cuda.synchronize()
        return sum(event.device_type.name == "CUDA" for event in recorded.events()) or None
    except RuntimeError:
        return None
