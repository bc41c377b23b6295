"""Truths about GANs: games that find divergences, critics of known slope, schedules that differ."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from genbench.dataset import Dataset, Space
from genbench.models.gans.constraints import gradient_penalty
from genbench.models.gans.gan import GAN
from genbench.models.gans.objectives import OBJECTIVES
from genbench.nets.adversaries import Adversaries
from genbench.records.artifacts import Work
from genbench.runner.worker import perform
from genbench.suite import Run, read_suite, suite_path
from genbench.train import TrainStep, train

PLANE = Space((2,))
IMAGES = {
    "digits": Space((1, 8, 8), 17),
    "binary": Space((1, 8, 8), 2),
    "28x28": Space((1, 28, 28), 256),
    "colours": Space((3, 32, 32), 256),
    "reals": Space((3, 6, 10)),
}
X = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
COUNTS_P, COUNTS_Q = torch.tensor([1, 2, 3, 4, 6]), torch.tensor([5, 1, 3, 5, 2])  # of two laws on five points
P, Q = COUNTS_P.double() / 16, COUNTS_Q.double() / 16


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Return KL(p, q) in nats, p and q (N,) of any masses."""
    return (p * (p / q).log()).sum()


def js(p: Tensor, q: Tensor) -> Tensor:
    return (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2


def value(v: Tensor, **options: object) -> Tensor:
    """Return the game's value where the critic says v (5, 1) on the five points, of which p and q are exact samples."""
    model = GAN(PLANE, hidden=(), **options)
    return model.value(v.repeat_interleave(COUNTS_P, 0), v.repeat_interleave(COUNTS_Q, 0))


# ------------------------------------------------------------------------------------------------- objectives

F: dict[str, Callable[[Tensor], Tensor]] = {  # f-GAN, 2016, table 1
    "gan": lambda u: u * u.log() - (u + 1) * (u + 1).log(),
    "kl": lambda u: u * u.log(),
    "reverse_kl": lambda u: -u.log(),
    "squared_hellinger": lambda u: (u.sqrt() - 1) ** 2,
    "jensen_shannon": lambda u: u * u.log() - (u + 1) * ((u + 1) / 2).log(),
}
BEST: dict[str, tuple[Tensor, Tensor]] = {  # the best v of p / q, and the game's value there
    "gan": ((P / Q).log(), 2 * js(P, Q) - math.log(4)),
    "kl": (1 + (P / Q).log(), kl(P, Q)),
    "reverse_kl": ((P / Q).log(), kl(Q, P)),
    "squared_hellinger": ((P / Q).log() / 2, (P.sqrt() - Q.sqrt()).square().sum()),
    "jensen_shannon": ((P / Q).log(), 2 * js(P, Q)),
    "least_squares": (P / (P + Q), -(P * Q / (P + Q)).sum() / 2),
    "hinge": ((P - Q).sign(), -2 * torch.minimum(P, Q).sum()),
}


@pytest.mark.parametrize("name", F)
def test_output_activation_and_conjugate_are_those_of_f(name: str) -> None:
    """With t = g(v) and u = (f*)'(t): f'(u) = t, which is (f')^-1 = (f*)', and f*(t) = u t - f(u)."""
    v = torch.linspace(-4, 4, 33, dtype=torch.float64, requires_grad=True)
    t, conjugate = OBJECTIVES[name].real(v), OBJECTIVES[name].fake(v)
    (dt,), (dconjugate,) = torch.autograd.grad(t.sum(), v), torch.autograd.grad(conjugate.sum(), v)
    assert (dt > 0).all()
    u = (dconjugate / dt).detach().requires_grad_()
    (slope,) = torch.autograd.grad(F[name](u).sum(), u)
    torch.testing.assert_close(slope, t)
    torch.testing.assert_close(conjugate, u * t - F[name](u))


@pytest.mark.parametrize("name", BEST)
def test_the_best_critic_finds_the_divergence_and_no_other_finds_more(name: str) -> None:
    v, divergence = BEST[name]
    torch.testing.assert_close(value(v.unsqueeze(1), objective=name), divergence)
    torch.manual_seed(0)
    for size in (1e-3, 0.1, 1.0):
        assert value((v + size * torch.randn(5)).unsqueeze(1), objective=name) <= divergence + 1e-12


@given(st.floats(0.1, 10))
def test_a_weight_of_type_ii_errors_skews_the_divergence(weight: float) -> None:
    """D = p / (p + lambda q) and p log D + lambda q log(1 - D): the KLs to p + lambda q, whose mass is not one."""
    v = (P / (weight * Q)).log().unsqueeze(1)
    expected = kl(P, P + weight * Q) + kl(weight * Q, P + weight * Q)
    torch.testing.assert_close(value(v, objective="gan", type_ii=weight), expected)


LURED: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {  # what generators make small of v
    "gan": (lambda v: (1 + torch.exp(-v)).log(), lambda v: -(1 + torch.exp(v)).log()),  # -log D and log(1 - D)
    "kl": (lambda v: -v, lambda v: -torch.exp(v - 1)),
    "wasserstein": (lambda v: -v, lambda v: -v),
    "least_squares": (lambda v: (v - 1) ** 2 / 2, lambda v: -(v**2) / 2),
    "hinge": (lambda v: -v, lambda v: -torch.clamp(1 + v, min=0)),
}


@pytest.mark.parametrize("name", LURED)
def test_losses_of_either_player_are_those_of_the_papers(name: str) -> None:
    """The critic is linear and the generator a point mass at 2, so that all of v is known."""
    for lure, expected in zip(("nonsaturating", "saturating"), LURED[name], strict=True):
        model = GAN(PLANE, objective=name, lure=lure, latent=1, hidden=(), type_ii=0.5)
        with torch.no_grad():
            model.generator[0][0].weight.zero_(), model.generator[0][0].bias.fill_(2.0)
        x = torch.tensor([[0.5, -1.0], [3.0, 0.2]])
        v_real, v_fake = model.critic(x), model.critic(torch.full((1, 2), 2.0))
        torch.testing.assert_close(model.generator_loss(x), expected(v_fake).mean())
        game = OBJECTIVES[name]
        torch.testing.assert_close(
            model.critic_loss(x), 0.5 * game.fake(v_fake).mean() - game.real(v_real).mean(), rtol=1e-5, atol=1e-6
        )


def test_a_penalty_is_added_by_its_weight() -> None:
    """Of a linear critic it is (|w| - 1)^2 at any point."""
    x, losses = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), []
    for penalty in (0.0, 3.0):
        torch.manual_seed(1)
        model = GAN(PLANE, objective="wasserstein", latent=1, hidden=(), penalty=penalty)
        for p in model.generator.parameters():
            nn.init.ones_(p) if p.ndim == 1 else nn.init.zeros_(p)
        losses.append(model.critic_loss(x).item())
    w = model.critic[1][0].weight
    assert losses[1] - losses[0] == pytest.approx(3 * (w.norm().item() - 1) ** 2, rel=1e-4)


