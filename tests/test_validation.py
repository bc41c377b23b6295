"""Validation: valid data sets and models pass unchanged, and others are rejected in one line that names the problem."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genbench.dataset import Dataset, Modes, Space
from genbench.errors import UsageError
from genbench.evaluation import Evaluation
from genbench.model import MakeOptimizer, Model, OptimizedLoss
from genbench.records.record import Record
from genbench.registry import names
from genbench.runner.worker import perform
from genbench.suite import Run
from genbench.validation.datasets import InvalidData, check_dataset, check_density, load_dataset
from genbench.validation.models import InvalidModel

X = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
GRAY = torch.randint(0, 17, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
BINARY = torch.randint(0, 2, (40, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
NAN, INF = math.nan, math.inf


def reals(x: Any = X, **changes: Any) -> Dataset:
    return replace(Dataset(Space((2,)), x, X[:5], X[:9]), **changes)


def gray(x: Any = GRAY, levels: Any = 17, **changes: Any) -> Dataset:
    return replace(Dataset(Space((1, 8, 8), levels), x, GRAY[:5], GRAY[:9]), **changes)


def binary(**changes: Any) -> Dataset:
    return replace(Dataset(Space((3,), 2), BINARY, BINARY[:5], BINARY[:9]), **changes)


def with_value(x: Tensor, value: float, dtype: torch.dtype | None = None) -> Tensor:
    x = x.to(dtype or x.dtype).clone()
    x.view(-1)[7] = value
    return x


LABELS = (torch.arange(40) % 3, torch.zeros(5, dtype=torch.long), torch.ones(9, dtype=torch.long))

# ------------------------------------------------------------------------------------------------------- data sets

INVALID: dict[str, tuple[Any, str]] = {
    "not a data set": ([X, X, X], "its loader returned a value of type list, not a Dataset"),
    "nothing": (None, "its loader returned None"),
    "no space": (reals(space=(2,)), "space is a value of type tuple, not a Space"),
    "a shape that is a list": (reals(space=Space([2])), r"space.shape is \[2\]; expected a tuple"),
    "no dimensions": (reals(space=Space(())), "space.shape is"),
    "a size of zero": (reals(space=Space((2, 0))), "space.shape is"),
    "one level": (binary(space=Space((3,), 1)), "space.levels is 1; expected an integer of at least 2"),
    "no level": (binary(space=Space((3,), 0)), "space.levels is 0"),
    "levels that are no integer": (binary(space=Space((3,), 2.0)), r"space.levels is 2\.0"),
    "levels that are true": (binary(space=Space((3,), True)), "space.levels is True"),
    "arrays of NumPy": (reals(X.numpy()), "split train is a value of type ndarray; expected a torch.Tensor; torch"),
    "sparse": (reals(X.to_sparse()), "split train is torch.sparse_coo on cpu"),
    "on a device": (reals(X.to("meta")), "split train is torch.strided on meta"),
    "another shape": (reals(torch.cat((X, X), 1)), r"split train has shape \(40, 4\); expected \(N, 2\)"),
    "another shape of a later split": (gray(test=GRAY[:9, 0]), r"split test has shape \(9, 8, 8\); expected \(N, 1"),
    "a number": (reals(torch.tensor(3.0)), r"split train has shape \(\)"),
    "no training points": (reals(X[:0]), "split train is empty"),
    "no validation points": (reals(validation=X[:0]), "split validation is empty"),
    "no test points": (gray(test=GRAY[:0]), "split test is empty"),
    "integers for reals": (reals(X.long()), "split train is int64, but its space is of reals"),
    "complex": (reals(X.to(torch.complex64)), "split train is complex64"),
    "NaN": (reals(with_value(X, NAN)), r"split train has 1 values that are not finite, the first nan at point 3"),
    "infinity": (reals(validation=with_value(X[:5], -INF)), "split validation has 1 values that are not finite"),
    "beyond float32": (reals(test=with_value(X[:9], 1e300, torch.float64)), "split test .* not finite, the first inf"),
    "floats of levels": (gray(GRAY / 16), "split train is float32, but its space declares 17 levels; convert"),
    "whole floats of levels": (gray(validation=GRAY[:5].float()), "split validation is float32, but"),
    "above the levels": (gray(with_value(GRAY, 17)), "split train holds 17, but its space declares 17 levels"),
    "above the levels, test": (gray(test=with_value(GRAY[:9], 255)), "split test holds 255"),
    "below 0": (gray(with_value(GRAY, -1, torch.int64)), "split train holds -1"),
    "labels of one split": (gray(labels=LABELS[0]), r"labels are a tensor of int64.*expected \(train, valid"),
    "two labels": (gray(labels=LABELS[:2]), "labels are a value of type tuple"),
    "labels too few": (gray(labels=(LABELS[0][:-1], *LABELS[1:])), r"labels of split train have shape \(39,\)"),
    "labels one-hot": (gray(labels=(*LABELS[:2], torch.eye(9))), r"labels of split test have shape \(9, 9\)"),
    "labels of floats": (gray(labels=(LABELS[0], LABELS[1].float(), LABELS[2])), "labels of split validation are"),
    "labels below 0": (gray(labels=(LABELS[0] - 1, *LABELS[1:])), "labels of split train hold -1"),
    "labels in a list": (gray(labels=([1] * 40, *LABELS[1:])), "labels of split train is a value of type list"),
    "probs above 1": (binary(bernoulli_probs=BINARY * 1.5), "bernoulli_probs hold 1.5; expected probabilities"),
    "probs below 0": (binary(bernoulli_probs=BINARY - 0.5), "bernoulli_probs hold -0.5"),
    "probs NaN": (
        binary(bernoulli_probs=with_value(BINARY, NAN, torch.float32)),
        "bernoulli_probs has 1 values that are not finite",
    ),
    "probs of another shape": (binary(bernoulli_probs=torch.rand(39, 3)), r"bernoulli_probs have shape \(39, 3\)"),
    "probs of more levels": (gray(bernoulli_probs=GRAY / 16), "bernoulli_probs are of binary data, but levels=17"),
    "probs of reals": (reals(bernoulli_probs=X.sigmoid()), "bernoulli_probs are of binary data, but levels=None"),
    "a truth that is a number": (reals(log_prob=-1.0), "log_prob is a value of type float"),
    "a truth per dimension": (reals(log_prob=lambda x: -(x**2)), r"its log_prob returned a tensor of float32 and"),
    "a truth per batch": (reals(log_prob=lambda x: -(x**2).sum()), r"its log_prob returned a tensor of float32 and"),
    "a truth of integers": (reals(log_prob=lambda x: x[:, 0].long()), "its log_prob returned a tensor of int64"),
    "a truth that is NaN": (reals(log_prob=lambda x: x[:, 0] * NAN), "its log_prob is nan at point 0 of split test"),
    "a truth that fails": (reals(log_prob=lambda x: x[:, 5]), "its log_prob failed with IndexError"),
    "an entropy that is NaN": (reals(entropy=NAN), "entropy is nan"),
    "an entropy that is a tensor": (reals(entropy=torch.tensor(1.0)), "entropy is tensor"),
    "modes of another shape": (reals(modes=Modes(torch.zeros(3, 5), 1.0)), r"modes.centers have shape \(3, 5\)"),
    "modes without width": (reals(modes=Modes(torch.zeros(3, 2), 0.0)), r"modes.sigma is 0\.0"),
}  # fmt: skip


@pytest.mark.parametrize("case", INVALID)
def test_invalid_data_are_rejected_with_their_name_and_the_problem(case: str) -> None:
    data, problem = INVALID[case]
    with pytest.raises(InvalidData, match=problem) as error:
        check_dataset("mine:set", data)
    assert str(error.value).startswith("data mine:set: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_reals_of_other_precision_become_float32(dtype: torch.dtype) -> None:
    data = check_dataset("d", reals(X.to(dtype)))
    assert data.train.dtype == data.validation.dtype == torch.float32
    assert torch.equal(data.train, X.to(dtype).float())
    assert data.sha256 == check_dataset("d", reals(X.to(dtype).float())).sha256


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16])
def test_integers_of_any_type_are_accepted(dtype: torch.dtype) -> None:
    data = check_dataset("d", gray(GRAY.to(dtype)))
    assert torch.equal(data.train.long(), GRAY.long())
    assert data.train.dtype == data.validation.dtype == data.test.dtype, "splits can be joined"
    truths = check_dataset("d", binary(train=BINARY.bool()))
    assert torch.equal(truths.train, BINARY)


def test_valid_data_are_returned_unchanged() -> None:
    truth = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
    for data in (
        reals(log_prob=truth.log_prob, entropy=1.0, modes=Modes(torch.zeros(1, 2), 1.0)),
        gray(labels=LABELS),
        binary(bernoulli_probs=BINARY * 0.5),
        Dataset(Space((2,)), X[:1], X[:1], X[:1]),
    ):
        assert check_dataset("d", data) is data
    labels = check_dataset("d", gray(labels=[y.to(torch.int32) for y in LABELS])).labels
    assert all(torch.equal(y, z) and y.dtype == torch.int64 for y, z in zip(labels, LABELS, strict=True))
    assert not check_dataset("d", reals(X.clone().requires_grad_())).train.requires_grad


@pytest.mark.parametrize("name", [name for name in names("datasets") if not name.startswith(("vision", "tabular"))])
def test_every_registered_data_set_passes_unchanged(name: str) -> None:
    data = load_dataset(name)
    assert check_dataset(name, data) is data
    check_density(name, data)


def test_constant_integers_are_valid_and_a_constant_column_of_reals_has_no_density() -> None:
    blank = gray(torch.zeros_like(GRAY))
    assert check_dataset("d", blank) is blank
    check_density("d", blank)
    flat = reals(torch.stack((X[:, 0], torch.full((40,), 0.5)), 1))
    assert check_dataset("d", flat) is flat, "models without a likelihood can use it"
    with pytest.raises(InvalidData, match=r"data d: split train is constant in column 1 \(always 0.5\)"):
        check_density("d", flat)


def loader_of(value: Any) -> Callable[[], Any]:
    def load() -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    return load


@pytest.mark.parametrize(
    ("loader", "error", "problem"),
    [
        (loader_of(KeyError("images")), InvalidData, "data mine:x: its loader failed with KeyError: 'images'"),
        (loader_of(OSError("no route")), InvalidData, "data mine:x: its loader failed with OSError: no route"),
        (loader_of(UsageError("put it in data/")), UsageError, "put it in data/"),
        (loader_of(MemoryError("full")), MemoryError, "full"),
        (lambda path: path, InvalidData, "data mine:x: its loader failed with TypeError"),
        (reals(), InvalidData, "data mine:x: expected a function that returns a Dataset, got a value of type Dataset"),
    ],
)
def test_a_loader_that_fails_is_named(monkeypatch: Any, loader: Any, error: type, problem: str) -> None:
    monkeypatch.setattr("genbench.validation.datasets.find", lambda *_: loader)
    with pytest.raises(error, match=problem):
        load_dataset("mine:x")


# ---------------------------------------------------------------------------------------------------------- models


class Normal(Model):
    """N(mu, I)."""

    likelihood = "exact"

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        self.mu = nn.Parameter(torch.zeros(space.shape))

    def log_prob(self, x: Tensor) -> Tensor:
        return (-0.5 * (x - self.mu) ** 2 - 0.5 * math.log(2 * math.pi)).sum(1)

    def sample(self, n: int) -> Tensor:
        return self.mu + torch.randn(n, 2)


def with_method(method: str, value: Callable[[Tensor], Any], base: type[Model] = Normal) -> type[Model]:
    """Return a model class of which one method returns `value` of its correct result."""
    original = getattr(base, method)
    return type("Mine", (base,), {method: lambda self, *args: value(original(self, *args))})


def record_of(tmp_path: Path, monkeypatch: Any, model: Any, data: Dataset | None = None, **changes: Any) -> Record:
    """Return the record of a run of `model` on `data`."""
    plugin = ModuleType("mine")
    vars(plugin).update(m=model, d=loader_of(data or reals()))
    monkeypatch.setitem(sys.modules, "mine", plugin)
    base = {"suite": "s", "name": "n", "model": "mine:m", "data": "mine:d", "steps": 4, "batch": 8, "checks": 2}
    return perform(Run(**(base | {"metrics": ("likelihood",)} | changes)), work=str(tmp_path))


class SeparateLoss(Normal):
    """A model whose loss does not use its log_prob."""

    def loss(self, x: Tensor) -> Tensor:
        return -Normal.log_prob(self, x).mean()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (lambda y: y[:, None].expand(-1, 2), "a tensor of shape (9, 2) for 9 points; expected (9,)"),
        (lambda y: y[:, None], "a tensor of shape (9, 1) for 9 points; expected (9,)"),
        (lambda y: y.mean(), "a tensor of shape () for 9 points; expected (9,)"),
        (lambda y: y[:-1], "a tensor of shape (8,) for 9 points; expected (9,)"),
        (lambda y: y.long(), "int64; expected floating point"),
        (lambda y: y.to(torch.complex64), "complex64; expected floating point"),
        (lambda y: y.to("meta"), "a tensor on meta; expected one on cpu"),
        (lambda y: y.detach().numpy(), "a value of type ndarray; expected a tensor"),
        (lambda y: y.mean().item(), "a value of type float; expected a tensor"),
        (lambda y: None, "None; expected a tensor"),
        (lambda y: (y, y), "a value of type tuple; expected a tensor"),
    ],
)
def test_an_invalid_log_prob_is_an_error(
    tmp_path: Path, monkeypatch: Any, value: Callable[[Tensor], Any], problem: str
) -> None:
    """At the first check during training, and where a metric uses it first."""
    model, data = with_method("log_prob", value, SeparateLoss), reals(validation=X[:9])
    for steps in (0, 4):
        record = record_of(tmp_path / str(steps), monkeypatch, model, data, steps=steps)
        assert record.status == "error"
        assert f"InvalidModel: Mine.log_prob returned {problem}" in record.error


@pytest.mark.parametrize("steps", [0, 4])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_likelihood_that_is_not_finite_means_diverged(
    tmp_path: Path, monkeypatch: Any, value: float, steps: int
) -> None:
    record = record_of(tmp_path, monkeypatch, with_method("log_prob", lambda y: y + value, SeparateLoss), steps=steps)
    assert record.status == "diverged"
    assert record.selected_step == steps, "the last weights, since no score was finite"
    assert record.weights == (None if steps == 0 else "last")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (lambda y: y.expand(3), "a tensor of shape (3,); expected a scalar"),
        (lambda y: y.view(1), "a tensor of shape (1,); expected a scalar"),
        (lambda y: y.item(), "a value of type float; expected a tensor"),
        (lambda y: None, "None; expected a tensor"),
        (lambda y: y.detach(), "a loss without a gradient"),
        (lambda y: y + 1j, "complex64; expected floating point"),
    ],
)
def test_an_invalid_loss_is_an_error(
    tmp_path: Path, monkeypatch: Any, value: Callable[[Tensor], Any], problem: str
) -> None:
    record = record_of(tmp_path, monkeypatch, with_method("loss", value))
    assert record.status == "error"
    assert record.error.startswith(f"InvalidModel: Mine.loss returned {problem}")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (lambda x: x[:-1], "Mine.sample(1000) returned a tensor of shape (999, 2); expected (1000, 2)"),
        (lambda x: x[0], "Mine.sample(1000) returned a tensor of shape (2,); expected (1000, 2)"),
        (lambda x: x[..., None], "Mine.sample(1000) returned a tensor of shape (1000, 2, 1)"),
        (lambda x: x.round().long(), "Mine.sample returned a tensor that is int64, but its space is of reals"),
        (lambda x: x + math.nan, "Mine.sample returned a tensor that has 2000 values that are not finite"),
        (lambda x: x / 0, "that are not finite"),
        (lambda x: x.tolist(), "Mine.sample returned a value of type list; expected a tensor"),
    ],
)
def test_invalid_samples_are_an_error(value: Callable[[Tensor], Any], problem: str) -> None:
    model = with_method("sample", value)(Space((2,)))
    with pytest.raises(InvalidModel) as error:
        Evaluation(model, reals(), Run(suite="s", name="n", model="m", data="d")).sampled(10)
    assert problem in str(error.value)


class Bits(Model):
    """A model with given samples."""

    def __init__(self, space: Space, x: Tensor) -> None:
        super().__init__(space)
        self.x = x

    def sample(self, n: int) -> Tensor:
        return self.x.expand(n, -1)


@pytest.mark.parametrize(
    ("x", "problem"),
    [
        (torch.tensor([0, 1, 2]), "holds 2, but its space declares 2 levels: integers 0..1"),
        (torch.tensor([0, -1, 1]), "holds -1, but"),
        (torch.tensor([0.0, 1.0, 1.0]), "is float32, but its space declares 2 levels; convert to integers 0..1"),
    ],
)
def test_samples_outside_the_levels_are_an_error(x: Tensor, problem: str) -> None:
    with pytest.raises(InvalidModel) as error:
        evaluation_of(x).sampled(10)
    assert f"Bits.sample returned a tensor that {problem}" in str(error.value)


def evaluation_of(x: Tensor) -> Evaluation:
    return Evaluation(Bits(Space((3,), 2), x), binary(), Run(suite="s", name="n", model="m", data="d"))


def test_samples_have_the_type_of_the_data() -> None:
    for x in (torch.tensor([0, 1, 1]), torch.tensor([False, True, True])):
        samples = evaluation_of(x).sampled(10)
        assert samples.dtype == torch.uint8
        assert torch.equal(samples, x.byte().expand(10, 3))
    double = with_method("sample", Tensor.double)(Space((2,)))
    assert Evaluation(double, reals(), Run(suite="s", name="n", model="m", data="d")).samples.dtype == torch.float32


def test_log_weights_have_one_row_per_draw() -> None:
    evaluation = Evaluation(
        with_method("log_prob", lambda y: y)(Space((2,))), reals(), evaluation_of(torch.zeros(3)).run
    )
    assert evaluation.log_weights_of(X, 5).shape == (1, 40)
    for wrong in (lambda y: y.T, lambda y: y[0], lambda y: y.expand(6, -1), lambda y: y[:0]):
        evaluation.model = with_method("log_weights", wrong)(Space((2,)))
        with pytest.raises(InvalidModel, match=r"Mine.log_weights returned a tensor of .* for 5 draws of 40 points"):
            evaluation.log_weights_of(X, 5)


class Undefined(Normal):
    """A model without the methods that it claims to have."""

    log_prob = Model.log_prob
    sample = Model.sample

    def loss(self, x: Tensor) -> Tensor:
        return (x - self.mu).square().mean()


def test_missing_methods_are_named(tmp_path: Path, monkeypatch: Any) -> None:
    record = record_of(tmp_path / "a", monkeypatch, Undefined)
    assert record.error.endswith("Undefined has no likelihood; define log_prob, or set likelihood = None")
    without_likelihood = type("WithoutLikelihood", (Undefined,), {"likelihood": None})
    record = record_of(tmp_path / "b", monkeypatch, without_likelihood, metrics=("diversity",))
    assert record.error.endswith("WithoutLikelihood has no samples; define sample, or set generative = False")


def test_what_is_not_a_model_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    record = record_of(tmp_path, monkeypatch, lambda space: nn.Linear(2, 2))
    assert record.error == "InvalidModel: model mine:m: expected a genbench.model.Model, got a value of type Linear"
    record = record_of(tmp_path, monkeypatch, type("Mine", (Normal,), {"likelihood": "lower"}))
    assert record.error.startswith("InvalidModel: model mine:m: likelihood is 'lower'; expected 'exact', 'bound'")


def test_invalid_data_are_an_error_for_every_model_and_never_diverged(tmp_path: Path, monkeypatch: Any) -> None:
    record = record_of(tmp_path, monkeypatch, Normal, reals(with_value(X, NAN)))
    assert record.status == "error"
    assert record.error.startswith("InvalidData: data mine:d: split train has 1 values that are not finite")
    flat = reals(torch.zeros(40, 2))
    assert "constant" in record_of(tmp_path, monkeypatch, Normal, flat).error
    without_likelihood = type("WithoutLikelihood", (Normal,), {"likelihood": None, "loss": Undefined.loss})
    assert record_of(tmp_path, monkeypatch, without_likelihood, flat, metrics=("parameters",)).status == "ok"


# ------------------------------------------------------------------------------------------------------ parameters


def parameter_changes(tmp_path: Path, model: Model, **changes: Any) -> dict[str, Tensor]:
    """Return by how much training changes each parameter of `model`."""
    from genbench.records.artifacts import Work
    from genbench.train import train

    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    base = {"suite": "s", "name": "n", "model": "m", "data": "d", "steps": 4, "batch": 8, "checks": 2}
    train(model, reals(), Run(**(base | {"selection": "last"} | changes)), Work(tmp_path), code="c")
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


class WithUnused(Normal):
    """N(mu + shift, I), and a parameter that no loss uses."""

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        self.shift, self.idle = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))

    def log_prob(self, x: Tensor) -> Tensor:
        return super().log_prob(x - self.shift)


def test_frozen_and_unused_parameters_do_not_change(tmp_path: Path) -> None:
    model = WithUnused(Space((2,)))
    model.shift.requires_grad_(False)
    by = parameter_changes(tmp_path, model, optimizer={"weight_decay": 0.1, "name": "adamw"})
    assert by["mu"].abs().min() > 0
    assert by["shift"].abs().max() == by["idle"].abs().max() == 0


def test_a_model_without_trainable_parameters_is_measured_as_it_is(tmp_path: Path, monkeypatch: Any) -> None:
    class Fixed(Normal):
        def __init__(self, space: Space) -> None:
            super().__init__(space)
            self.mu.requires_grad_(False)

    class Bare(Fixed):
        def __init__(self, space: Space) -> None:
            super().__init__(space)
            del self.mu
            self.mu = torch.zeros(2)

    records = [record_of(tmp_path / m.__name__, monkeypatch, m) for m in (Fixed, Bare)]
    expected = (0.5 * X[:9].square().sum(1) + math.log(2 * math.pi)).mean().item()
    for record in records:
        assert record.status == "ok"
        assert record.measurements["nats"].value == pytest.approx(expected, rel=1e-6)
        assert [(point.step, point.loss) for point in record.curve] == [(2, None), (4, None)]


def test_lazy_parameters_are_initialized_before_training(tmp_path: Path, monkeypatch: Any) -> None:
    class Lazy(Normal):
        def __init__(self, space: Space) -> None:
            super().__init__(space)
            self.net = nn.LazyLinear(2)

        def log_prob(self, x: Tensor) -> Tensor:
            return super().log_prob(x + self.net(x).mul(0) + self.net.bias)

    first = record_of(tmp_path, monkeypatch, Lazy)
    again = record_of(tmp_path, monkeypatch, Lazy)  # loaded
    assert first.status == again.status == "ok"
    assert first.measurements == again.measurements

    class Never(Normal):
        def __init__(self, space: Space) -> None:
            super().__init__(space)
            self.net = nn.LazyLinear(2)

    record = record_of(tmp_path / "b", monkeypatch, Never)
    assert record.error.startswith("InvalidModel: Never leaves net.weight, net.bias without a shape after a first loss")


@pytest.mark.parametrize("when", ["loss", "fit_closed_form"])
@pytest.mark.parametrize("kind", ["parameter", "buffer", "replaced"])
def test_state_added_after_construction_is_rejected(tmp_path: Path, monkeypatch: Any, when: str, kind: str) -> None:
    calls: list[int] = []

    def extend(self: Model, x: Tensor) -> None:
        calls.append(len(x))
        if kind == "buffer":
            self.register_buffer("late", torch.zeros(2))
        elif not hasattr(self, "late"):
            self.late = nn.Parameter(torch.zeros(2))
            self.mu = nn.Parameter(torch.zeros(2)) if kind == "replaced" else self.mu

    def loss(self: Model, x: Tensor) -> Tensor:
        extend(self, x)
        return -self.log_prob(x).mean()

    record = record_of(tmp_path, monkeypatch, type("Mine", (Normal,), {when: loss if when == "loss" else extend}))
    named = "'late', 'mu'" if kind == "replaced" else "'late'"
    assert record.error.startswith(f"InvalidModel: Mine added or replaced {named} after it was built")
    assert len(calls) == 1, "after the first step, not at the end of training"


@pytest.mark.parametrize("kind", ["tensor", "number", "list", "buffer"])
@pytest.mark.parametrize("likelihood", ["exact", None])
def test_state_lost_when_saved_is_rejected(tmp_path: Path, monkeypatch: Any, kind: str, likelihood: str | None) -> None:
    class Shifted(Normal):
        def __init__(self, space: Space) -> None:
            super().__init__(space)
            self.register_buffer("mean_of_data", torch.zeros(2))
            self.shift: Any = 0.0

        def fit_closed_form(self, x: Tensor) -> None:
            mean = x.mean(0) + 3
            if kind == "buffer":
                self.mean_of_data.copy_(mean)
            else:
                self.shift = {"tensor": mean, "number": mean[0].item(), "list": [mean]}[kind]

        def center(self) -> Tensor:
            return self.mean_of_data + (self.shift[0] if isinstance(self.shift, list) else self.shift)

        def log_prob(self, x: Tensor) -> Tensor:
            assert likelihood, "of a model without a likelihood, samples are compared"
            return super().log_prob(x - self.center())

        def loss(self, x: Tensor) -> Tensor:
            return (x - self.mu).square().mean()

        def sample(self, n: int) -> Tensor:
            return super().sample(n) + (0 if likelihood else self.center())

    Shifted.likelihood = likelihood
    record = record_of(tmp_path, monkeypatch, Shifted, metrics=("diversity",))
    assert record.status == ("ok" if kind == "buffer" else "error")
    if kind != "buffer":
        assert record.error.startswith("InvalidModel: Shifted has state outside its state dict and is lost when saved")
        assert not list(tmp_path.glob("*/model.pt")), "it is not saved"


def with_optimizers(make: Callable[[Normal, MakeOptimizer], Any]) -> Normal:
    return type("Mine", (Normal,), {"configure_optimizers": make})(Space((2,)))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda self, make: None, "Mine.configure_optimizers returned None; expected a list"),
        (lambda self, make: [make([self.mu])], "Mine.configure_optimizers returned a value of type Adam; expected"),
        (
            lambda self, make: [(OptimizedLoss(self.loss, make([self.mu])), 3)],
            "Mine.configure_optimizers returned a value of type int",
        ),
        (
            lambda self, make: [OptimizedLoss(self.loss, make([]))],
            "Mine.configure_optimizers creates an optimizer without parameters",
        ),
        (lambda self, make: [OptimizedLoss(lambda x: None, make([self.mu]))], "Mine.loss returned None"),
    ],
)
def test_invalid_losses_are_rejected(tmp_path: Path, make: Callable[..., Any], problem: str) -> None:
    with pytest.raises(InvalidModel, match=problem):
        parameter_changes(tmp_path, with_optimizers(make))


def test_losses_that_share_a_parameter_each_update_it_with_their_own_gradient(tmp_path: Path) -> None:
    """d/dmu of 3 sum(mu) and of sum(mu): one SGD step for each, in turn or simultaneously."""

    def losses(self: Normal, make: MakeOptimizer, simultaneous: bool) -> list[Any]:
        pair = [OptimizedLoss(lambda x, w=w: w * self.mu.sum(), make([self.mu])) for w in (3.0, 1.0)]
        return [tuple(pair)] if simultaneous else pair

    for simultaneous in (False, True):
        model = with_optimizers(lambda self, make, simultaneous=simultaneous: losses(self, make, simultaneous))
        by = parameter_changes(tmp_path / str(simultaneous), model, steps=1, optimizer={"name": "sgd", "lr": 0.1})
        torch.testing.assert_close(by["mu"], torch.full((2,), -0.4))
