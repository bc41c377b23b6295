"""GANs: objectives that equal divergences, critics of known slope, update schedules."""

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

Function = Callable[[Tensor], Tensor]
SPACE_2D = Space((2,))
IMAGES = {
    "digits": Space((1, 8, 8), 17),
    "binary": Space((1, 8, 8), 2),
    "28x28": Space((1, 28, 28), 256),
    "colors": Space((3, 32, 32), 256),
    "reals": Space((3, 6, 10)),
}
X = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
COUNTS_P, COUNTS_Q = torch.tensor([1, 2, 3, 4, 6]), torch.tensor([5, 1, 3, 5, 2])  # of two distributions on five points
P, Q = COUNTS_P.double() / 16, COUNTS_Q.double() / 16


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Return KL(p, q) in nats, p and q (N,) of any masses."""
    return (p * (p / q).log()).sum()


def js(p: Tensor, q: Tensor) -> Tensor:
    return (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2


def value(v: Tensor, **options: object) -> Tensor:
    """Return the objective where the critic's output on the five points is v (5, 1), for exact samples of p and q."""
    model = GAN(SPACE_2D, hidden=(), **options)
    return model.value(v.repeat_interleave(COUNTS_P, 0), v.repeat_interleave(COUNTS_Q, 0))


# ------------------------------------------------------------------------------------------------- objectives

F: dict[str, Function] = {  # f-GAN, 2016, table 1
    "gan": lambda u: u * u.log() - (u + 1) * (u + 1).log(),
    "kl": lambda u: u * u.log(),
    "reverse_kl": lambda u: -u.log(),
    "squared_hellinger": lambda u: (u.sqrt() - 1) ** 2,
    "jensen_shannon": lambda u: u * u.log() - (u + 1) * ((u + 1) / 2).log(),
}
BEST: dict[str, tuple[Tensor, Tensor]] = {  # the optimal v, and the objective at the optimum
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
    """With t = g(v) and u = (f*)'(t): f'(u) = t, because (f')^-1 = (f*)', and f*(t) = u t - f(u)."""
    v = torch.linspace(-4, 4, 33, dtype=torch.float64, requires_grad=True)
    t, conjugate = OBJECTIVES[name].real(v), OBJECTIVES[name].fake(v)
    (dt,), (dconjugate,) = torch.autograd.grad(t.sum(), v), torch.autograd.grad(conjugate.sum(), v)
    assert (dt > 0).all()
    u = (dconjugate / dt).detach().requires_grad_()
    (slope,) = torch.autograd.grad(F[name](u).sum(), u)
    torch.testing.assert_close(slope, t)
    torch.testing.assert_close(conjugate, u * t - F[name](u))


@pytest.mark.parametrize("name", BEST)
def test_optimal_critic_reaches_the_divergence_and_no_critic_exceeds_it(name: str) -> None:
    v, divergence = BEST[name]
    torch.testing.assert_close(value(v.unsqueeze(1), objective=name), divergence)
    torch.manual_seed(0)
    for size in (1e-3, 0.1, 1.0):
        assert value((v + size * torch.randn(5)).unsqueeze(1), objective=name) <= divergence + 1e-12


@given(st.floats(0.1, 10))
def test_type_ii_weight_changes_the_divergence(weight: float) -> None:
    """D = p / (p + lambda q) and p log D + lambda q log(1 - D): the KLs to p + lambda q, whose mass is not one."""
    v = (P / (weight * Q)).log().unsqueeze(1)
    expected = kl(P, P + weight * Q) + kl(weight * Q, P + weight * Q)
    torch.testing.assert_close(value(v, objective="gan", type_ii=weight), expected)


GENERATOR_LOSSES: dict[str, tuple[Function, Function]] = {  # of v: non-saturating and saturating
    "gan": (lambda v: (1 + torch.exp(-v)).log(), lambda v: -(1 + torch.exp(v)).log()),  # -log D and log(1 - D)
    "kl": (lambda v: -v, lambda v: -torch.exp(v - 1)),
    "wasserstein": (lambda v: -v, lambda v: -v),
    "least_squares": (lambda v: (v - 1) ** 2 / 2, lambda v: -(v**2) / 2),
    "hinge": (lambda v: -v, lambda v: -torch.clamp(1 + v, min=0)),
}


@pytest.mark.parametrize("name", GENERATOR_LOSSES)
def test_losses_of_critic_and_generator_match_the_papers(name: str) -> None:
    """The critic is linear and the generator a point mass at 2, so that v is known."""
    for lure, expected in zip(("nonsaturating", "saturating"), GENERATOR_LOSSES[name], strict=True):
        model = GAN(SPACE_2D, objective=name, lure=lure, latent=1, hidden=(), type_ii=0.5)
        with torch.no_grad():
            model.generator[0][0].weight.zero_(), model.generator[0][0].bias.fill_(2.0)
        x = torch.tensor([[0.5, -1.0], [3.0, 0.2]])
        v_real, v_fake = model.critic(x), model.critic(torch.full((1, 2), 2.0))
        torch.testing.assert_close(model.generator_loss(x), expected(v_fake).mean())
        critic_loss = 0.5 * OBJECTIVES[name].fake(v_fake).mean() - OBJECTIVES[name].real(v_real).mean()
        torch.testing.assert_close(model.critic_loss(x), critic_loss, rtol=1e-5, atol=1e-6)


def test_gradient_penalty_is_added_with_its_weight() -> None:
    """The penalty of a linear critic is (|w| - 1)^2 everywhere."""
    x, losses = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), []
    for penalty in (0.0, 3.0):
        torch.manual_seed(1)
        model = GAN(SPACE_2D, objective="wasserstein", latent=1, hidden=(), penalty=penalty)
        for p in model.generator.parameters():
            nn.init.ones_(p) if p.ndim == 1 else nn.init.zeros_(p)
        losses.append(model.critic_loss(x).item())
    w = model.critic[1][0].weight
    assert losses[1] - losses[0] == pytest.approx(3 * (w.norm().item() - 1) ** 2, rel=1e-4)


