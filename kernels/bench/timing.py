"""How long a call takes on the device, on the host, and end to end: three clocks that are never mixed.

Device time is the time between two CUDA events. A kernel of ten microseconds ends before Python has launched the next
one, so events around a plain call would time Python. Therefore the device first waits (`torch.cuda._sleep`) while the
host queues the flush, the first event, the call and the second event. A round in which the first event had passed
before the host was done is discarded, and the wait is doubled.

Cold: a buffer of four times the L2 cache is read between a round's preparation and the call. It is read, not written,
so that the call does not pay for writing back the buffer's cache lines. Warm: the same call has just run on the same
tensors. Both cycle through several sets of inputs.
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
Call = Callable[[int], Any]  # its argument is the set of inputs to use
FIRST_WAIT, LONGEST_WAIT = 500_000, 32_000_000  # cycles: about 0.3 and 16 ms


@dataclass(frozen=True)
class Times:
    """Seconds of each round on each clock; in `late` of the rounds, device time includes host time."""

    device: list[float]  # between CUDA events, with launches queued before (on a CPU: same as wall)
    host: list[float]  # until the call returns to Python
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
    """Return the q-quantile, interpolated linearly between order statistics; ValueError if there are no values."""
    if not values:
        raise ValueError("cannot compute a quantile of no values")
    ordered, position = sorted(values), q * (len(values) - 1)
    low, high = ordered[floor(position)], ordered[ceil(position)]
    return low + (high - low) * (position - floor(position))


def measure(
    call: Call, prepare: Call, device: torch.device, *, cache: Cache = "cold", rounds: int = 200, sets: int = 1
) -> Times:
    """Return the times of `call(k)`, each round after an untimed `prepare(k)`, with k cycling through 0 ... sets-1."""
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
    """Return device and host seconds of rounds queued behind a wait, and the number of rounds that were late."""
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
        elapsed = perf_counter() - begin
        end.record()
        too_late = start.query()  # the device passed the first event before the host was done
        torch.cuda.synchronize()
        if too_late and 0 < cycles < LONGEST_WAIT:
            cycles *= 2
            continue
        if too_late:  # the call itself waits for the device: no wait is long enough
            late, cycles = late + 1, 0
        device.append(start.elapsed_time(end) / 1e3)
        host.append(elapsed)
    return device, host, late


def _flush(device: torch.device) -> Callable[[], Any]:
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    buffer = torch.ones(max(4 * cache, 64 << 20) // 4, device=device)
    return lambda: torch.sum(buffer)


@contextmanager
def without_collection() -> Iterator[None]:
    """Run without Python's cyclic garbage collector: it adds noise to times, and can make a graph capture fail.

    (It may unload a kernel's module, which is not allowed during capture.)
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def peak_memory(call: Callable[[], Any], device: torch.device) -> int | None:
    """Return the peak of the bytes that a call allocates; None without CUDA, whose allocator counts them."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def launches(call: Callable[[], Any], prepare: Callable[[], Any], device: torch.device) -> int | None:
    """Return the number of kernels, copies and fills that a call runs on the device, from the profiler, else None.

    The profiler also slows later launches: use it after all times are measured.
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
