"""Throughput of training, sampling and density, and memory of a training step, measured alone on the machine.

The throughput of a call is points per second of wall time, the median over repetitions. Measuring takes a few seconds
per quantity at most, or a single call if that takes longer, however slow or loaded the machine is.
"""

from __future__ import annotations

import copy
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from genbench.console import suppress_stderr
from genbench.dataset import Dataset
from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.model import Model
from genbench.suite import Run
from genbench.train import EMA, TrainStep, batches, reseed

__all__ = ["throughput"]

MIN_SECONDS = 0.05  # per repetition
MAX_REPEATS, MIN_REPEATS = 5, 3
SOFT_LIMIT, HARD_LIMIT = 1.0, 5.0  # seconds after which MIN_REPEATS are enough, and after which any number is
GOLDEN = (math.sqrt(5) - 1) / 2  # any number of its first multiples modulo 1 are spread evenly over [0, 1)
IMPL = "throughput 2"


def measure(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return samples/s of training, sampling and density, medians with every repetition, and peak memory.

    - train_throughput: the size of a training batch divided by the time of a complete step: gathering its batches, all
      losses and gradients, optimizers and averaged weights. A step of a GAN counts its points once, however many
      batches the critic takes. Steps are spread evenly over the run, so that stages are weighted by their length.
    - sample_throughput, density_throughput: in batches of the same size.
    - train_memory: peak bytes allocated during a step, including weights, averaged weights and optimizer state.

    n is the number of repetitions: 5, or 3 if they take over a second, or fewer after the time limit of 5 seconds.
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
    """Complete training steps of `model`, as in the training loop, at any step of the run."""

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
        """Take step run.steps * (k GOLDEN mod 1) of the run, k = 0, 1, ...: any number of these cover it evenly."""
        self.step_at(int(self.steps_done * GOLDEN % 1 * self.run.steps))
        self.steps_done += 1

    def step_at(self, i: int) -> None:
        """Take step `i` of the run."""
        reseed(self.run.seed, i)
        self.train_step(i, self.batch)
        self.ema.update(i)

    def state_bytes(self) -> int:
        """Return the bytes of weights, averaged weights, buffers and optimizer state."""
        states = [state for loss in self.losses for state in loss.optimizer.state.values()]
        tensors = [v for state in states for v in state.values() if isinstance(v, torch.Tensor)]
        tensors += [*self.model.parameters(), *self.model.buffers(), *self.ema.mean]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


# ---------------------------------------------------------------------------------------------------------- speed


def speed(call: Callable[[], Any], points: int, device: torch.device) -> Measurement:
    """Return the median points/s of `call`, which handles `points`, over repetitions after a warm-up."""
    start = time.perf_counter()
    rate(call, points, device)
    rates = [rate(call, points, device)]
    while len(rates) < MAX_REPEATS:
        elapsed = time.perf_counter() - start
        if elapsed > HARD_LIMIT or (elapsed > SOFT_LIMIT and len(rates) >= MIN_REPEATS):
            break
        rates.append(rate(call, points, device))
    value = statistics.median(rates)
    return Measurement(value=value, unit="samples/s", better="higher", n=len(rates), impl=IMPL, raw=tuple(rates))


def rate(call: Callable[[], Any], points: int, device: torch.device) -> float:
    """Return points/s over as many calls as fill `MIN_SECONDS`, including the work on the device."""
    _synchronize(device)
    start, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - start < MIN_SECONDS:
        call()
        calls += 1
    _synchronize(device)
    return points * calls / (time.perf_counter() - start)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# --------------------------------------------------------------------------------------------------------- memory


def memory(training: Training, device: torch.device) -> Measurement:
    """Return the peak bytes allocated during a step, by the allocator's count, of the stage that needs most."""
    last, peak = training.run.steps - 1, 0
    for start in {min(math.ceil(loss.start * training.run.steps), last) for loss in training.losses}:
        step = partial(training.step_at, start)
        step()  # the first step of a stage allocates the optimizer's state
        peak = max(peak, rise(step, device))
    return Measurement(value=training.state_bytes() + peak, unit="bytes", better="lower", impl=IMPL)


def rise(call: Callable[[], Any], device: torch.device) -> int:
    """Return by how many bytes the memory allocated on `device` rises during `call`, at its peak."""
    if device.type != "cuda":
        return cpu_rise(call)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return torch.cuda.max_memory_allocated(device) - before


def cpu_rise(call: Callable[[], Any]) -> int:
    """Return by how many bytes the memory allocated on the CPU rises during `call`, at its peak, by the profiler."""
    with tempfile.TemporaryDirectory() as folder, suppress_stderr():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            call()
        trace = Path(folder, "trace.json")
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    level, peak = 0, 0
    for _, change in changes:
        level += change
        peak = max(peak, level)
    return peak


throughput = Metric(measure, exclusive=True)