@pytest.mark.parametrize("name", ["gan", "kl", "reverse_kl", "squared_hellinger", "jensen_shannon", "wasserstein"])
def test_both_generator_losses_have_the_same_fixed_points(name: str) -> None:
    """The saturating gradient is u = p / q times the other: they agree in sign, and where u = 1 they are equal."""
    log_u = torch.linspace(-3, 3, 13, dtype=torch.float64)
    v = {"kl": 1 + log_u, "squared_hellinger": log_u / 2, "wasserstein": log_u}.get(name, log_u).requires_grad_()
    (saturating,) = torch.autograd.grad(OBJECTIVES[name].fake(v).sum(), v)
    (nonsaturating,) = torch.autograd.grad(OBJECTIVES[name].real(v).sum(), v)
    torch.testing.assert_close(saturating, nonsaturating * (1 if name == "wasserstein" else log_u.exp()))


def test_critic_loss_does_not_depend_on_the_generator_loss() -> None:
    def gradients(lure: str) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        model = GAN(SPACE_2D, latent=2, hidden=(8,), lure=lure)
        x = torch.randn(32, 2)
        (critic,) = torch.autograd.grad(model.critic_loss(x), model.critic[1][0].weight)
        (generator,) = torch.autograd.grad(model.generator_loss(x), model.generator[0][0].weight)
        return critic, generator

    (critic, saturating), (same_critic, nonsaturating) = gradients("saturating"), gradients("nonsaturating")
    assert torch.equal(critic, same_critic)
    assert not torch.equal(saturating, nonsaturating)


# ------------------------------------------------------------------------------- constraints and Wasserstein distance

SHIFT = torch.tensor([3.0, -4.0])  # between two point masses, so that W1 = 5


def linear_wasserstein_gan(**options: object) -> GAN:
    """Return a Wasserstein GAN with a linear critic whose generator is a point mass at 0."""
    torch.manual_seed(1)
    model = GAN(SPACE_2D, objective="wasserstein", latent=1, hidden=(), **options)
    for p in model.generator.parameters():
        nn.init.zeros_(p)
    return model


