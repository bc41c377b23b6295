"""The training loop: resumption bit for bit, who moves when, what is selected."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from genbench.dataset import Dataset, Space
from genbench.model import Diverged, MakeOptimizer, Model, OptimizedLoss
from genbench.records.artifacts import Work
from genbench.snapshots import steps_of
from genbench.suite import Optimizer, Run
from genbench.train import EMA, Shuffled, TrainState, TrainStep, batches, make_optimizer, rate, reseed, train

REALS = torch.linspace(-1, 1, 40).unsqueeze(1)
DATA = Dataset(Space((1,)), REALS, REALS[:10], REALS[10:20])


class Gaussian(Model):
    """N(mu, e^2s), with noise in its loss so that resumption has draws to reproduce."""

    likelihood = "exact"

    def __init__(self, space: Space, *, stop_at: int | None = None, bad_at: int | None = None) -> None:
        super().__init__(space)
        self.theta = nn.Parameter(torch.tensor([3.0, 0.5]))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.stop_at, self.bad_at = stop_at, bad_at

    def log_prob(self, x: Tensor) -> Tensor:
        mu, s = self.theta
        return -0.5 * ((x[:, 0] - mu) / s.exp()) ** 2 - s - 0.5 * math.log(2 * math.pi)

    def sample(self, n: int) -> Tensor:
        mu, s = self.theta
        return mu + s.exp() * torch.randn(n, 1)

    def loss(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.stop_at is not None and self.calls > self.stop_at:
            raise KeyboardInterrupt
        noise = torch.randn_like(x) * 0.1
        bad = math.nan if self.bad_at is not None and self.calls > self.bad_at else 0.0
        return super().loss(x + noise) + bad


def run(**changes: object) -> Run:
    return Run(
        **({"suite": "s", "name": "n", "model": "m", "data": "d", "steps": 60, "batch": 7, "checks": 4} | changes)
    )


def trained(tmp_path: Path, model: Model, of: Run, **how: float):
    return train(model, DATA, of, Work(tmp_path), code="c", **how)


@pytest.mark.parametrize("name", ["adam", "adamw", "adamax", "rmsprop", "sgd"])
@pytest.mark.parametrize("stop", [1, 17, 45])
def test_stopped_and_resumed_is_bit_for_bit_never_stopped(tmp_path: Path, name: str, stop: int) -> None:
    of = run(optimizer={"name": name, "lr": 0.03, "ema": 0.9, "schedule": "cosine", "warmup": 5, "clip": 1.0})
    whole, part, rest = Gaussian(DATA.space), Gaussian(DATA.space, stop_at=stop), Gaussian(DATA.space)
    expected = trained(tmp_path / "a", whole, of)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "b", part, of, checkpoint_every=0)
    went = trained(tmp_path / "b", rest, of)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[key]), key
    assert [(p.step, p.loss, p.validation) for p in went.curve] == [
        (p.step, p.loss, p.validation) for p in expected.curve
    ]
    assert went.selected_step == expected.selected_step


def test_a_checkpoint_of_other_code_is_not_gone_on_with(tmp_path: Path) -> None:
    of, fresh = run(), Gaussian(DATA.space)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, Gaussian(DATA.space, stop_at=30), of, checkpoint_every=0)
    train(fresh, DATA, of, Work(tmp_path), code="other")
    assert fresh.calls == of.steps


def test_a_loss_that_is_no_number_is_diverged(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="the loss is nan"):
        trained(tmp_path, Gaussian(DATA.space, bad_at=20), run())


def test_past_its_deadline_it_stops_and_can_go_on(tmp_path: Path) -> None:
    whole, late = Gaussian(DATA.space), Gaussian(DATA.space)
    trained(tmp_path / "a", whole, run())
    with pytest.raises(TimeoutError, match="stopped at step 1 of 60"):
        trained(tmp_path / "b", late, run(), deadline=0.0)
    again = Gaussian(DATA.space)
    trained(tmp_path / "b", again, run())
    assert torch.equal(again.theta, whole.theta)


class Quadratic(Model):
    """sum over i of |w - i|^2 / 2, w laid out in memory by `layout`, and its gradient by `spoil`."""

    def __init__(self, space: Space, layout: str, spoil: str) -> None:
        super().__init__(space)
        values, self.spoil = torch.zeros(3, 4), spoil
        self.w = nn.Parameter(
            {
                "dense": lambda: values,
                "transposed": lambda: values.T.contiguous().T,
                "with gaps": lambda: torch.zeros(3, 6)[:, 1:5],
                "expanded": lambda: torch.zeros(3, 1).expand(3, 4),
            }[layout]()
        )
        self.v = nn.Parameter(torch.zeros(3, 4))

    def loss(self, x: Tensor) -> Tensor:
        w = {"none": lambda w: w, "transposed": lambda w: w.mT.contiguous().mT, "permuted": lambda w: w.T.clone().T}
        target = torch.arange(12.0).view(3, 4)
        both = w.get(self.spoil, lambda w: w)(self.w) + self.v  # the gradients in w and v are one tensor
        fit = 0.5 * (both - target).square().sum()
        return fit + (self.w.sum() if self.spoil == "expanded" else 0)


@pytest.mark.parametrize("name", ["adam", "adamw", "adamax", "rmsprop", "sgd"])
@pytest.mark.parametrize("layout", ["dense", "transposed", "with gaps", "expanded"])
@pytest.mark.parametrize("spoil", ["none", "transposed", "permuted", "expanded"])
def test_a_step_does_not_depend_on_how_tensors_lie_in_memory(name: str, layout: str, spoil: str) -> None:
    """Steps with clipping, against torch's unfused optimizer on contiguous copies and gradients written out."""
    settings = Optimizer(name=name, lr=0.05, clip=1.0)
    model = Quadratic(DATA.space, layout, spoil)
    train_step = TrainStep(model, run(steps=3, optimizer=settings.model_dump()))
    plain = [nn.Parameter(torch.zeros(3, 4)) for _ in range(2)]
    optimizer = make_optimizer(settings, plain)
    for group in optimizer.param_groups:
        group["fused"] = False
    for i in range(3):
        train_step(i, lambda _: REALS[:7])
        gradient = (plain[0] + plain[1]).detach() - torch.arange(12.0).view(3, 4)
        plain[0].grad, plain[1].grad = gradient + (spoil == "expanded"), gradient.clone()
        nn.utils.clip_grad_norm_(plain, 1.0)
        optimizer.step()
    torch.testing.assert_close([model.w.detach(), model.v.detach()], [p.detach() for p in plain])


