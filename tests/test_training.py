"""What a training does, step by step, next to closed forms: draws, averages, decay, clipping, warm-up, selection."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genbench.dataset import Dataset, Space
from genbench.model import Diverged, MakeOptimizer, Model, OptimizedLoss
from genbench.records.artifacts import Work
from genbench.suite import Optimizer, Run
from genbench.train import RULES, TrainState, make_optimizer, rate, train

X = torch.arange(40.0).unsqueeze(1)
DATA = Dataset(Space((1,)), X, X[:10], X[10:20])


class Sliding(Model):
    """theta slides down by the learning rate at each step of SGD; log p = -theta, and noise if it is to be noisy.

    Attributes:
        drawn: a draw of each call of the loss; seen: theta and its batch there; scored: theta in each log_prob.
    """

    likelihood = "exact"

    def __init__(self, space: Space, *, slope: float = 1.0, noisy: bool = False) -> None:
        super().__init__(space)
        self.theta = nn.Parameter(torch.tensor(0.0, dtype=torch.float64))
        self.slope, self.noisy = slope, noisy
        self.drawn, self.scored = list[float](), list[float]()
        self.seen, self.batches = list[float](), list[Tensor]()

    def log_prob(self, x: Tensor) -> Tensor:
        self.scored.append(self.theta.item())
        noise = torch.randn(len(x)) if self.noisy else torch.zeros(len(x))
        return noise - self.theta

    def loss(self, x: Tensor) -> Tensor:
        self.drawn.append(torch.randn(()).item())
        self.seen.append(self.theta.item())
        self.batches.append(x)
        return self.slope * self.theta


def trained(folder: Path, model: Model, **changes: Any) -> TrainState:
    base = {"suite": "s", "name": "n", "model": "m", "data": "d", "steps": 20, "batch": 7, "checks": 4}
    settings = {"optimizer": {"name": "sgd", "lr": 0.1}} | changes
    return train(model, DATA, Run(**(base | settings)), Work(folder), code="c")


# ------------------------------------------------------------------------------------------------------- draws


def test_every_step_draws_by_itself_and_the_seed_decides(tmp_path: Path) -> None:
    models = [Sliding(DATA.space) for _ in range(3)]
    for i, (model, seed) in enumerate(zip(models, (0, 0, 1), strict=True)):
        trained(tmp_path / str(i), model, seed=seed)
    first, again, other = (model.drawn for model in models)
    assert len(set(first)) == 20
    assert first == again
    assert not set(first) & set(other)


def test_every_check_has_the_same_noise_and_other_noise_than_training(tmp_path: Path) -> None:
    """So that checks differ by the weights alone: here they do not move."""
    model = Sliding(DATA.space, slope=0.0, noisy=True)
    scores = [point.validation for point in trained(tmp_path, model).curve]
    assert len(scores) == 4
    assert len(set(scores)) == 1
    assert scores[0] != 0
    other = trained(tmp_path / "b", Sliding(DATA.space, slope=0.0, noisy=True), seed=1).curve
    assert other[0].validation != scores[0]


def test_every_batch_of_an_epoch_is_another_part_of_the_training_split(tmp_path: Path) -> None:
    model = Sliding(DATA.space)
    trained(tmp_path, model, batch=10, steps=8)
    for epoch in (model.batches[:4], model.batches[4:]):
        assert sorted(torch.cat(epoch).flatten().tolist()) == X.flatten().tolist()
    assert not torch.equal(model.batches[0], model.batches[4])


# -------------------------------------------------------------------------------------------- scored and selected


def averages(live: list[float], decay: float) -> list[float]:
    """Return the averages after each step of theta, which starts at 0 and is `live` after each."""
    mean, means = 0.0, list[float]()
    for i, theta in enumerate(live):
        d = min(decay, (1 + i) / (10 + i))
        mean = d * mean + (1 - d) * theta
        means.append(mean)
    return means


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.95])
def test_averaged_weights_are_scored_and_selected_and_live_ones_trained(tmp_path: Path, decay: float) -> None:
    """Rising, the first check is the best; falling, the last."""
    for slope, selected in ((1.0, 20), (-1.0, 5)):
        model = Sliding(DATA.space, slope=slope)
        went = trained(tmp_path / str(slope), model, optimizer={"name": "sgd", "lr": 0.1, "ema": decay})
        live = [-0.1 * slope * i for i in range(21)]
        assert model.seen == pytest.approx(live[:20])
        expected = averages(live[1:], decay) if decay else live[1:]
        assert model.scored == pytest.approx([expected[step - 1] for step in (5, 10, 15, 20)])
        assert [point.validation for point in went.curve] == pytest.approx(model.scored)
        assert went.selected_step == selected
        assert model.theta.item() == pytest.approx(expected[selected - 1])


def test_without_a_finite_score_the_last_averaged_weights_are_reported(tmp_path: Path) -> None:
    class Unscored(Sliding):
        def log_prob(self, x: Tensor) -> Tensor:
            return super().log_prob(x) * math.nan

    class Silent(Sliding):
        likelihood = None

    live = [-0.1 * (i + 1) for i in range(20)]
    for kind, selection in ((Unscored, "best"), (Silent, "best"), (Sliding, "last"), (Unscored, "last")):
        model, folder = kind(DATA.space), tmp_path / f"{kind.__name__}{selection}"
        went = trained(folder, model, selection=selection, optimizer={"name": "sgd", "lr": 0.1, "ema": 0.9})
        assert went.selected_step == 20
        assert model.theta.item() == pytest.approx(averages(live, 0.9)[-1])


def test_a_score_that_is_infinitely_good_is_not_selected(tmp_path: Path) -> None:
    class Lucky(Sliding):
        def log_prob(self, x: Tensor) -> Tensor:
            return super().log_prob(x) + (math.inf if len(self.scored) == 1 else 0)

    went = trained(tmp_path, Lucky(DATA.space))
    assert [point.validation is None for point in went.curve] == [True, False, False, False]
    assert went.selected_step == 20


def test_a_point_of_the_curve_has_the_mean_loss_since_the_last(tmp_path: Path) -> None:
    went = trained(tmp_path, model := Sliding(DATA.space))
    for k, point in enumerate(went.curve):
        assert point.step == 5 * (k + 1)
        assert point.loss == pytest.approx(sum(model.seen[5 * k : 5 * k + 5]) / 5)


# ---------------------------------------------------------------------------------------------------- steps


class Pulled(Model):
    """Parameters of two losses, with given gradients."""

    def __init__(self, space: Space, *gradients: list[float], start: float = 0.0, stop: float = 1.0) -> None:
        super().__init__(space)
        self.weights = nn.ParameterList([torch.zeros(len(g)) for g in gradients])
        self.gradients, self.share = [torch.tensor(g) for g in gradients], {"start": start, "stop": stop}
        self.path = list[list[float]]()

    def loss_of(self, which: int) -> Any:
        def loss(x: Tensor) -> Tensor:
            self.path.append(self.weights[which].tolist())
            return self.weights[which] @ self.gradients[which]

        return loss

    def configure_optimizers(self, optimizer: MakeOptimizer) -> list[OptimizedLoss | tuple[OptimizedLoss, ...]]:
        return [OptimizedLoss(self.loss_of(i), optimizer([w]), **self.share) for i, w in enumerate(self.weights)]


class Together(Pulled):
    """All parameters with one loss."""

    def configure_optimizers(self, optimizer: MakeOptimizer) -> list[OptimizedLoss | tuple[OptimizedLoss, ...]]:
        def loss(x: Tensor) -> Tensor:
            return sum((w @ g for w, g in zip(self.weights, self.gradients, strict=True)), torch.zeros(()))

        return [OptimizedLoss(loss, optimizer(list(self.weights)))]


def stepped(folder: Path, model: Pulled, **optimizer: Any) -> list[list[float]]:
    """Return the weights after one step of SGD at rate 1."""
    trained(folder, model, steps=1, checks=1, optimizer={"name": "sgd", "lr": 1.0} | optimizer)
    return [weight.tolist() for weight in model.weights]


def test_the_gradient_of_a_loss_is_clipped_by_its_norm(tmp_path: Path) -> None:
    """Not number by number, nor parameter by parameter, nor over losses; and not if it is short."""
    both = [[3.0], [4.0]]
    assert stepped(tmp_path / "a", Together(DATA.space, *both), clip=1.0) == [
        [pytest.approx(-0.6)],
        [pytest.approx(-0.8)],
    ]
    assert stepped(tmp_path / "b", Pulled(DATA.space, *both), clip=1.0) == [[pytest.approx(-1)], [pytest.approx(-1)]]
    assert stepped(tmp_path / "c", Pulled(DATA.space, [3.0, 4.0]), clip=2.5) == [pytest.approx([-1.5, -2.0])]
    assert stepped(tmp_path / "d", Together(DATA.space, *both), clip=6.0) == [[-3.0], [-4.0]]
    assert stepped(tmp_path / "e", Together(DATA.space, *both)) == [[-3.0], [-4.0]]


@pytest.mark.parametrize("name", sorted(RULES))
def test_weights_decay_towards_zero_as_the_rule_has_it(name: str) -> None:
    """By (1 - lr wd) of AdamW whatever the gradient; of the others the gradient gains wd w, as SGD shows."""
    moved = {}
    for decay in (0.0, 0.5):
        weight = nn.Parameter(torch.tensor([2.0, -2.0]))
        optimizer = make_optimizer(Optimizer(name=name, lr=0.01, weight_decay=decay), [weight])
        for _ in range(3):
            weight.grad = torch.zeros(2)
            optimizer.step()
        moved[decay] = weight.detach()
    assert torch.equal(moved[0.0], torch.tensor([2.0, -2.0]))
    assert moved[0.5][0] == -moved[0.5][1] < 2
    if name in ("sgd", "adamw"):
        assert moved[0.5][0].item() == pytest.approx(2 * (1 - 0.01 * 0.5) ** 3, rel=1e-6)


def test_decay_reaches_the_optimizer_of_a_run(tmp_path: Path) -> None:
    model = Sliding(DATA.space, slope=0.0)
    model.theta.data.fill_(2.0)
    trained(tmp_path, model, selection="last", optimizer={"name": "sgd", "lr": 0.1, "weight_decay": 0.3})
    assert model.theta.item() == pytest.approx(2 * (1 - 0.03) ** 20)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warmup_and_schedule_of_a_late_loss_begin_with_it(tmp_path: Path, schedule: str) -> None:
    """It moves in steps 8 to 15 of 20: its rate is that of step k of 8, k = 0, ..., 7."""
    model = Pulled(DATA.space, [1.0], start=0.4, stop=0.8)
    settings = {"name": "sgd", "lr": 1.0, "warmup": 3, "schedule": schedule}
    trained(tmp_path, model, optimizer=settings)
    rates = [rate(Optimizer(**settings), k / 8, k) for k in range(8)]
    assert rates[:4] == pytest.approx([w * r for w, r in zip((1 / 3, 2 / 3, 1, 1), _plain(schedule), strict=True)])
    assert len(model.path) == 8
    assert [theta for (theta,) in model.path] == pytest.approx([-sum(rates[:k]) for k in range(8)])
    assert model.weights[0].item() == pytest.approx(-sum(rates))


def _plain(schedule: str) -> list[float]:
    """Return the factors of the first four of eight steps without warm-up."""
    forms = {"constant": lambda p: 1.0, "linear": lambda p: 1 - p, "cosine": lambda p: (1 + math.cos(math.pi * p)) / 2}
    return [forms[schedule](k / 8) for k in range(4)]


def test_the_rate_of_a_loss_that_stops_early_ends_with_it(tmp_path: Path) -> None:
    model = Pulled(DATA.space, [1.0], stop=0.5)
    trained(tmp_path, model, optimizer={"name": "sgd", "lr": 1.0, "schedule": "linear"})
    assert model.weights[0].item() == pytest.approx(-sum(1 - k / 10 for k in range(10)))


class Validated(Model):
    """A normal by torch.distributions, which raises ValueError where its mean is not finite."""

    likelihood = "exact"

    def __init__(self, space: Space, *, kick: int) -> None:
        super().__init__(space)
        self.mu, self.kick, self.calls = nn.Parameter(torch.zeros(2)), kick, 0

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.distributions.Normal(self.mu, 1.0, validate_args=True).log_prob(x).sum(1)

    def loss(self, x: Tensor) -> Tensor:
        self.calls += 1
        return -self.log_prob(x).mean() + (self.mu * math.inf).sum() * (self.calls == self.kick)


@pytest.mark.parametrize("kick", [2, 4])
def test_parameters_that_are_not_finite_are_a_divergence_whatever_they_raise(tmp_path: Path, kick: int) -> None:
    """In the middle of training the next loss raises ValueError; after the last step nothing does."""
    x = torch.randn(40, 2)
    run = Run(suite="s", name="n", model="m", data="d", steps=4, batch=8, checks=1)
    with pytest.raises(Diverged, match=r"the (parameter 'mu' is not finite after \d steps|loss is nan)"):
        train(Validated(Space((2,)), kick=kick), Dataset(Space((2,)), x, x, x), run, Work(tmp_path), code="c")


def test_an_error_with_finite_parameters_is_no_divergence(tmp_path: Path) -> None:
    x = torch.randn(40, 2)
    run = Run(suite="s", name="n", model="m", data="d", steps=4, batch=8, checks=1)
    model = Validated(Space((2,)), kick=0)
    model.loss = lambda x: torch.distributions.Normal(model.mu, -1.0, validate_args=True).log_prob(x).sum()  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="scale") as caught:
        train(model, Dataset(Space((2,)), x, x, x), run, Work(tmp_path), code="c")
    assert not isinstance(caught.value, Diverged)