def trained_value(model: GAN, steps: int, lr: float) -> float:
    """Return the objective after `steps` updates of the critic only, on data that are a point mass at SHIFT."""
    critic, _ = model.configure_optimizers(partial(torch.optim.SGD, lr=lr))
    x = SHIFT.expand(4, 2)
    for _ in range(steps):
        for parameter, g in zip(critic.parameters, torch.autograd.grad(critic.loss(x), critic.parameters), strict=True):
            parameter.grad = g
        critic.optimizer.step()
    with torch.no_grad():
        return model.value(model.critic(x), model.critic(torch.zeros_like(x))).item()


def test_critic_with_spectral_normalization_finds_w1() -> None:
    assert trained_value(linear_wasserstein_gan(spectral=True), 200, 0.1) == pytest.approx(5, rel=1e-5)


def test_critic_with_gradient_penalty_exceeds_w1_by_a_known_factor() -> None:
    """|w| d - weight (|w| - 1)^2 is largest at |w| = 1 + d / (2 weight): the penalty does not bound the slope by 1."""
    assert trained_value(linear_wasserstein_gan(penalty=10.0), 100, 0.04) == pytest.approx(5 * (1 + 5 / 20), rel=1e-4)


def test_critic_with_clipped_weights_finds_the_l1_distance() -> None:
    """The maximum of w . d over weights in [-c, c] is c |d|_1."""
    assert trained_value(linear_wasserstein_gan(clip=0.1), 50, 0.1) == pytest.approx(0.7, rel=1e-5)


def train_steps(steps: int, model: GAN, data: Tensor, **optimizer: object) -> GAN:
    """Return `model` after `steps` training steps of a run of 100."""
    run = Run(
        **{"suite": "s", "name": "n", "model": "m", "data": "d", "steps": 100, "optimizer": {"lr": 1e-2} | optimizer}
    )
    train_step = TrainStep(model, run)
    for i in range(steps):
        train_step(i, lambda _: data)
    return model


def test_clipping_limits_every_weight_of_the_critic() -> None:
    torch.manual_seed(0)
    model = train_steps(3, GAN(SPACE_2D, objective="wasserstein", hidden=(16, 16), clip=0.02), torch.randn(32, 2))
    assert max(p.abs().max().item() for p in model.critic.parameters()) == pytest.approx(0.02)
    assert max(p.abs().max().item() for p in model.generator.parameters()) > 0.1


def test_spectral_normalization_bounds_the_lipschitz_constant_of_the_critic() -> None:
    torch.manual_seed(0)
    model = train_steps(30, GAN(SPACE_2D, objective="hinge", hidden=(32, 32), spectral=True), torch.randn(64, 2))
    layers = [layer for layer in model.critic.modules() if isinstance(layer, nn.Linear)]
    product = math.prod(torch.linalg.matrix_norm(layer.weight, 2).item() for layer in layers)
    assert 0.99 < product < 1.05  # one power iteration per step lags behind changing weights
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
def test_gradient_penalty_of_a_linear_critic(w: list[float]) -> None:
    """It is (|w| - 1)^2 everywhere, with gradient 2 (|w| - 1) w / |w|."""
    critic, (x, y) = nn.Linear(2, 1).double(), torch.randn(2, 5, 2, dtype=torch.float64)
    critic.weight.data = torch.tensor([w], dtype=torch.float64)
    penalty, norm = gradient_penalty(critic, x, y), math.hypot(*w)
    assert penalty.item() == pytest.approx((norm - 1) ** 2, abs=1e-12)
    (slope,) = torch.autograd.grad(penalty, critic.weight)
    torch.testing.assert_close(slope, 2 * (norm - 1) / norm * critic.weight.data)


def test_gradient_penalty_is_evaluated_between_real_and_fake_points() -> None:
    """v = x^2 / 2 has slope x: between -1 and 1 the mean of (|x| - 1)^2 is 1/3, at 2 and 2 it is 1."""

    def square(x: Tensor) -> Tensor:
        return x.square().sum(1, keepdim=True) / 2

    torch.manual_seed(0)
    ones = torch.ones(100_000, 1)
    assert gradient_penalty(square, ones, -ones).item() == pytest.approx(1 / 3, abs=0.005)
    assert gradient_penalty(square, 2 * ones, 2 * ones).item() == pytest.approx(1)


