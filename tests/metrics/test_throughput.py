"""Throughput is points per second of complete steps, measured in bounded time on any machine."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from genbench.dataset import Dataset, Space
from genbench.evaluation import Evaluation
from genbench.metrics import throughput as module
from genbench.metrics.throughput import MIN_SECONDS, Training, memory, rise, speed, throughput
from genbench.models.flows.linear import Linear
from genbench.models.gans.gan import GAN
from genbench.models.vaes.vqvae import FlatVQVAE
from genbench.suite import Run

CPU = torch.device("cpu")
X = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
PLANE = Dataset(Space((2,)), X, X, X)


class Clock:
    """A clock that only advances during calls."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, 0

    def call(self, seconds: Callable[[int], float]) -> Callable[[], None]:
        """Return a function whose call number i takes `seconds(i)`."""

        def timed() -> None:
            self.now += seconds(self.calls)
            self.calls += 1

        return timed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock.now)
    return clock


def run(**changes: object) -> Run:
    base = {"suite": "s", "name": "n", "model": "m", "data": "d", "steps": 100, "batch": 16}
    return Run(**base | {"optimizer": {"ema": 0.5}} | changes)


# ------------------------------------------------------------------------------------------------- points per second


@pytest.mark.parametrize("duration", [1e-5, 0.004, 0.3])
def test_throughput_is_points_divided_by_the_time_of_a_call(clock: Clock, duration: float) -> None:
    rate = speed(clock.call(lambda _: duration), 128, CPU)
    assert rate.value == pytest.approx(128 / duration)
    assert rate.raw == pytest.approx([128 / duration] * rate.n)
    assert (rate.unit, rate.better, rate.impl) == ("samples/s", "higher", "throughput 2")


def test_throughput_of_a_call_that_sleeps() -> None:
    rate = speed(lambda: time.sleep(0.02), 10, CPU)
    assert 10 / 0.04 < rate.value <= 10 / 0.02


def test_the_value_is_the_median_of_the_repetitions(clock: Clock) -> None:
    durations = [1.0, 0.1, 0.2, 0.4, 0.8]  # the first is warm-up; the others last over a second, so three are enough
    rate = speed(clock.call(lambda i: durations[i]), 1, CPU)
    assert rate.raw == pytest.approx((10.0, 5.0, 2.5))
    assert (rate.n, rate.value, clock.calls) == (3, pytest.approx(5.0), 4)
    assert speed(clock.call(lambda _: 0.01), 1, CPU).n == 5


@pytest.mark.parametrize(("duration", "repetitions"), [(1.4, 3), (3.0, 1), (1000.0, 1)])
def test_a_slow_call_is_timed_at_least_once_in_bounded_time(clock: Clock, duration: float, repetitions: int) -> None:
    rate = speed(clock.call(lambda _: duration), 7, CPU)
    assert (rate.n, rate.value) == (repetitions, pytest.approx(7 / duration))
    assert clock.now <= max(module.HARD_LIMIT + duration, 2 * duration)


def test_measuring_stays_short_on_a_machine_that_becomes_a_thousand_times_slower(clock: Clock) -> None:
    """The first calls take 10 us, and later ones 10 ms."""
    rate = speed(clock.call(lambda i: 1e-5 if i < 5 else 1e-2), 1, CPU)
    assert clock.now < 7 * MIN_SECONDS
    assert rate.value == pytest.approx(100)


# ------------------------------------------------------------------------------------------------- complete steps


def timed_gan(clock: Clock, repeats: int) -> GAN:
    """Return a GAN whose critic loss takes .01 s, and whose generator loss takes .02 s."""
    torch.manual_seed(0)
    model = GAN(PLANE.space, hidden=(4,), critic_steps=repeats)
    for name, seconds in (("critic_loss", 0.01), ("generator_loss", 0.02)):
        loss = getattr(model, name)

        def slow(x: Tensor, loss: Callable[[Tensor], Tensor] = loss, seconds: float = seconds) -> Tensor:
            clock.now += seconds
            return loss(x)

        setattr(model, name, slow)
    return model


