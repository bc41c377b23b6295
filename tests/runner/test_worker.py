"""Performing a run: a record whatever happens, and metrics that agree with closed forms."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from genbench.dataset import Dataset, Space
from genbench.evaluation import Evaluation
from genbench.metrics.likelihood import likelihood
from genbench.metrics.samples import grid, samples
from genbench.metrics.throughput import rise, throughput
from genbench.model import Model
from genbench.registry import find
from genbench.runner.worker import perform
from genbench.suite import Run

NORMAL = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
POINTS = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
PLANE = Dataset(Space((2,)), POINTS, POINTS, POINTS, log_prob=NORMAL.log_prob, entropy=NORMAL.entropy().item())
GREY = torch.arange(256, dtype=torch.uint8).repeat(4).view(16, 1, 8, 8)
IMAGES = Dataset(Space((1, 8, 8), 256), GREY, GREY, GREY)


class Wide(Model):
    """N(0, sigma^2 I) on the plane: KL(N(0, I), it) = log sigma^2 + 1 / sigma^2 - 1."""

    likelihood = "exact"

    def __init__(self, space: Space, *, sigma: float = 2.0) -> None:
        super().__init__(space)
        self.sigma = torch.nn.Parameter(torch.tensor(sigma))

    def log_prob(self, x: Tensor) -> Tensor:
        return NORMAL.log_prob(x / self.sigma) - 2 * self.sigma.log()

    def sample(self, n: int) -> Tensor:
        return self.sigma * torch.randn(n, 2)


class Uniform(Model):
    """Every value of every pixel equally likely."""

    likelihood = "exact"

    def log_prob(self, x: Tensor) -> Tensor:
        assert self.space.levels is not None
        return torch.full((len(x),), -self.space.dims * math.log(self.space.levels))

    def sample(self, n: int) -> Tensor:
        assert self.space.levels is not None
        return torch.randint(self.space.levels, (n, *self.space.shape), dtype=torch.uint8)


def run(**changes: object) -> Run:
    base = {"suite": "s", "name": "n", "model": "flows.linear:Linear", "data": "toys:moons", "steps": 20, "batch": 32}
    return Run(**(base | {"metrics": ("likelihood", "parameters"), "checks": 2} | changes))


# ------------------------------------------------------------------------------------------------- metrics


def test_excess_over_the_truth_is_the_divergence() -> None:
    measurements = likelihood.measure(Evaluation(Wide(PLANE.space), PLANE, run()))
    excess = measurements["excess_nats"]
    assert excess.value == pytest.approx(math.log(4) + 1 / 4 - 1, abs=4 * excess.stderr)
    assert measurements["nats"].value - excess.value == pytest.approx(PLANE.entropy, abs=4 / len(POINTS) ** 0.5)
    assert "bpd" not in measurements
    near = likelihood.measure(Evaluation(Wide(PLANE.space, sigma=1.05), PLANE, run()))
    assert near["excess_nats"].stderr < near["nats"].stderr / 5, "the nearer, the surer"
    true = likelihood.measure(Evaluation(Wide(PLANE.space, sigma=1.0), PLANE, run()))["excess_nats"]
    assert true.value == pytest.approx(0, abs=1e-6)


def test_a_uniform_model_of_256_levels_costs_8_bits() -> None:
    measurements = likelihood.measure(Evaluation(Uniform(IMAGES.space), IMAGES, run()))
    assert measurements["bpd"].value == pytest.approx(8)
    assert (measurements["bpd"].unit, measurements["bpd"].kind, measurements["bpd"].n) == ("bits/dim", "exact", 16)
    assert measurements["nats"].value == pytest.approx(64 * math.log(256))


def test_a_model_without_likelihood_has_none() -> None:
    model = Uniform(IMAGES.space)
    model.likelihood = None
    assert likelihood.measure(Evaluation(model, IMAGES, run())) == {}


def test_speed_keeps_every_repetition_and_leaves_the_model_alone() -> None:
    model = Wide(PLANE.space)
    before = model.sigma.item()
    measurements = throughput.measure(Evaluation(model, PLANE, run()))
    assert set(measurements) == {"train_throughput", "sample_throughput", "density_throughput", "train_memory"}
    for name in ("train_throughput", "sample_throughput", "density_throughput"):
        assert sorted(measurements[name].raw)[len(measurements[name].raw) // 2] == measurements[name].value > 0
    assert model.sigma.item() == before
    assert model.sigma.grad is None


def test_memory_is_what_is_allocated_at_the_fullest() -> None:
    def call() -> None:
        a = torch.ones(1_000_000)
        b = a + 1
        del a
        torch.ones(500_000)
        del b

    assert rise(call, torch.device("cpu")) == pytest.approx(8_000_000, rel=0.01)


def test_a_grid_keeps_order_and_values() -> None:
    picture = grid(GREY, IMAGES.space, side=2)
    size = len(picture) // 2
    inner = picture[2 : size - 2, 2 : size - 2, 0]
    scale = len(inner) // 8
    assert torch.equal(inner[::scale, ::scale], GREY[0, 0])
    assert torch.equal(picture[2 : size - 2, size + 2 : -2, 2][::scale, ::scale], GREY[1, 0])


def test_pictures_are_png_files() -> None:
    for model, data, expected in ((Wide, PLANE, {"samples.png", "density.png"}), (Uniform, IMAGES, {"samples.png"})):
        evaluation = Evaluation(model(data.space), data, run())
        assert samples.measure(evaluation) == {}
        assert set(evaluation.files) == expected
        assert all(content.startswith(b"\x89PNG") for content in evaluation.files.values())


# ---------------------------------------------------------------------------------------------- performing


def test_a_run_gives_the_same_bits_twice_and_loads_what_is_trained(tmp_path: Path) -> None:
    first, second = perform(run(), work=str(tmp_path / "a")), perform(run(), work=str(tmp_path / "b"))
    assert first.status == second.status == "ok"
    assert first.measurements == second.measurements
    again = perform(run(metrics=("likelihood",)), work=str(tmp_path / "a"))
    assert again.measurements["nats"] == first.measurements["nats"]
    assert again.timings["train"] < first.timings["train"]
    assert not (tmp_path / "a" / first.id / "checkpoint.pt").exists()


def test_work_behind_a_url(tmp_path: Path) -> None:
    record = perform(run(metrics=("likelihood", "samples")), work="memory://genbench-test-perform")
    assert record.status == "ok"
    assert set(record.files) == {"samples.png", "density.png"}


def test_a_record_says_where_and_on_what(tmp_path: Path) -> None:
    record = perform(run(), work=str(tmp_path))
    assert record.data_sha256 == find("datasets", "toys:moons")().sha256
    assert {"torch", "processor", "threads", "python", "host"} <= set(record.environment)
    assert record.environment["threads"] == 1
    assert [point.step for point in record.curve] == [10, 20]
    assert {"data", "train", "evaluate", "total"} == set(record.timings)


def test_an_exception_is_a_record_with_one_line(tmp_path: Path) -> None:
    record = perform(run(data="toys:none"), work=str(tmp_path))
    assert (record.status, record.measurements) == ("error", {})
    assert record.error.startswith("UsageError: unknown dataset 'toys:none'")
    assert "Traceback" in (tmp_path / record.id / "error.txt").read_text()


def test_a_timeout_is_a_status(tmp_path: Path) -> None:
    record = perform(run(steps=100_000, resources={"timeout": 0.5}), work=str(tmp_path))
    assert record.status == "timeout"
    assert "stopped at step" in record.error


def test_a_missing_gpu_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    record = perform(run(resources={"gpus": 1}), work=str(tmp_path))
    assert record.status == "error"
    assert "GPU" in record.error
