"""SVI: the optimized q equals a known posterior, beats an encoder, and does not depend on other points."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from genbench.dataset import Space
from genbench.models.vaes.svi import antithetic, ascend, elbo, optimize
from genbench.models.vaes.unamortised import UnamortisedVAE
from genbench.models.vaes.vae import VAE
from tests.models.test_vaes import SMALL, LinearGaussian, X, build, points

SPACES = {"binary": Space((1, 2, 2), 2), "levels": Space((1, 2, 2), 5), "reals": Space((1, 2, 2))}
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


@pytest.mark.parametrize("start", [0.0, 4.0, -30.0])
def test_optimal_q_is_the_posterior_where_that_is_gaussian(start: float) -> None:
    model = LinearGaussian()
    far = torch.full((5, 2), start).double()
    best = model.optimize_posterior(X, far, torch.zeros_like(far), tolerance=1e-3, max_steps=400)
    mu, logvar = model.posterior(X)
    torch.testing.assert_close(best.mu, mu, rtol=0, atol=0.03)
    torch.testing.assert_close(best.logvar, logvar, rtol=0, atol=0.15)  # 0.006 nats per dimension
    assert (best.gain < 1e-3).all()
    assert (best.steps < 400).all()


def test_elbo_gap_of_the_optimal_q_is_below_the_tolerance() -> None:
    model = LinearGaussian()
    start = torch.zeros(5, 2).double()
    best = model.optimize_posterior(X, start, start, tolerance=0.05, max_steps=400)
    model.posterior = lambda x: (best.mu, best.logvar)
    with torch.no_grad():
        gap = model.truth(X) - model.elbo_of(X, best.mu, best.logvar, 20_000)
    assert (gap.abs() < 0.05).all()


def optimize_by_adam(log_p, mu: Tensor, logvar: Tensor, steps: int = 400, rate: float = 0.05) -> tuple[Tensor, Tensor]:
    """Return the q of a much longer optimization by Adam."""
    q = [mu.clone().requires_grad_(), logvar.clone().requires_grad_()]
    optimizer = torch.optim.Adam(q, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        q[0].grad, q[1].grad = torch.autograd.grad(-elbo(log_p, q[0], q[1], antithetic(8, mu.shape, mu)).sum(), q)
        optimizer.step()
        schedule.step()
    return q[0].detach(), q[1].detach()


@every_space
def test_svi_beats_an_encoder_and_matches_a_longer_optimization(space: Space) -> None:
    """With the same decoder, by fresh samples: q from an encoder, and from many steps of Adam."""
    vae, x = build((VAE, SMALL), space), points(space, 20)
    model = UnamortisedVAE(space, **SMALL).double().eval()
    model.load_state_dict(vae.state_dict(), strict=False)
    log_p = partial(model.log_likelihood, x)
    with torch.no_grad():
        svi, amortized = model.posterior(x), vae.posterior(x)
        eps = antithetic(1000, svi[0].shape, svi[0])
        values = [elbo(log_p, *q, eps) for q in (svi, amortized)]
    longer = elbo(log_p, *optimize_by_adam(log_p, *svi), eps).detach()
    assert (values[0] > values[1] - 0.05).all()
    assert (values[0] - values[1]).mean() > 0.01
    assert (longer - values[0]).mean() < 0.03


@every_space
def test_q_of_a_point_ignores_the_rest_of_the_batch(space: Space) -> None:
    """Whatever the batch, its order, and the state of the random generator."""
    model, x = build((UnamortisedVAE, SMALL), space), points(space, 7)
    model.svi_tolerance = 1e-2
    batch = model.posterior(x)
    torch.randn(3)
    reversed_batch = [q.flip(0) for q in model.posterior(x.flip(0))]
    one_by_one = [torch.cat(q) for q in zip(*(model.posterior(point[None]) for point in x), strict=True)]
    for a, b, c in zip(batch, reversed_batch, one_by_one, strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, c)


def test_training_and_evaluation_have_separate_step_budgets() -> None:
    space, calls = SPACES["levels"], list[int]()
    model, x = build((UnamortisedVAE, {"svi_steps": 3, "svi_max_steps": 50, **SMALL}), space), points(space)
    likelihood = model.log_likelihood

    def counting(x: Tensor, z: Tensor) -> Tensor:
        calls.append(len(z))
        return likelihood(x, z)

    model.log_likelihood = counting
    model.train().posterior(x)
    assert calls == [2, 2, 2]
    calls.clear()
    model.svi_tolerance = 1e-12
    model.eval().posterior(x)
    assert calls.count(4) == 50
    assert not any(q.requires_grad for q in model.posterior(x))


def test_training_updates_the_initial_logvar_by_a_moving_average() -> None:
    """With weight 0.1 per batch; evaluation leaves it unchanged, and it is part of the state dict."""
    space = SPACES["levels"]
    model, x = build((UnamortisedVAE, {"svi_max_steps": 4, **SMALL}), space), points(space)
    assert isinstance(model, UnamortisedVAE)
    model.start_logvar.fill_(-1.0)
    model.posterior(x)
    assert (model.start_logvar == -1).all()
    _, logvar = model.train().posterior(x)
    torch.testing.assert_close(model.start_logvar, -0.9 + 0.1 * logvar.mean(0))
    assert "start_logvar" in model.state_dict()


def test_rounds_that_lower_the_elbo_are_rejected() -> None:
    """Starting at the optimum of a sharp likelihood, no point may end with a lower ELBO."""

    def log_likelihood(x: Tensor, z: Tensor) -> Tensor:
        return -50 * ((z - x) ** 4).sum(-1) + 3 * torch.cos(20 * z).sum(-1)

    x = torch.randn(9, 2).double()
    start, eps = x.clone(), antithetic(32, x[:1].shape, x, torch.Generator().manual_seed(0))
    logvar = torch.full_like(start, -6.0)
    best = optimize(x, log_likelihood, start, logvar, 1e-3, 120)
    before, after = (elbo(partial(log_likelihood, x), *q, eps) for q in ((start, logvar), (best.mu, best.logvar)))
    assert (after >= before).all()
    assert (after > before).any()


def test_precisions_stay_positive_for_negative_curvature() -> None:
    """At a minimum of log p(x | z) the curvature is negative: S shrinks but stays above 0."""
    mu, logvar = ascend(lambda z: (3 * z**2).clamp(max=50).sum(-1), torch.zeros(1, 2), torch.zeros(1, 2), 40)
    assert mu.isfinite().all()
    assert logvar.isfinite().all()


@pytest.mark.parametrize("options", [{"svi_steps": 0}, {"svi_max_steps": 0}, {"svi_tolerance": 0.0}])
def test_zero_budgets_are_rejected(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="svi_steps="):
        UnamortisedVAE(Space((2,)), **options)