@pytest.mark.parametrize("repeats", [1, 5])
def test_a_step_of_a_gan_counts_its_points_once(clock: Clock, repeats: int) -> None:
    training = Training(timed_gan(clock, repeats), PLANE, run(), CPU)
    assert speed(training.step, 16, CPU).value == pytest.approx(16 / (0.01 * repeats + 0.02))


def test_the_metric_counts_the_points_of_a_training_batch(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: Training) -> None:
        clock.now += 0.5

    monkeypatch.setattr(Training, "step", step)
    for model in (Linear, GAN):
        monkeypatch.setattr(model, "sample", lambda self, n: setattr(clock, "now", clock.now + 0.25))
    monkeypatch.setattr(Linear, "log_prob", lambda self, x: setattr(clock, "now", clock.now + 0.125))
    monkeypatch.setattr(module, "memory", lambda *_: None)
    measurements = throughput.measure(Evaluation(Linear(PLANE.space), PLANE, run()))
    values = {name: m.value for name, m in measurements.items() if m is not None}
    assert values == {"train_throughput": 32, "sample_throughput": 64, "density_throughput": 128}
    gan = GAN(PLANE.space, hidden=(4,), critic_steps=3)
    assert throughput.measure(Evaluation(gan, PLANE, run()))["train_throughput"].value == 32


def test_a_step_gathers_its_batches_and_updates_weights_and_their_averages() -> None:
    torch.manual_seed(0)
    training, gathered = Training(GAN(PLANE.space, hidden=(4,), critic_steps=3), PLANE, run(), CPU), []
    batch = training.batch
    training.batch = lambda i: gathered.append(i) or batch(i)
    before = [p.clone() for p in training.model.parameters()], [m.clone() for m in training.ema.mean]
    training.step()
    assert gathered == [0, 1, 2, 0]
    for old, new in zip(before, (training.model.parameters(), training.ema.mean), strict=True):
        assert not all(map(torch.equal, old, new))


def test_steps_cover_the_stages_of_a_run_in_proportion() -> None:
    """A VQ-VAE learns its codes for 60 % of the run, and then the prior over them."""
    space = Space((1, 4, 4), 5)
    x = torch.randint(5, (32, 1, 4, 4)).byte()
    model = FlatVQVAE(space, codes=4, dim=2, width=8, depth=1, heads=1)
    training, taken = Training(model, Dataset(space, x, x, x), run(steps=50), CPU), list[int]()
    training.step_at = taken.append
    for _ in range(30):
        training.step()
    assert sum(i < 0.6 * 50 for i in taken) == pytest.approx(18, abs=1)
    assert (min(taken), max(taken)) == (0, pytest.approx(49, abs=3))
    assert sum(i < 0.6 * 50 for i in taken[:3]) in (1, 2)


def test_memory_counts_averaged_weights_and_the_stage_that_needs_most() -> None:
    def bytes_of(**optimizer: object) -> float:
        torch.manual_seed(0)
        training = Training(Linear(PLANE.space), PLANE, run(optimizer=optimizer), CPU)
        return memory(training, CPU).value

    weights = 4 * sum(p.numel() for p in Linear(PLANE.space).parameters())
    assert bytes_of(ema=0.5) - bytes_of() == pytest.approx(weights, abs=0.5 * weights)


def test_gpu_memory_is_what_a_call_adds_at_its_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 bytes are allocated before the call, which allocates 300 more and frees 200 of them."""
    device = {"now": 1000, "peak": 5000}

    def call() -> None:
        device["peak"] = max(device["peak"], device["now"] + 300)
        device["now"] += 100

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: device.update(peak=device["now"]))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: device["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: device["peak"])
    assert rise(call, torch.device("cuda")) == 300