@pytest.mark.parametrize("name", ["gan", "kl", "reverse_kl", "squared_hellinger", "jensen_shannon", "wasserstein"])
def test_saturating_or_not_the_generator_is_drawn_the_same_way(name: str) -> None:
    """By u = p / q times as much where it saturates: alike where the critic cannot tell, fixed points included."""
    log_u = torch.linspace(-3, 3, 13, dtype=torch.float64)
    v = {"kl": 1 + log_u, "squared_hellinger": log_u / 2, "wasserstein": log_u}.get(name, log_u).requires_grad_()
    (slow,) = torch.autograd.grad(OBJECTIVES[name].fake(v).sum(), v)
    (fast,) = torch.autograd.grad(OBJECTIVES[name].real(v).sum(), v)
    torch.testing.assert_close(slow, fast * (1 if name == "wasserstein" else log_u.exp()))


def test_the_critic_does_not_know_how_the_generator_is_lured() -> None:
    def gradients(lure: str) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        model = GAN(PLANE, latent=2, hidden=(8,), lure=lure)
        x = torch.randn(32, 2)
        (critic,) = torch.autograd.grad(model.critic_loss(x), model.critic[1][0].weight)
        (generator,) = torch.autograd.grad(model.generator_loss(x), model.generator[0][0].weight)
        return critic, generator

    (critic, slow), (again, fast) = gradients("saturating"), gradients("nonsaturating")
    assert torch.equal(critic, again)
    assert not torch.equal(slow, fast)


# ------------------------------------------------------------------------------- constraints and Wasserstein distance

SHIFT = torch.tensor([3.0, -4.0])  # between two point masses: W1 is 5


def pointed(**options: object) -> GAN:
    """Return a Wasserstein GAN of a linear critic whose generator is a point mass at 0."""
    torch.manual_seed(1)
    model = GAN(PLANE, objective="wasserstein", latent=1, hidden=(), **options)
    for p in model.generator.parameters():
        nn.init.zeros_(p)
    return model


