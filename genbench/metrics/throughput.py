"""Speed of training, sampling and density, and memory of a training step: taken alone on the machine.

The rate of a call is points over seconds of wall time, the median over repetitions. What is timed is bounded: a
quantity takes some seconds at most, and one call if that takes longer, however slow or loaded the machine is.
"""

from __future__ import annotations

import copy
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from genbench.dataset import Dataset
from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.model import Model
from genbench.suite import Run
from genbench.train import EMA, TrainStep, batches, reseed

__all__ = ["throughput"]

SECONDS = 0.05  # that a repetition lasts at least
REPEATS, FEWEST = 5, 3  # repetitions, and how many are enough after PATIENCE seconds
PATIENCE, LIMIT = 1.0, 5.0  # seconds after which FEWEST are enough; after which any number is
GOLDEN = (math.sqrt(5) - 1) / 2
IMPL = "throughput 2"


def measure(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return samples/s of training, sampling and density, medians with every repetition, and peak memory.

    - train_throughput: points of a training batch over the seconds of a complete step: every batch of it gathered,
      every loss and gradient, optimizers and averaged weights. A step of a GAN counts its points once, however many
      batches the critic takes. Steps are spread evenly over the run, so that stages count by their shares of it.
    - sample_throughput, density_throughput: as many points at a time as a training batch has.
    - train_memory: bytes allocated at the fullest moment of a step, weights, averaged weights and the optimizer's
      state included.

    n is the number of repetitions: 5, 3 if they take over a second, fewer if the time limit of 5 seconds has passed.
    """
    run, device, size = evaluation.run, evaluation.device, evaluation.run.batch
    x = evaluation.dataset.test[:size].to(device)
    measurements = {}
    with torch.no_grad():
        if evaluation.model.generative:
            measurements["sample_throughput"] = speed(lambda: evaluation.model.sample(size), size, device)
        if evaluation.model.likelihood is not None:
            measurements["density_throughput"] = speed(lambda: evaluation.model.log_prob(x), len(x), device)
    if run.steps and (training := Training(copy.deepcopy(evaluation.model), evaluation.dataset, run, device)).losses:
        measurements["train_throughput"] = speed(training.step, size, device)
        measurements["train_memory"] = memory(training, device)
    return measurements


@dataclass
class Training:
    """Complete training steps of `model`, as the training loop takes them, at any place in the run."""

    model: Model
    dataset: Dataset
    run: Run
    device: torch.device
    steps_done: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.train_step = TrainStep(self.model.train(), self.run)
        self.ema = EMA(self.model, self.run.optimizer.ema)
        self.batch = batches(self.dataset, self.run.batch, self.run.seed, self.device)
        self.losses = self.train_step.losses

    def step(self) -> None:
        """Take the next of the steps at run.steps * (k GOLDEN mod 1), which cover the run evenly however many."""
        self.step_at(int(self.steps_done * GOLDEN % 1 * self.run.steps))
        self.steps_done += 1

    def step_at(self, i: int) -> None:
        """Take step `i` of the run."""
        reseed(self.run.seed, i)
        self.train_step(i, self.batch)
        self.ema.update(i)

    def bytes_held(self) -> int:
        """Return the bytes of weights, averaged weights, buffers and optimizer state."""
        states = [state for loss in self.losses for state in loss.optimizer.state.values()]
        tensors = [v for state in states for v in state.values() if isinstance(v, torch.Tensor)]
        tensors += [*self.model.parameters(), *self.model.buffers(), *self.ema.mean]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


# ---------------------------------------------------------------------------------------------------------- speed


def speed(call: Callable[[], Any], points: int, device: torch.device) -> Measurement:
    """Return the median points/s of `call`, which handles `points`, over repetitions after one that warms up."""
    began = time.perf_counter()
    rate(call, points, device)
    rates = [rate(call, points, device)]
    while len(rates) < REPEATS:
        elapsed = time.perf_counter() - began
        if elapsed > LIMIT or (elapsed > PATIENCE and len(rates) >= FEWEST):
            break
        rates.append(rate(call, points, device))
    value = statistics.median(rates)
    return Measurement(value=value, unit="samples/s", better="higher", n=len(rates), impl=IMPL, raw=tuple(rates))


def rate(call: Callable[[], Any], points: int, device: torch.device) -> float:
    """Return points/s of as many calls as it takes until `SECONDS` are over, the device's work included."""
    _wait(device)
    began, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - began < SECONDS:
        call()
        calls += 1
    _wait(device)
    return points * calls / (time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# --------------------------------------------------------------------------------------------------------- memory


def memory(training: Training, device: torch.device) -> Measurement:
    """Return the most bytes that a step has allocated, by its allocator's own count, of the stages of the run."""
    last, most = training.run.steps - 1, 0
    for start in {min(math.ceil(loss.start * training.run.steps), last) for loss in training.losses}:
        step = partial(training.step_at, start)
        step()  # makes the optimizer's state, if no step of this stage has been taken yet
        most = max(most, rise(step, device))
    return Measurement(value=training.bytes_held() + most, unit="bytes", better="lower", impl=IMPL)


def rise(call: Callable[[], Any], device: torch.device) -> int:
    """Return how far the bytes allocated on `device` rise during `call`."""
    if device.type != "cuda":
        return cpu_rise(call)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return torch.cuda.max_memory_allocated(device) - before


def cpu_rise(call: Callable[[], Any]) -> int:
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


throughput = Metric(measure, exclusive=True)