def test_no_steps_leave_the_model_as_built(tmp_path: Path) -> None:
    model = Gaussian(DATA.space)
    assert trained(tmp_path, model, run(steps=0)).curve == []
    assert model.calls == 0


def test_the_best_check_is_selected_or_the_last(tmp_path: Path) -> None:
    """A rate so high that the score wanders: the best check is not the last one."""
    for selection in ("best", "last"):
        model = Gaussian(DATA.space)
        went = trained(
            tmp_path / selection, model, run(selection=selection, optimizer={"lr": 1.5, "name": "rmsprop"}, checks=12)
        )
        scores = {p.step: p.validation for p in went.curve}
        assert len(scores) == 12
        chosen = min(scores, key=lambda step: scores[step]) if selection == "best" else max(scores)
        assert went.selected_step == chosen
        assert scores[chosen] == pytest.approx(-model.log_prob(DATA.validation).mean().item(), rel=1e-6)
    assert min(scores, key=lambda step: scores[step]) != max(scores), "the two would be alike"


# ------------------------------------------------------------------------------------------------ snapshots

PLANE = Dataset(Space((2,)), REALS.expand(-1, 2), REALS[:10].expand(-1, 2), REALS[10:20].expand(-1, 2))


class Chase(Model):
    """Samples around theta, which follows noisy data, and a critic of their distance from it."""

    def __init__(self, space: Space, *, stop_at: int | None = None) -> None:
        super().__init__(space)
        self.theta, self.calls, self.stop_at = nn.Parameter(torch.tensor([3.0, 0.5])), 0, stop_at

    def sample(self, n: int) -> Tensor:
        return self.theta + torch.randn(n, 2)

    def critic_score(self, x: Tensor) -> Tensor:
        return -(x - self.theta).norm(dim=1)

    def loss(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        return (x + torch.randn_like(x) - self.theta).square().mean()


def played(folder: Path, of: Run, **how: float) -> tuple[Chase, TrainState]:
    model = Chase(PLANE.space)
    return model, train(model, PLANE, of, Work(folder), code="c", **how)


def test_snapshots_are_the_same_bits_however_often_a_training_stopped(tmp_path: Path) -> None:
    of = run(optimizer={"lr": 0.03, "ema": 0.9})
    _, expected = played(tmp_path / "a", of)
    for stop in (2, 6, 7, 13):  # after steps 1, 6, 12 and 24
        with pytest.raises(KeyboardInterrupt):
            train(Chase(PLANE.space, stop_at=stop), PLANE, of, Work(tmp_path / "b"), code="c", checkpoint_every=0)
    _, went = played(tmp_path / "b", of)
    assert list(went.snapshots) == list(expected.snapshots) == sorted(steps_of(60))
    for step, saved in expected.snapshots.items():
        assert all(torch.equal(value, went.snapshots[step][name]) for name, value in saved.items())


def test_snapshots_do_not_change_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched, _ = played(tmp_path / "a", run())
    monkeypatch.setattr("genbench.train.snapshot", lambda *_: {})
    alone, progress = played(tmp_path / "b", run())
    assert torch.equal(watched.theta, alone.theta)
    assert progress.snapshots == {}


def test_snapshots_differ_by_the_weights_that_move_alone(tmp_path: Path) -> None:
    """Not by draws, nor by averages."""
    (model, plain), (_, averaged) = played(tmp_path / "a", run()), played(tmp_path / "b", run(optimizer={"ema": 0.9}))
    draws = plain.snapshots[60]["samples"] - model.theta.detach()
    start = torch.tensor([3.0, 0.5])
    torch.testing.assert_close(plain.snapshots[0]["samples"] - start, draws)
    assert (plain.snapshots[60]["samples"] - plain.snapshots[0]["samples"]).abs().max() > 0.01
    for step, saved in plain.snapshots.items():
        assert torch.equal(saved["critic"], averaged.snapshots[step]["critic"])


def test_a_model_without_a_critic_or_training_has_no_snapshots(tmp_path: Path) -> None:
    assert trained(tmp_path / "a", Gaussian(DATA.space), run()).snapshots == {}
    assert played(tmp_path / "b", run(steps=0))[1].snapshots == {}


# --------------------------------------------------------------------------------------------------- losses


class Duel(Model):
    """x and y on f(x, y) = x y: x goes down, y up. Simultaneous and alternating descent differ in closed form."""

    def __init__(self, space: Space, *, simultaneous: bool = False, repeats: int = 1, start: float = 0.0) -> None:
        super().__init__(space)
        self.x, self.y = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))
        self.how = simultaneous, repeats, start
        self.seen: list[float] = []

    def sample(self, n: int) -> Tensor:
        return self.x.expand(n, 1)

    def _down(self, batch: Tensor) -> Tensor:
        self.seen.append(batch.sum().item())
        return self.x * self.y

    def configure_optimizers(self, optimizer: MakeOptimizer) -> list[OptimizedLoss | tuple[OptimizedLoss, ...]]:
        simultaneous, repeats, start = self.how
        down = OptimizedLoss(self._down, optimizer([self.x]), repeats=repeats)
        up = OptimizedLoss(lambda _: -self.x * self.y, optimizer([self.y]), start=start)
        return [(down, up)] if simultaneous else [down, up]


