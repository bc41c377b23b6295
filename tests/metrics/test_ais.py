"""Annealed importance sampling: transitions keep a density invariant, weights average to p(x), bounds enclose it."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from genbench.dataset import Dataset, Space
from genbench.evaluation import Evaluation
from genbench.metrics import likelihood
from genbench.metrics.ais import ais, measure, quick
from genbench.metrics.annealing import (
    MAX_STEP,
    hmc_transition,
    log_weights,
    lower_bound,
    schedule,
    state_at,
    tune_step_sizes,
    upper_bound,
)
from genbench.metrics.decoders import NoisyGenerator
from genbench.models.autoencoders.autoencoder import Autoencoder
from genbench.models.flows.linear import Linear
from genbench.models.gans.gan import GAN
from genbench.models.vaes.hierarchical import HierarchicalVAE
from genbench.models.vaes.vae import VAE
from genbench.registry import find
from genbench.suite import Run, read_suite, suite_paths
from tests.models.test_vaes import LinearGaussian

RUN = Run(suite="s", name="n", model="vaes.vae:VAE", data="digits")
SMALL = partial(measure, points=40, simulated=40, chains=8, temperatures=40)
X = 0.8 * torch.randn(6, 3, generator=torch.Generator().manual_seed(1)).double()


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def normals(*size: int) -> Tensor:
    """Return z (*size) of N(0, I)."""
    return torch.randn(*size, dtype=torch.float64)


def posterior(model: LinearGaussian, x: Tensor, chains: int) -> Tensor:
    """Return exact draws of p(z | x), x (B, 3) -> (chains, B, 2)."""
    mu, logvar = model.posterior(x)
    return (mu + (0.5 * logvar).exp() * normals(chains, *mu.shape)).detach()


def evaluation_of(model: nn.Module, x: Tensor) -> Evaluation:
    """Return an evaluation of the model on x (N, *shape), which is all three splits."""
    return Evaluation(model.eval(), Dataset(model.space, x, x, x), RUN)


# ----------------------------------------------------------------------------------------- schedules, transitions


@pytest.mark.parametrize("name", ["linear", "sigmoid"])
def test_schedules_rise_from_0_to_1_and_are_symmetric(name: str) -> None:
    beta = schedule(7, name)
    assert (beta[0], beta[-1], len(beta)) == (0, 1, 8)
    assert (beta.diff() > 0).all()
    torch.testing.assert_close(beta + beta.flip(0), torch.ones(8).double())
    assert torch.equal(schedule(1, name), torch.tensor([0.0, 1.0]).double())


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("step", [0.1, 0.45])
def test_transitions_leave_the_tempered_posterior_invariant(beta: float, step: float) -> None:
    """N(z; 0, I) p(x | z)^beta is Gaussian here; draws keep their moments though many are rejected."""
    model, x, n = LinearGaussian(), X[:2], 20_000
    precision = torch.eye(2).double() + beta * model.W.T @ model.W / model.var
    mean = beta * (x - model.b) @ model.W / model.var @ precision.inverse()
    z = mean + normals(n, 2, 2) @ torch.linalg.cholesky(precision.inverse()).T
    log_p = partial(model.log_likelihood, x)
    state, accepted = state_at(z, log_p), torch.zeros(())
    for _ in range(2):
        state, accept = hmc_transition(state, beta, torch.full((2,), step), log_p)
        accepted = accepted + accept.mean() / 2
    assert step < 0.4 or beta < 1 or accepted < 0.95
    assert (state.z != z).any(-1).double().mean() > 0.5
    spread = precision.inverse().diagonal().sqrt()
    assert ((state.z.mean(0) - mean).abs() < 5 * spread / n**0.5).all()
    for b in range(2):
        torch.testing.assert_close(state.z[:, b].T.cov() @ precision, torch.eye(2).double(), atol=0.06, rtol=0)
    torch.testing.assert_close(state.log_p, log_p(state.z))


def test_tuned_step_sizes_are_accepted_about_two_thirds_of_the_time() -> None:
    """Posteriors of the same model under noise of 1/2 and of 1/20: the step sizes shrink in proportion."""
    x, betas = 0.3 * normals(4, 8), schedule(300)
    for sigma in (0.5, 0.05):

        def log_p(z: Tensor, sigma: float = sigma) -> Tensor:
            return -0.5 * ((x - z) ** 2).sum(-1) / sigma**2

        step_sizes = tune_step_sizes(normals(8, 4, 8), betas, log_p)
        assert step_sizes.shape == (299, 4)
        z = x / (1 + sigma**2) + sigma / (1 + sigma**2) ** 0.5 * normals(400, 4, 8)
        _, accept = hmc_transition(state_at(z, log_p), 1.0, step_sizes[-20:].mean(0), log_p)
        assert accept.mean().item() == pytest.approx(0.65, abs=0.2)
        assert step_sizes[-1].max().item() < MAX_STEP
        assert 0.3 < step_sizes[-1].mean().item() / sigma < 2


# --------------------------------------------------------------------------------------------------------- weights


def test_one_temperature_is_importance_sampling_from_the_prior() -> None:
    model, z = LinearGaussian(), normals(5, 6, 2)
    log_p, none = partial(model.log_likelihood, X), torch.zeros(0, 6)
    for backwards in (False, True):
        log_w = log_weights(z, schedule(1), none, log_p, backwards=backwards)
        torch.testing.assert_close(log_w, log_p(z))
    torch.testing.assert_close(lower_bound(log_w), log_p(z).exp().mean(0).log())
    torch.testing.assert_close(upper_bound(log_w), -(-log_p(z)).exp().mean(0).log())


def test_weights_average_to_the_evidence_and_inverse_weights_to_its_inverse() -> None:
    model, n, betas = LinearGaussian(), 10_000, schedule(8, "linear")
    log_p, step_sizes = partial(model.log_likelihood, X), torch.full((7, 6), 0.3)
    forward = log_weights(normals(n, 6, 2), betas, step_sizes, log_p) - model.truth(X)
    backward = model.truth(X) - log_weights(posterior(model, X, n), betas, step_sizes, log_p, backwards=True)
    for ratio in (forward.exp(), backward.exp()):
        assert ((ratio.mean(0) - 1).abs() < 5 * ratio.std(0) / n**0.5).all()
    assert (forward.mean(0) < 0).all()
    assert (backward.mean(0) < 0).all()


def test_bounds_tighten_to_a_tenth_of_a_nat_around_the_truth() -> None:
    """The gap shrinks with more temperatures, and log p(x) lies between the bounds."""
    model = LinearGaussian()
    log_p, n, gaps = partial(model.log_likelihood, X), 100, list[float]()
    for temperatures in (3, 30, 200):
        betas = schedule(temperatures)
        step_sizes = tune_step_sizes(normals(4, 6, 2), betas, log_p)
        forward = log_weights(normals(n, 6, 2), betas, step_sizes, log_p)
        backward = log_weights(posterior(model, X, n), betas, step_sizes, log_p, backwards=True)
        gaps.append((upper_bound(backward) - lower_bound(forward)).mean().item())
        noise = 4 * (forward.std(0) + backward.std(0)) / n**0.5
        assert (lower_bound(forward) < model.truth(X) + noise).all()
        assert (upper_bound(backward) > model.truth(X) - noise).all()
    assert gaps[0] > gaps[1] > gaps[2]
    for bound in (lower_bound(forward), upper_bound(backward)):
        assert (bound - model.truth(X)).abs().max().item() < 0.1


# ------------------------------------------------------------------------------------------------------ the metric


def test_the_metric_bounds_the_evidence_of_the_test_points() -> None:
    model = LinearGaussian()
    with torch.no_grad():
        x = model.sample(60).double()
    measurements = SMALL(evaluation_of(model, x))
    assert set(measurements) == {"ais_nats", "ais_gap_nats"}
    nats, gap = measurements["ais_nats"], measurements["ais_gap_nats"]
    assert nats.value == pytest.approx(-model.truth(x[:40]).mean().item(), abs=0.15)
    assert -4 * gap.stderr < gap.value < 0.3
    assert (nats.kind, nats.n, gap.n) == ("bound", 40, 40)
    assert nats.impl == "ais 2, first 40 points, 8 chains, 40 temperatures"
    torch.manual_seed(5)
    again = SMALL(evaluation_of(model, x))
    torch.manual_seed(5)
    assert SMALL(evaluation_of(model, x)) == again != measurements


def test_both_bounds_and_their_excess_are_of_the_same_points() -> None:
    """The truth is the model's own density: the excess of AIS is near 0, and that of L_k with a shifted q is known."""
    model, k = LinearGaussian(shift=0.3), 50
    with torch.no_grad():
        x = model.sample(90).double()
    evaluation = Evaluation(model, Dataset(model.space, x, x, x, log_prob=model.truth), RUN)
    by_draws = likelihood.measure(evaluation, k=k, points=40)
    by_chains = SMALL(evaluation)
    truth = model.truth(x[:40]).mean().item()
    for nats, excess in (
        (by_draws["nats"], by_draws["excess_nats"]),
        (by_chains["ais_nats"], by_chains["ais_excess_nats"]),
    ):
        assert (nats.n, excess.n, excess.kind) == (40, 40, "bound")
        assert excess.value == pytest.approx(nats.value + truth)
    assert by_chains["ais_excess_nats"].value == pytest.approx(0, abs=0.15)
    assert by_draws["excess_nats"].value == pytest.approx(0.5 * math.expm1(2 * 0.3**2) / k, abs=0.02)
    assert by_draws["nats"].impl == "likelihood 1, L_50, first 40 points"