def criticised(model: GAN, x: Tensor, steps: int, lr: float) -> Tensor:
    """Return the game's value after `steps` moves of the critic alone."""
    critic, _ = model.configure_optimizers(partial(torch.optim.SGD, lr=lr))
    for _ in range(steps):
        for parameter, g in zip(critic.parameters, torch.autograd.grad(critic.loss(x), critic.parameters), strict=True):
            parameter.grad = g
        critic.optimizer.step()
    with torch.no_grad():
        return model.value(model.critic(x), model.critic(torch.zeros_like(x)))


def test_a_spectrally_normalised_critic_finds_w1_of_point_masses() -> None:
    assert criticised(pointed(spectral=True), SHIFT.expand(4, 2), 200, 0.1).item() == pytest.approx(5, rel=1e-5)


def test_a_penalised_critic_finds_w1_and_the_known_excess() -> None:
    """max over |w| of |w| d - weight (|w| - 1)^2 is at |w| = 1 + d / (2 weight), so the penalty bounds no slope."""
    found = criticised(pointed(penalty=10.0), SHIFT.expand(4, 2), 100, 0.04).item()
    assert found == pytest.approx(5 * (1 + 5 / 20), rel=1e-4)


def test_a_clipped_critic_finds_the_distance_along_its_box() -> None:
    """The largest w . d of weights in [-c, c] is c |d|_1."""
    assert criticised(pointed(clip=0.1), SHIFT.expand(4, 2), 50, 0.1).item() == pytest.approx(0.7, rel=1e-5)


def after(steps: int, model: GAN, data: Tensor, **optimizer: object) -> GAN:
    """Return `model` after `steps`, of a hundred, of the loop's own game."""
    run = Run(
        **{"suite": "s", "name": "n", "model": "m", "data": "d", "steps": 100, "optimizer": {"lr": 1e-2} | optimizer}
    )
    train_step = TrainStep(model, run)
    for i in range(steps):
        train_step(i, lambda _: data)
    return model


def test_clipping_keeps_every_weight_of_the_critic_in_its_box() -> None:
    torch.manual_seed(0)
    model = after(3, GAN(PLANE, objective="wasserstein", hidden=(16, 16), clip=0.02), torch.randn(32, 2))
    assert max(p.abs().max().item() for p in model.critic.parameters()) == pytest.approx(0.02)
    assert max(p.abs().max().item() for p in model.generator.parameters()) > 0.1


def test_spectral_normalisation_bounds_the_critics_lipschitz_constant() -> None:
    torch.manual_seed(0)
    model = after(30, GAN(PLANE, objective="hinge", hidden=(32, 32), spectral=True), torch.randn(64, 2))
    layers = [layer for layer in model.critic.modules() if isinstance(layer, nn.Linear)]
    lagging = math.prod(torch.linalg.matrix_norm(layer.weight, 2).item() for layer in layers)
    assert 0.99 < lagging < 1.05  # one iteration a step follows weights that move
    for _ in range(200):
        model.critic(torch.zeros(1, 2))
    model.eval()
    with torch.no_grad():
        norms = [torch.linalg.matrix_norm(layer.weight, 2).item() for layer in layers]
        x, y = torch.randn(2, 2000, 2)
        slopes = (model.critic_score(x) - model.critic_score(y)).abs() / (x - y).norm(dim=1)
    assert norms == pytest.approx([1.0, 1.0, 1.0], abs=1e-4)
    assert slopes.max().item() <= 1 + 1e-4


@given(w=st.lists(st.floats(-3, 3), min_size=2, max_size=2).filter(lambda w: math.hypot(*w) > 0.1))
def test_the_gradient_penalty_of_a_linear_critic(w: list[float]) -> None:
    """(|w| - 1)^2 at any points, with gradient 2 (|w| - 1) w / |w|."""
    critic, (x, y) = nn.Linear(2, 1).double(), torch.randn(2, 5, 2, dtype=torch.float64)
    critic.weight.data = torch.tensor([w], dtype=torch.float64)
    penalty, norm = gradient_penalty(critic, x, y), math.hypot(*w)
    assert penalty.item() == pytest.approx((norm - 1) ** 2, abs=1e-12)
    (slope,) = torch.autograd.grad(penalty, critic.weight)
    torch.testing.assert_close(slope, 2 * (norm - 1) / norm * critic.weight.data)