def after(steps: int, **how: object) -> tuple[float, float, Duel]:
    model = Duel(DATA.space, **how)
    train_step = TrainStep(model, run(steps=steps, optimizer={"name": "sgd", "lr": 0.1}))
    for i in range(steps):
        train_step(i, Shuffled(REALS, 5, 0))
    return model.x.item(), model.y.item(), model


def test_a_tuple_moves_simultaneously_and_a_list_in_turn() -> None:
    x, y, _ = after(1, simultaneous=True)
    assert (x, y) == pytest.approx((1 - 0.1 * 1, 1 + 0.1 * 1))
    x, y, _ = after(1)
    assert (x, y) == pytest.approx((0.9, 1 + 0.1 * 0.9))


def test_a_loss_repeats_on_batches_of_its_own() -> None:
    x, y, model = after(1, repeats=3)
    assert (x, y) == pytest.approx((1 - 0.3, 1 + 0.1 * 0.7))
    assert len(set(model.seen)) == 3


def test_a_loss_starts_at_its_share_of_the_run() -> None:
    x, y, _ = after(4, start=0.5)
    assert x < 1
    xs, y_expected = 1.0, 1.0
    for i in range(4):
        xs -= 0.1 * y_expected
        y_expected += 0.1 * xs * (i >= 2)
    assert (x, y) == pytest.approx((xs, y_expected))


