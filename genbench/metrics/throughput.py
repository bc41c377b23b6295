"""Speed of training, sampling and density, and memory of a training step: taken alone on the machine."""

from __future__ import annotations

import copy
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.train import Game, batches

__all__ = ["throughput"]

REPEATS, SECONDS, PATIENCE = 5, 0.05, 1.0  # repetitions; seconds that one lasts at least; that all should not exceed


def measure(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return samples/s of training, sampling and density (medians, every repetition kept) and peak memory.

    Training is the run's own step on a copy of the model: loss, gradient, optimizer, at the run's batch size;
    samples are drawn and densities computed as many at a time as a training batch holds. Memory is what a
    training step has allocated at its fullest, weights and optimizer state included.
    """
    run, device, size = evaluation.run, evaluation.device, evaluation.run.batch
    model = copy.deepcopy(evaluation.model)
    x = evaluation.dataset.test[:size].to(device)
    found = {}
    if model.generative:
        found["sample_throughput"] = speed(lambda: evaluation.model.sample(size), size, device)
    if evaluation.model.likelihood is not None:
        found["density_throughput"] = speed(lambda: evaluation.model.log_prob(x), len(x), device)
    if run.steps and (game := Game(model.train(), run)).players:
        batch = batches(evaluation.dataset, size, run.seed, device)
        found["train_throughput"] = speed(lambda: game.step(0, batch), size * game.batches, device, grad=True)
        found["train_memory"] = memory(lambda: game.step(0, batch), game, device)
    return found


def speed(call: Callable[[], Any], points: int, device: torch.device, *, grad: bool = False) -> Measurement:
    """Return the median points/s of `call`, after warm-up, over repetitions long enough to time."""
    with torch.set_grad_enabled(grad):
        calls = 1
        while (took := seconds(call, calls, device)) < SECONDS:  # warms up, too
            calls = max(2 * calls, round(calls * SECONDS / took))
        repeats = max(3, min(REPEATS, round(PATIENCE / took)))
        rates = tuple(points * calls / seconds(call, calls, device) for _ in range(repeats))
    value = statistics.median(rates)
    return Measurement(value=value, unit="samples/s", better="higher", n=repeats, impl="throughput 1", raw=rates)


def seconds(call: Callable[[], Any], calls: int, device: torch.device) -> float:
    """Return the seconds that `calls` calls take, the device's work included."""
    _wait(device)
    began = time.perf_counter()
    for _ in range(calls):
        call()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory(step: Callable[[], Any], game: Game, device: torch.device) -> Measurement:
    """Return the most bytes allocated during `step`, on the device, by its allocator's own count."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step()
        most = torch.cuda.max_memory_allocated(device)
    else:
        most = standing(game) + rise(step)
    return Measurement(value=most, unit="bytes", better="lower", impl="throughput 1")


def standing(game: Game) -> int:
    """Return the bytes of weights, buffers and optimizer state."""
    states = [state for player in game.players for state in player.optimizer.state.values()]
    tensors = [v for state in states for v in state.values() if isinstance(v, torch.Tensor)]
    tensors += [*game.model.parameters(), *game.model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def rise(call: Callable[[], Any]) -> int:
    """Return how far the bytes allocated on the CPU rise during `call`, from the profiler's trace."""
    with tempfile.TemporaryDirectory() as folder, _hushed():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            call()
        trace = Path(folder, "trace.json")
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    level, most = 0, 0
    for _, change in changes:
        level += change
        most = max(most, level)
    return most


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep the profiler's remarks, which it writes past Python to the standard error, from the user."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


throughput = Metric(measure, alone=True)