def test_the_gradient_penalty_is_taken_between_the_points() -> None:
    """v = x^2 / 2 has slope x: between -1 and 1 the mean of (|x| - 1)^2 is 1/3, at 2 and 2 it is 1."""

    def square(x: Tensor) -> Tensor:
        return x.square().sum(1, keepdim=True) / 2

    torch.manual_seed(0)
    ones = torch.ones(100_000, 1)
    assert gradient_penalty(square, ones, -ones).item() == pytest.approx(1 / 3, abs=0.005)
    assert gradient_penalty(square, 2 * ones, 2 * ones).item() == pytest.approx(1)


# -------------------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize(("schedule", "repeats"), [("simultaneous", 1), ("alternating", 1), ("alternating", 3)])
def test_who_moves_when(schedule: str, repeats: int) -> None:
    """v = a x + c and G = w z + b: b moves by the rate times a, a as it was or as the critic has just left it."""
    torch.manual_seed(0)
    model = GAN(Space((1,)), objective="wasserstein", latent=1, hidden=(), schedule=schedule, critic_steps=repeats)
    a, b = model.critic[1][0].weight, model.generator[0][0].bias
    with torch.no_grad():
        model.generator[0][0].weight.zero_(), b.fill_(1.0), a.fill_(0.5)
    after(1, model, torch.full((4, 1), 3.0), name="sgd", lr=0.1)
    assert a.item() == pytest.approx(0.5 + repeats * 0.1 * (3 - 1))
    assert b.item() == pytest.approx(1 + 0.1 * (0.5 if schedule == "simultaneous" else a.item()))


def test_a_simultaneous_game_is_one_move_of_each_and_nothing_else() -> None:
    with pytest.raises(ValueError, match="schedule 'simultaneous' takes critic_steps 1, one move of each; got 2"):
        GAN(PLANE, schedule="simultaneous", critic_steps=2)
    runs = read_suite(suite_path("gans")).runs(only="*simultaneous*", seeds=[0])
    assert [run.data for run in runs] == ["toys:eight_gaussians"]
    for run in runs:
        ((critic, generator),) = GAN(PLANE, **run.options).configure_optimizers(partial(torch.optim.SGD, lr=0.1))
        assert (critic.repeats, generator.repeats) == (1, 1)
    calls = []
    model = GAN(PLANE, hidden=(4,), schedule="simultaneous")
    TrainStep(model, Run(suite="s", name="n", model="m", data="d", steps=10))(3, lambda i: calls.append(i) or X)
    assert calls == [3]


def test_a_head_start_is_the_critics_alone_and_makes_it_sure() -> None:
    torch.manual_seed(0)
    model = GAN(PLANE, hidden=(16,), head_start=0.5)
    before, data = [p.clone() for p in model.generator.parameters()], torch.randn(64, 2) + 3
    after(50, model, data)
    assert all(map(torch.equal, before, model.generator.parameters()))
    fake = model.generate(model.prior(100))
    assert (model.critic_score(data).mean() - model.critic_score(fake).mean()).item() > 3
    after(60, model, data)
    assert not any(map(torch.equal, before, model.generator.parameters()))
    with pytest.raises(ValueError, match="head_start must be from 0 to below 1, got 1"):
        GAN(PLANE, head_start=1)


def fate(folder: Path, **settings: object) -> tuple[str, set[str | None]]:
    """Return the status of a run on the eight Gaussians, and what its measurements say of it."""
    said = {"steps": 40, "checks": 1, "selection": "last", "metrics": ("diversity",), "data": "toys:eight_gaussians"}
    run = Run(**{"suite": "s", "name": "n", "model": "gans.gan:GAN"} | said | settings)
    record = perform(run, work=str(folder))
    return record.status, {m.verdict for m in record.measurements.values()}


def test_a_gan_that_collapses_or_diverges_says_so(tmp_path: Path) -> None:
    """A rate at which units die, and one at which the exponential of f* for KL overflows; and a tame one."""
    assert fate(tmp_path, optimizer={"lr": 0.003}) == ("ok", {None})
    assert fate(tmp_path, optimizer={"lr": 1.0}) == ("ok", {"collapsed"})
    assert fate(tmp_path, optimizer={"lr": 1.0}, options={"objective": "kl"}) == ("diverged", set())


ROWS = {
    "batch norm": {"network": "dcgan", "channels": 4},
    "spectral": {"objective": "hinge", "spectral": True, "hidden": (8,), "schedule": "simultaneous"},
    "spectral resnet": {"objective": "wasserstein", "spectral": True, "network": "resnet", "channels": 4},
    "penalty": {"objective": "wasserstein", "penalty": 1.0, "hidden": (8,), "critic_steps": 2},
    "clip": {"objective": "wasserstein", "clip": 0.1, "network": "dcgan", "channels": 4, "norm": "group"},
}