def test_suites_with_ais_take_all_likelihoods_on_the_same_points() -> None:
    suites = [suite for suite in map(read_suite, suite_paths().values()) if any("ais" in m for m in suite.metrics)]
    assert len(suites) >= 2
    for suite in suites:
        metrics = [find("metrics", name) for name in suite.metrics if name.startswith(("ais", "likelihood"))]
        limits = [metric.measure.keywords.get("points") for metric in metrics]
        for entry in suite.data:
            n = len(find("datasets", entry.data)().test)
            assert len({n if limit is None else min(limit, n) for limit in limits}) == 1, (suite.suite, entry.data)


class Affine(nn.Module):
    """G(z) = W z + b in the data's own units."""

    latent = 2

    def __init__(self, space: Space, scale: float) -> None:
        super().__init__()
        self.space = space
        self.net = nn.Linear(2, space.dims).double()
        with torch.no_grad():
            self.net.weight.mul_(scale)
            self.net.bias.copy_(torch.linspace(-1, (space.levels or 1) + 0.5, space.dims))

    def generate(self, z: Tensor) -> Tensor:
        return self.net(z)

    def decode(self, z: Tensor) -> Tensor:
        return self.net(z)


def test_a_linear_generator_with_noise_is_a_linear_gaussian_model_on_reals() -> None:
    model = Affine(Space((3,)), 2.0)
    W, b = model.net.weight.detach(), model.net.bias.detach()
    truth = torch.distributions.MultivariateNormal(b, W @ W.T + 0.5**2 * torch.eye(3).double())
    x = truth.sample((40,))
    measurements = SMALL(evaluation_of(model, x), sigma=0.5)
    assert measurements["ais_nats"].value == pytest.approx(-truth.log_prob(x).mean().item(), abs=0.15)
    assert (measurements["ais_nats"].kind, measurements["ais_nats"].impl[-9:]) == ("estimate", "sigma 0.5")
    drawn = NoisyGenerator(model, 0.5).sample_x(normals(20_000, 2))
    torch.testing.assert_close(drawn.T.cov(), truth.covariance_matrix, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_probabilities_of_integers_under_a_generator_with_noise_sum_to_one(sigma: float) -> None:
    model = NoisyGenerator(Affine(Space((2,), 4), 3.0), sigma)
    x, z = torch.tensor(list(itertools.product(range(4), repeat=2))), normals(5, 1, 2).expand(5, 16, 2)
    p = model.log_likelihood(x, z).exp()
    torch.testing.assert_close(p.sum(1), torch.ones(5).double())
    drawn = model.sample_x(z[0, :1].expand(40_000, 2)).long() @ torch.tensor([4, 1])
    frequency = torch.bincount(drawn, minlength=16) / 40_000
    assert ((frequency - p[0]).abs() < 5 * (p[0] / 40_000).sqrt() + 1e-4).all()


def test_the_likelihood_has_a_finite_gradient_far_from_the_samples() -> None:
    model = NoisyGenerator(Affine(Space((3,), 256), 1.0).float(), 1.0)
    x = torch.tensor([[0, 128, 255]])
    for z in (torch.full((1, 2), 300.0), torch.full((1, 2), -300.0), torch.zeros(1, 2)):
        state = state_at(z[None], partial(model.log_likelihood, x))
        assert state.log_p.isfinite().all()
        assert state.gradient.isfinite().all()


def test_ais_applies_to_decoders_and_generators_only() -> None:
    space = Space((1, 4, 4), 5)
    x = torch.randint(0, 5, (6, 1, 4, 4)).to(torch.uint8)
    tiny = partial(measure, points=4, simulated=3, chains=2, temperatures=3)
    mlp = {"latent": 2, "hidden": (8,)}
    for model in (VAE(space, **mlp), HierarchicalVAE(space, layers=(1, 2), width=8), GAN(space, **mlp)):
        measurements = tiny(evaluation_of(model, x))
        assert set(measurements) == {"ais_nats", "ais_bpd", "ais_gap_nats"}
        assert measurements["ais_bpd"].value == pytest.approx(measurements["ais_nats"].value / math.log(2) / 16)
        assert (measurements["ais_nats"].n, measurements["ais_gap_nats"].n) == (4, 3)
        assert measurements["ais_nats"].kind == ("estimate" if isinstance(model, GAN) else "bound")
    for model in (Linear(space), Autoencoder(space, **mlp)):
        assert quick.measure(evaluation_of(model, x)) == ais.measure(evaluation_of(model, x)) == {}
    assert find("metrics", "ais:quick") is quick