# -------------------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize(("schedule", "repeats"), [("simultaneous", 1), ("alternating", 1), ("alternating", 3)])
def test_order_of_updates(schedule: str, repeats: int) -> None:
    """v = a x + c and G = w z + b: b changes by lr * a, with a from before or after the critic's updates."""
    torch.manual_seed(0)
    model = GAN(Space((1,)), objective="wasserstein", latent=1, hidden=(), schedule=schedule, critic_steps=repeats)
    a, b = model.critic[1][0].weight, model.generator[0][0].bias
    with torch.no_grad():
        model.generator[0][0].weight.zero_(), b.fill_(1.0), a.fill_(0.5)
    train_steps(1, model, torch.full((4, 1), 3.0), name="sgd", lr=0.1)
    assert a.item() == pytest.approx(0.5 + repeats * 0.1 * (3 - 1))
    assert b.item() == pytest.approx(1 + 0.1 * (0.5 if schedule == "simultaneous" else a.item()))


def test_simultaneous_schedule_updates_each_network_once_on_the_same_batch() -> None:
    with pytest.raises(ValueError, match="schedule 'simultaneous' needs critic_steps=1, got 2"):
        GAN(SPACE_2D, schedule="simultaneous", critic_steps=2)
    runs = read_suite(suite_path("gans")).runs(only="*simultaneous*", seeds=[0])
    assert [run.data for run in runs] == ["toys:eight_gaussians"]
    for run in runs:
        ((critic, generator),) = GAN(SPACE_2D, **run.options).configure_optimizers(partial(torch.optim.SGD, lr=0.1))
        assert (critic.repeats, generator.repeats) == (1, 1)
    calls = []
    model = GAN(SPACE_2D, hidden=(4,), schedule="simultaneous")
    TrainStep(model, Run(suite="s", name="n", model="m", data="d", steps=10))(3, lambda i: calls.append(i) or X)
    assert calls == [3]


def test_head_start_trains_only_the_critic() -> None:
    torch.manual_seed(0)
    model = GAN(SPACE_2D, hidden=(16,), head_start=0.5)
    before, data = [p.clone() for p in model.generator.parameters()], torch.randn(64, 2) + 3
    train_steps(50, model, data)
    assert all(map(torch.equal, before, model.generator.parameters()))
    fake = model.generate(model.prior(100))
    assert (model.critic_score(data).mean() - model.critic_score(fake).mean()).item() > 3
    train_steps(60, model, data)
    assert not any(map(torch.equal, before, model.generator.parameters()))
    with pytest.raises(ValueError, match="head_start must be at least 0 and below 1, got 1"):
        GAN(SPACE_2D, head_start=1)


def status_and_verdicts(folder: Path, **settings: object) -> tuple[str, set[str | None]]:
    """Return the status of a run on eight Gaussians and the verdicts of its measurements."""
    protocol = {"steps": 40, "checks": 1, "selection": "last", "metrics": ("diversity",)}
    row = {"suite": "s", "name": "n", "model": "gans.gan:GAN", "data": "toys:eight_gaussians"}
    run = Run(**row | protocol | settings)
    record = perform(run, work=str(folder))
    return record.status, {m.verdict for m in record.measurements.values()}


def test_collapsed_and_diverged_gans_are_reported(tmp_path: Path) -> None:
    """A moderate learning rate; one at which units die; and one at which the exponential in f* of the KL overflows."""
    assert status_and_verdicts(tmp_path, optimizer={"lr": 0.003}) == ("ok", {None})
    assert status_and_verdicts(tmp_path, optimizer={"lr": 1.0}) == ("ok", {"collapsed"})
    assert status_and_verdicts(tmp_path, optimizer={"lr": 1.0}, options={"objective": "kl"}) == ("diverged", set())