def test_no_loss_changes_the_gradient_of_another() -> None:
    _, _, model = after(2)
    assert model.x.grad is None
    assert model.y.grad is None


# ------------------------------------------------------------------------------------- batches, rates, averages


@given(n=st.integers(1, 50), size=st.integers(1, 60), seed=st.integers(0, 3))
def test_every_epoch_holds_every_point_once(n: int, size: int, seed: int) -> None:
    batches = Shuffled(torch.arange(n), size, seed)
    seen = torch.cat([batches(i) for i in range(3 * n // size + 1)])
    for epoch in seen[: len(seen) // n * n].view(-1, n):
        assert sorted(epoch.tolist()) == list(range(n))


def test_a_batch_depends_on_its_number_alone() -> None:
    a, b = Shuffled(REALS, 7, 1), Shuffled(REALS, 7, 1)
    forward = [a(i) for i in range(20)]
    torch.randn(3)
    assert all(torch.equal(forward[i], b(i)) for i in reversed(range(20)))
    assert not torch.equal(forward[0], Shuffled(REALS, 7, 2)(0))


@pytest.mark.parametrize(
    ("schedule", "at", "factor"),
    [
        ("constant", 0.7, 1.0),
        ("cosine", 0.0, 1.0),
        ("cosine", 0.5, 0.5),
        ("linear", 0.25, 0.75),
        ("stages", 0.0, 1.0),
        ("stages", 1.1 / 3280, 10 ** (-1 / 7)),
        ("stages", 0.99 / 3, 10 ** (-6 / 7)),
        ("stages", 1.01 / 3, 0.1),
        ("stages", 0.999, 0.1),
    ],
)
def test_schedules(schedule: str, at: float, factor: float) -> None:
    assert rate(Optimizer(schedule=schedule), at, 10) == pytest.approx(factor)


def test_warmup_rises_linearly() -> None:
    assert [rate(Optimizer(warmup=4), 0.0, done) for done in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_averaged_weights_are_the_weighted_mean_and_come_off_again() -> None:
    model = nn.Linear(1, 1, bias=False)
    average, expected = EMA(model, 0.5), model.weight.item()
    for i in range(12):
        with torch.no_grad():
            model.weight.fill_(float(i))
        average.update(i)
        decay = min(0.5, (1 + i) / (10 + i))
        expected = decay * expected + (1 - decay) * i
    with average.applied():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 11.0


def test_every_rule_descends() -> None:
    for name in ("adam", "adamw", "adamax", "rmsprop", "sgd"):
        w = nn.Parameter(torch.tensor([1.0]))
        optimizer = make_optimizer(Optimizer(name=name, lr=0.1), [w])
        w.grad = torch.tensor([1.0])
        optimizer.step()
        assert w.item() < 1.0, name


def test_seeds_differ_by_every_part_of_their_key() -> None:
    drawn = set()
    for key in ((0, 1), (1, 0), (0, "a"), (10,), (1,)):
        reseed(*key)
        drawn.add(torch.randn(()).item())
    assert len(drawn) == 5


def test_batches_are_drawn_from_bernoulli_probs_by_the_seed() -> None:
    means = torch.rand(64, 3, 5)
    train = torch.bernoulli(means).to(torch.uint8)
    data = Dataset(Space((3, 5), 2), train, train, train, bernoulli_probs=means)
    batch = batches(data, 64, 0, torch.device("cpu"))
    reseed(0, 7)
    first, second = batch(0), batch(0)
    reseed(0, 7)
    assert torch.equal(batch(0), first)
    assert not torch.equal(first, second)
    assert first.dtype == torch.uint8
    average = torch.stack([batch(i) for i in range(400)]).float().mean((0, 1))
    torch.testing.assert_close(average, means.mean(0), atol=0.02, rtol=0)
    assert data.sha256 != Dataset(Space((3, 5), 2), train, train, train).sha256