@pytest.mark.parametrize("options", ROWS.values(), ids=ROWS)
def test_stopped_and_resumed_is_bit_for_bit_never_stopped(tmp_path: Path, options: dict[str, object]) -> None:
    space = IMAGES["digits"]
    x = torch.randint(0, 17, (40, *space.shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    data = Dataset(space, x, x[:5], x[:5])
    of = Run(suite="s", name="n", model="m", data="d", steps=6, batch=8, checks=2, optimizer={"ema": 0.9, "lr": 1e-2})

    def trained(folder: str, stop: float = math.inf) -> GAN:
        torch.manual_seed(0)
        model, calls, loss = GAN(space, **options), 0, GAN.generator_loss

        def counted(x: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if calls > stop:
                raise KeyboardInterrupt
            return loss(model, x)

        model.generator_loss = counted
        train(model, data, of, Work(tmp_path / folder), code="c", checkpoint_every=0)
        return model

    whole = trained("a").state_dict()
    with pytest.raises(KeyboardInterrupt):
        trained("b", stop=3)
    rest = trained("b").state_dict()
    assert [key for key in whole if not torch.equal(whole[key], rest[key])] == []


# --------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("network", ["mlp", "dcgan", "resnet"])
@pytest.mark.parametrize("space", IMAGES.values(), ids=IMAGES)
def test_samples_lie_in_the_space_and_critics_see_what_generators_give(space: Space, network: str) -> None:
    torch.manual_seed(0)
    model = GAN(space, network=network, channels=4, hidden=(8,)).eval()
    z = model.prior(5)
    x, mean = model.sample(5), model.decode(z)
    assert x.shape == mean.shape == (5, *space.shape)
    assert x.dtype == (torch.float32 if space.levels is None else torch.uint8)
    torch.testing.assert_close(model.scaled(mean), model.generate(z))
    assert model.critic_score(x).shape == (5,)
    if space.levels is not None:
        assert 0 <= mean.min() <= mean.max() <= space.levels - 1
        ends = torch.tensor([0, space.levels - 1])
        assert model.scaled(ends).tolist() == pytest.approx([-1, 1])


@pytest.mark.parametrize("network", ["mlp", "dcgan", "resnet"])
def test_every_parameter_is_somebodys_and_is_moved(network: str) -> None:
    torch.manual_seed(0)
    space = IMAGES["digits"]
    model = GAN(space, network=network, channels=4, hidden=(8,), spectral=True)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    after(2, model, torch.randint(0, 17, (32, *space.shape)))
    still = [name for name, p in model.named_parameters() if torch.equal(before[name], p)]
    assert [name for name in still if "bias" not in name] == []  # a bias before batch normalisation does nothing


def test_a_critic_judges_each_point_by_itself() -> None:
    x = torch.randn(6, 1, 8, 8)
    for network in ("mlp", "dcgan", "resnet"):
        critic = Adversaries(network, hidden=(8,), channels=4).critic((1, 8, 8))
        torch.testing.assert_close(critic(x)[:2], critic(x[:2]))


def test_a_game_without_a_bound_or_a_move_is_refused() -> None:
    for wrong in ({"clip": 0.0}, {"critic_steps": 0}, {"type_ii": -1.0}, {"penalty": -1.0}):
        with pytest.raises(ValueError, match="must be positive"):
            GAN(PLANE, **wrong)


def test_points_of_the_plane_are_no_images() -> None:
    with pytest.raises(ValueError, match=r"need images, got points of shape \(2,\); network='mlp' takes any"):
        GAN(PLANE, network="dcgan")


def test_statistics_of_batch_normalisation_are_those_of_the_weights_that_generate() -> None:
    """The first layer gives W z + b, of mean b and variance |W_i|^2."""
    torch.manual_seed(0)
    model = GAN(IMAGES["digits"], network="dcgan", channels=4)
    linear, norm = model.generator[0], model.generator[2]
    with torch.no_grad():
        linear.weight.mul_(3.0), linear.bias.add_(2.0)
    model.fit_closed_form(torch.zeros(1))
    places = linear.bias.view(8, -1)
    variances = linear.weight.square().sum(1).view(8, -1)
    torch.testing.assert_close(norm.running_mean, places.mean(1), atol=0.05, rtol=0)
    expected = variances.mean(1) + places.var(1, correction=0)
    torch.testing.assert_close(norm.running_var, expected, atol=0, rtol=0.05)