ROWS = {
    "batch norm": {"network": "dcgan", "channels": 4},
    "spectral": {"objective": "hinge", "spectral": True, "hidden": (8,), "schedule": "simultaneous"},
    "spectral resnet": {"objective": "wasserstein", "spectral": True, "network": "resnet", "channels": 4},
    "penalty": {"objective": "wasserstein", "penalty": 1.0, "hidden": (8,), "critic_steps": 2},
    "clip": {"objective": "wasserstein", "clip": 0.1, "network": "dcgan", "channels": 4, "norm": "group"},
}


@pytest.mark.parametrize("options", ROWS.values(), ids=ROWS)
def test_resumed_run_is_bit_identical(tmp_path: Path, options: dict[str, object]) -> None:
    space = IMAGES["digits"]
    x = torch.randint(0, 17, (40, *space.shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    data = Dataset(space, x, x[:5], x[:5])
    run = Run(suite="s", name="n", model="m", data="d", steps=6, batch=8, checks=2, optimizer={"ema": 0.9, "lr": 1e-2})

    def trained(folder: str, stop: float = math.inf) -> GAN:
        torch.manual_seed(0)
        model, calls, loss = GAN(space, **options), 0, GAN.generator_loss

        def counting(x: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if calls > stop:
                raise KeyboardInterrupt
            return loss(model, x)

        model.generator_loss = counting
        train(model, data, run, Work(tmp_path / folder), code="c", checkpoint_every=0)
        return model

    whole = trained("a").state_dict()
    with pytest.raises(KeyboardInterrupt):
        trained("b", stop=3)
    rest = trained("b").state_dict()
    assert [key for key in whole if not torch.equal(whole[key], rest[key])] == []


# --------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("network", ["mlp", "dcgan", "resnet"])
@pytest.mark.parametrize("space", IMAGES.values(), ids=IMAGES)
def test_samples_and_generated_points_have_the_shape_and_range_of_the_data(space: Space, network: str) -> None:
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
def test_every_parameter_is_trained(network: str) -> None:
    torch.manual_seed(0)
    space = IMAGES["digits"]
    model = GAN(space, network=network, channels=4, hidden=(8,), spectral=True)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train_steps(2, model, torch.randint(0, 17, (32, *space.shape)))
    unchanged = [name for name, p in model.named_parameters() if torch.equal(before[name], p)]
    assert [name for name in unchanged if "bias" not in name] == []  # a bias before batch normalization has no effect


def test_critic_score_of_a_point_ignores_the_rest_of_the_batch() -> None:
    x = torch.randn(6, 1, 8, 8)
    for network in ("mlp", "dcgan", "resnet"):
        critic = Adversaries(network, hidden=(8,), channels=4).critic((1, 8, 8))
        torch.testing.assert_close(critic(x)[:2], critic(x[:2]))


def test_invalid_options_are_rejected() -> None:
    for options in ({"clip": 0.0}, {"critic_steps": 0}, {"type_ii": -1.0}, {"penalty": -1.0}):
        with pytest.raises(ValueError, match="must be positive"):
            GAN(SPACE_2D, **options)


def test_convolutional_networks_need_images() -> None:
    with pytest.raises(ValueError, match=r"need images, got points of shape \(2,\); network='mlp' takes any"):
        GAN(SPACE_2D, network="dcgan")


def test_batch_norm_statistics_are_recomputed_for_the_final_weights() -> None:
    """The output of the first layer, W z + b, has mean b and variance |W_i|^2."""
    torch.manual_seed(0)
    model = GAN(IMAGES["digits"], network="dcgan", channels=4)
    linear, norm = model.generator[0], model.generator[2]
    with torch.no_grad():
        linear.weight.mul_(3.0), linear.bias.add_(2.0)
    model.fit_closed_form(torch.zeros(1))
    bias = linear.bias.view(8, -1)
    variances = linear.weight.square().sum(1).view(8, -1)
    torch.testing.assert_close(norm.running_mean, bias.mean(1), atol=0.05, rtol=0)
    expected = variances.mean(1) + bias.var(1, correction=0)
    torch.testing.assert_close(norm.running_var, expected, atol=0, rtol=0.05)
