"""Metrics: a failing one is named and does not affect the others, and impossible likelihoods are marked invalid."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from genbench.dataset import Dataset, Modes, Space
from genbench.errors import UsageError
from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.metrics.likelihood import likelihood
from genbench.metrics.representation import probe
from genbench.model import Diverged, Model
from genbench.records.record import Record
from genbench.records.store import Store
from genbench.registry import find
from genbench.report.tidy import by_run, lines
from genbench.runner.progress import Lines
from genbench.runner.worker import perform
from genbench.strict_model import checked
from genbench.suite import Run
from genbench.suite import Suite as SuiteFile
from genbench.train import reseed
from genbench.validation.likelihoods import is_impossible
from genbench.validation.measurements import check_measurements


def number(value: Any = 1.0, **more: Any) -> Measurement:
    return Measurement(value=value, unit="nats", impl="mine 1", **more)


def draw(name: Any, content: Any = b"png") -> Callable[[Evaluation], dict[str, Measurement]]:
    def measure(evaluation: Evaluation) -> dict[str, Measurement]:
        evaluation.files[name] = content
        return {}

    return measure


def fails(error: BaseException) -> Callable[[Evaluation], dict[str, Measurement]]:
    def measure(evaluation: Evaluation) -> dict[str, Measurement]:
        raise error

    return measure


METRICS = {
    "good": lambda _: {"good": number(2.0)},
    "after": lambda _: {"after": number(torch.rand(()).item())},
    "none": lambda _: {},
    "picture": draw("a.png"),
    "zero": lambda _: {"zero": number(1 / 0)},
    "overflow": lambda _: {"overflow": number(math.exp(1e6))},
    "diverged": fails(Diverged("the likelihood is nan")),
    "memory": fails(MemoryError("full")),
    "exit": fails(SystemExit(0)),
    "bare": lambda _: {"mine": 0.5},
    "list": lambda _: [number()],
    "nothing": lambda _: None,
    "one": lambda _: number(),
    "nan": lambda _: {"mine": number(math.nan)},
    "word": lambda _: {"mine": number("one")},
    "unnamed": lambda _: {3: number()},
    "blank": lambda _: {" ": number()},
    "same": lambda _: {"other": number(), "good": number(-99.0)},
    "same_picture": draw("a.png", b"other"),
    "folder": draw("../a.png"),
    "text": draw("b.png", "text"),
}


@pytest.fixture
def performed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Record]:
    """Return a function that returns the record of a run with metrics from `METRICS`, called mine:<name>."""
    plugin = ModuleType("mine")
    vars(plugin).update({name: Metric(measure) for name, measure in METRICS.items()})
    monkeypatch.setitem(sys.modules, "mine", plugin)

    def perform_with(*metrics: str) -> Record:
        names = tuple(f"mine:{metric}" for metric in metrics)
        run = Run(suite="s", name="n", model="flows.linear:Linear", data="digits", steps=0, metrics=names)
        return perform(run, work=str(tmp_path / "work"))

    return perform_with


@pytest.mark.parametrize(
    ("metric", "status", "problem"),
    [
        ("zero", "error", "zero: ZeroDivisionError: division by zero"),
        ("overflow", "error", "overflow: OverflowError: math range error"),
        ("diverged", "diverged", "diverged: Diverged: the likelihood is nan"),
        ("memory", "host_oom", "memory: MemoryError: full"),
        ("exit", "error", "exit: SystemExit: 0"),
        (
            "bare",
            "error",
            "bare: InvalidMeasurement: returned a value of type float for 'mine'; expected a Meas",
        ),
        ("list", "error", "list: InvalidMeasurement: returned a value of type list; expected a dict of Measurements"),
        ("nothing", "error", "nothing: InvalidMeasurement: returned None; expected a dict"),
        ("one", "error", "one: InvalidMeasurement: returned a value of type Measurement; expected a dict"),
        ("nan", "error", "nan: Measurement: value: input should be a finite number, got nan"),
        ("word", "error", "word: Measurement: value: input should be a valid number, unable to parse"),
        ("unnamed", "error", "unnamed: InvalidMeasurement: returned a measurement called 3; expected a non"),
        ("blank", "error", "blank: InvalidMeasurement: returned a measurement called ' '; expected a non"),
        ("same", "error", "same: InvalidMeasurement: 'good' is already taken by mine:good; choose another name"),
        ("same_picture", "error", "same_picture: InvalidMeasurement: 'a.png' is already taken by mine:picture"),
        ("folder", "error", "folder: InvalidMeasurement: drew a file called '../a.png'; expected a name without a"),
        ("text", "error", "text: InvalidMeasurement: drew a value of type str for 'b.png'; expected bytes"),
    ],
)
def test_a_metric_that_fails_is_named_and_does_not_affect_the_others(
    performed: Callable[..., Record], metric: str, status: str, problem: str
) -> None:
    record, alone = performed("good", "picture", metric, "after"), performed("after")
    problem = f"mine:{problem}"
    assert (record.status, record.error[: len(problem)]) == (status, problem)
    assert set(record.measurements) == {"good", "after"}
    assert record.measurements["good"].value == 2.0, "the first measurement of a name stays"
    assert record.measurements["after"] == alone.measurements["after"], "random numbers do not depend on other metrics"
    assert set(record.files) == {"a.png"}
    assert record.completed == record.metrics == ("mine:good", "mine:picture", "mine:after")


def test_every_failure_is_named(performed: Callable[..., Record], tmp_path: Path) -> None:
    record = performed("zero", "good", "diverged", "bare")
    assert record.status == "diverged", "other failures may follow from divergence"
    assert [part.split(":")[1] for part in record.error.split("; ")[:3]] == ["zero", "diverged", "bare"]
    text = (tmp_path / "work" / record.id / "error.txt").read_text()
    assert "ZeroDivisionError" in text
    assert "the likelihood is nan" in text


def test_a_metric_that_does_not_apply_is_recorded_and_named_once_at_the_end(
    performed: Callable[..., Record],
) -> None:
    record = performed("none", "good", "picture")
    assert (record.status, record.not_applicable) == ("ok", ("mine:none",))
    assert performed("good").not_applicable == ()
    other = record.model_copy(update={"run": record.run.model_copy(update={"name": "Other", "seed": 1})})
    again = record.model_copy(update={"run": record.run.model_copy(update={"seed": 2})})
    with Lines(file := StringIO()) as progress:
        for one in (record, other, again):
            progress.expect([one.run])
            progress.start(one.run, one.run)
            progress.finish(one)
    assert [text for text in file.getvalue().splitlines() if "apply" in text] == [
        f"mine:none does not apply to {record.run.name}, Other"
    ]


def test_only_the_failed_metric_is_missing_and_both_executions_are_read(
    performed: Callable[..., Record], tmp_path: Path
) -> None:
    store, first = Store(tmp_path), performed("good", "zero", "none")
    store.write(first)
    assert first.metrics == ("mine:good", "mine:none")
    second = performed("after")
    assert second.id == first.id
    store.write(second)
    values = {(each.measurement, each.status): each.value for each in lines(by_run(store.records("s")))}
    assert values[("good", "ok")] == 2.0
    assert values[("after", "ok")] == second.measurements["after"].value


@pytest.mark.parametrize(
    ("metrics", "problem"),
    [
        (
            ["likelihood", "likelihood:L16"],
            "metrics.1: 'likelihood:L16' measures 'nats', as 'likelihood' does",
        ),
        (["ais:quick", "parameters", "ais"], "metrics.2: 'ais' measures 'ais_nats', as 'ais:quick' does"),
    ],
)
def test_two_metrics_with_the_same_measurements_are_rejected(metrics: list[str], problem: str) -> None:
    model = {"A": "flows.linear:Linear"}
    suite = checked(SuiteFile, {"suite": "s", "data": ["digits"], "metrics": metrics, "models": model})
    with pytest.raises(UsageError, match=problem):
        suite.runs()


# ----------------------------------------------------------------------------------------------------- likelihoods

NORMAL = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
POINTS = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
ENTROPY = NORMAL.entropy().item()


def truth(n: int = 2000, **changes: Any) -> Dataset:
    data = Dataset(Space((2,)), POINTS, POINTS, POINTS[:n], log_prob=NORMAL.log_prob, entropy=ENTROPY)
    return replace(data, **changes)


def bits(n: int = 50) -> Dataset:
    x = torch.ones(n, 3, dtype=torch.uint8)
    return Dataset(Space((3,), 2), x, x, x)


class Shifted(Model):
    """log p of N(0, I) plus `extra` for reals, and `extra` alone for integers."""

    def __init__(self, space: Space, extra: float | Tensor, kind: Any = "exact") -> None:
        super().__init__(space)
        self.extra, self.likelihood = extra, kind

    def log_prob(self, x: Tensor) -> Tensor:
        base = NORMAL.log_prob(x) if self.space.levels is None else torch.zeros(len(x))
        return base + self.extra


def verdicts(data: Dataset, extra: float | Tensor, kind: Any = "exact") -> set[str | None]:
    run = Run(suite="s", name="n", model="m", data="d")
    measurements = likelihood.measure(Evaluation(Shifted(data.space, extra, kind), data, run))
    assert set(measurements) == {"nats"} | (
        {"bpd"} if data.space.levels else {"excess_nats"} if data.log_prob else set()
    )
    return {measurement.verdict for measurement in measurements.values()}


@pytest.mark.parametrize("kind", ["exact", "bound", "estimate"])
def test_a_density_above_the_truth_is_invalid_and_the_truth_is_valid(kind: Any) -> None:
    assert verdicts(truth(), 0.0, kind) == verdicts(truth(), -0.1, kind) == {None}
    assert verdicts(truth(), 0.05, kind) == verdicts(truth(8), 4.0, kind) == {"invalid"}
    assert verdicts(truth(2), 4.0, kind) == {None}, "two points may be lucky"


def test_a_density_may_beat_the_truth_by_chance() -> None:
    """With the mean fitted to the points it does, by half a nat per dimension in total."""
    for n in (1, 2, 3, 10, 100):
        x = POINTS[:n]
        gain = NORMAL.log_prob(x - x.mean(0)) - NORMAL.log_prob(x)
        assert not is_impossible(NORMAL.log_prob(x) + gain, "exact", truth(n), NORMAL.log_prob(x))
    lucky = torch.full((20,), math.log(1 / 0.9))  # of a model without mass where a tenth of the data lie
    assert not is_impossible(NORMAL.log_prob(POINTS[:20]) + lucky, "exact", truth(20), NORMAL.log_prob(POINTS[:20]))


def test_one_point_far_above_the_truth_is_invalid_though_the_mean_is_within_its_error() -> None:
    spike = torch.zeros(2000)
    spike[7] = 60.0
    assert spike.mean() < 2 * spike.std() / 2000**0.5
    assert verdicts(truth(), spike) == {"invalid"}


def test_if_only_the_entropy_is_known_the_mean_must_not_be_far_below_it() -> None:
    known = truth(log_prob=None)
    assert verdicts(known, 0.0) == verdicts(known, 0.05) == {None}
    assert verdicts(known, 4.0) == {"invalid"}
    assert verdicts(truth(1, log_prob=None), 4.0) == {None}
    assert verdicts(truth(log_prob=None, entropy=None), 400.0) == {None}, "nothing is known"


@pytest.mark.parametrize("kind", ["exact", "bound", "estimate"])
def test_probabilities_of_integers_are_at_most_1(kind: Any) -> None:
    assert verdicts(bits(), 0.0, kind) == verdicts(bits(), -2.0, kind) == {None}
    assert verdicts(bits(), 1e-3, kind) == {None}, "within rounding"
    assert verdicts(bits(), 1.0, kind) == {"invalid"}


def test_a_single_exact_probability_above_1_is_invalid_and_a_single_bound_is_not() -> None:
    one = torch.full((50,), -5.0)
    one[3] = 0.5
    assert verdicts(bits(), one, "exact") == {"invalid"}
    assert verdicts(bits(), one, "bound") == {None}


# ------------------------------------------------------------------------------------------------- a few points

FEW = ("diversity", "divergences", "fidelity", "likelihood", "latents", "memorisation", "modes", "samples")
CODES = ("representation:linear_probe", "representation:clustering", "anomalies", "restoration:denoising")


@pytest.mark.parametrize("sizes", [(2, 1, 1), (2, 2, 2), (8, 3, 8)])
@pytest.mark.parametrize("model", ["flows.linear:Linear", "vaes.vae:VAE"])
def test_metrics_handle_a_few_points(sizes: tuple[int, int, int], model: str) -> None:
    """Each returns finite numbers, or none if it does not apply."""
    plane, generator = model.startswith("flows"), torch.Generator().manual_seed(0)
    if plane:
        splits = [POINTS[:n] for n in sizes]
        data = Dataset(Space((2,)), *splits, log_prob=NORMAL.log_prob, modes=Modes(torch.eye(2), 0.5))
    else:
        splits = [torch.randint(0, 2, (n, 1, 8, 8), generator=generator, dtype=torch.uint8) for n in sizes]
        data = Dataset(Space((1, 8, 8), 2), *splits, labels=tuple(torch.arange(n) % 2 for n in sizes))
    run = Run(suite="s", name="n", model=model, data="few", metrics=("likelihood",))
    evaluation = Evaluation(find("models", model)(data.space).eval(), data, run)
    for name in (*FEW, *CODES) if plane or sizes[0] < 8 else [n for n in (*FEW, *CODES) if n != "fidelity"]:
        reseed(0, name)
        check_measurements(find("metrics", name).measure(evaluation))


def test_uninformative_codes_predict_the_most_frequent_label() -> None:
    y, y_test = torch.tensor([1, 1, 0]), torch.tensor([1, 0, 1, 1])
    assert probe(torch.ones(3, 2), y, torch.ones(4, 2), y_test).value == 0.75
    assert probe(torch.randn(3, 2), torch.ones(3), torch.randn(4, 2), y_test).value == 0.75
