"""VAEs: bounds with a known gap, gradient estimators that agree, probabilities that sum to one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from genbench.dataset import Dataset, Space
from genbench.evaluation import Evaluation
from genbench.metrics.likelihood import AT_ONCE, Metric, bound, likelihood, measure
from genbench.models.flows.linear import Linear
from genbench.models.observations import OBSERVATIONS, Gaussian, ObservationName, observation_of
from genbench.models.vaes.hierarchical import HierarchicalVAE
from genbench.models.vaes.iwae import IWAE
from genbench.models.vaes.latent import DiagonalGaussian, LatentModel, sample_posterior
from genbench.models.vaes.score import ScoreVAE
from genbench.models.vaes.unamortised import UnamortisedVAE
from genbench.models.vaes.vae import GECO, VAE
from genbench.nets.coders import Networks
from genbench.suite import Run

Make = Callable[..., LatentModel]
SMALL = {"latent": 3, "hidden": (16,), "activation": "silu"}

VAES: dict[str, tuple[Make, dict[str, object]]] = {
    "VAE": (VAE, SMALL),
    "VAE draws": (VAE, {"draws": 3, "beta": 2.0, "dropout": 0.3, **SMALL}),
    "GECO": (GECO, {"distortion": 3.0, **SMALL}),
    "IWAE": (IWAE, {"k": 4, **SMALL}),
    "score none": (ScoreVAE, {"baseline": "none", **SMALL}),
    "score mean": (ScoreVAE, {"baseline": "mean", **SMALL}),
    "score learned": (ScoreVAE, {"baseline": "learned", **SMALL}),
    "unamortised": (UnamortisedVAE, {"svi_steps": 4, "svi_max_steps": 4, **SMALL}),
    "hierarchical": (HierarchicalVAE, {"layers": (2, 3), "width": 16, "activation": "silu"}),
    "three layers": (HierarchicalVAE, {"layers": (1, 2, 2), "width": 8, "dropout": 0.2}),
}
CONVOLUTIONAL = {"VAE convnet": (VAE, {"network": "convnet", "channels": 4, **SMALL})}
every_vae = pytest.mark.parametrize("row", VAES.values(), ids=VAES)
every_net = pytest.mark.parametrize("row", {**VAES, **CONVOLUTIONAL}.values(), ids=[*VAES, *CONVOLUTIONAL])
SPACES = {"binary": Space((1, 2, 2), 2), "levels": Space((1, 2, 2), 5), "reals": Space((1, 2, 2))}
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def points(space: Space, n: int = 6) -> Tensor:
    """Return points x (n, *shape) of a space."""
    if space.levels is None:
        return 1 + 2 * torch.randn(n, *space.shape)
    return torch.randint(0, space.levels, (n, *space.shape)).to(torch.uint8)


def build(row: tuple[Make, dict[str, object]], space: Space) -> LatentModel:
    """Return a model initialized on data, with perturbed parameters, in float64 and evaluation mode."""
    make, options = row
    model = make(space, **options).double()
    model.loss(points(space, 64))
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model.eval()


# ------------------------------------------------------------------------------------------------- every VAE


@every_net
@every_space
def test_samples_and_reconstructions_have_the_shape_and_range_of_the_data(row, space: Space) -> None:
    model = build(row, space).float()
    x, mean = model.sample(50), model.reconstruct(points(space))
    assert x.shape == (50, 1, 2, 2)
    assert x.dtype == (torch.float32 if space.levels is None else torch.uint8)
    assert mean.shape == (6, 1, 2, 2)
    assert model.encode(points(space)).shape == (6, model.latent)
    if space.levels:
        assert x.max().item() < space.levels
        assert len(x.unique()) > 1
        assert 0 <= mean.min().item() <= mean.max().item() <= space.levels - 1


@every_net
@every_space
def test_every_parameter_is_trained(row, space: Space) -> None:
    model = build(row, space).train()
    gradients = torch.autograd.grad(model.loss(points(space)), list(model.parameters()), allow_unused=True)
    untrained = [name for (name, _), g in zip(model.named_parameters(), gradients, strict=True) if g is None]
    assert untrained == []


@every_vae
def test_log_weights_are_unbiased_and_probabilities_sum_to_one(row) -> None:
    """The mean weight is an unbiased estimate of p(x): over all 16 images it sums to one and matches the samples."""
    model = build(row, SPACES["binary"])
    x = torch.tensor(list(itertools.product((0, 1), repeat=4)), dtype=torch.uint8).view(16, 1, 2, 2)
    with torch.no_grad():
        w = model.log_weights(x, 20_000).exp()
        counts = torch.unique(model.sample(20_000).flatten(1).long() @ torch.tensor([8, 4, 2, 1]), return_counts=True)
    p, stderr = w.mean(0), w.std(0) / len(w) ** 0.5
    assert p.sum().item() == pytest.approx(1, abs=5 * stderr.norm().item() + 1e-9)
    assert stderr.norm().item() < 0.03
    sampled = torch.zeros(16).double().index_put_((counts[0],), counts[1].double()) / 20_000
    assert ((sampled - p).abs() < 5 * (stderr**2 + p * (1 - p) / 20_000).sqrt()).all()


@every_vae
@every_space
def test_log_prob_of_a_point_ignores_the_rest_of_the_batch(row, space: Space) -> None:
    """With the same random numbers for row 0."""
    model, x = build(row, space), points(space)
    other_batch = torch.cat((x[:1], points(space, 5)))

    def first(batch: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(3)
        return model.log_weights(batch, 1)[0, 0], model.log_prob(batch)[0]

    with torch.no_grad():
        torch.testing.assert_close(first(x), first(other_batch))


@every_vae
@every_space
def test_bounds_tighten_with_k(row, space: Space) -> None:
    """L_1 <= L_4 <= L_32 <= L_1000 in expectation, and L_1 is the ELBO."""
    model, x = build(row, space), points(space)
    with torch.no_grad():
        log_w = model.log_weights(x, 32_000)
        elbo = torch.stack([model.log_prob(x) for _ in range(400)]) if not isinstance(model, IWAE) else log_w
    means = [log_w.view(-1, k, 6).logsumexp(1) - math.log(k) for k in (1, 4, 32, 1000)]
    for low, high in itertools.pairwise(means):
        error = (low.var(0) / len(low) + high.var(0) / len(high)).sqrt()
        assert (high.mean(0) > low.mean(0) - 4 * error).all()
    error = (elbo.var(0) / len(elbo) + log_w.var(0) / len(log_w)).sqrt()
    assert ((elbo.mean(0) - log_w.mean(0)).abs() < 5 * error).all()


@every_vae
def test_a_loaded_model_is_not_initialized_again(row) -> None:
    space = SPACES["levels"]
    first, (make, options) = build(row, space).float(), row
    second = make(space, **options)
    second.load_state_dict(first.state_dict())
    second.train().loss(points(space))
    assert torch.equal(second.center, first.center)
    assert torch.equal(second.last_bias, first.last_bias)


# ------------------------------------------------------------------------------------- observation models

LEVELS_AND_NAMES = [
    (2, "bernoulli"),
    (2, "logistic"),
    (5, "logistic"),
    (256, "logistic"),
    (5, "categorical"),
    (2, "categorical"),
]


@pytest.mark.parametrize(("levels", "name"), LEVELS_AND_NAMES)
@pytest.mark.parametrize("scale", [0.1, 3.0, 50.0])
def test_probabilities_of_levels_sum_to_one_and_have_the_reported_mean(
    levels: int, name: ObservationName, scale: float
) -> None:
    p_x = OBSERVATIONS[name](Space((40,), levels))
    theta = scale * torch.randn(p_x.parameters, 40).double()
    x = torch.arange(levels).double()[:, None].expand(-1, 40)
    p = p_x.log_prob(theta.expand(levels, -1, -1), x).exp()
    torch.testing.assert_close(p.sum(0), torch.ones(40).double())
    torch.testing.assert_close(p_x.mean(theta), (p * x).sum(0))


@pytest.mark.parametrize(("levels", "name"), LEVELS_AND_NAMES)
def test_samples_follow_the_probabilities(levels: int, name: ObservationName) -> None:
    p_x = OBSERVATIONS[name](Space((3,), levels))
    theta = torch.randn(p_x.parameters, 3)
    samples = p_x.sample(theta.expand(20_000, -1, -1)).double()
    x = torch.arange(levels)[:, None].expand(-1, 3)
    cdf = p_x.log_prob(theta.expand(levels, -1, -1), x.float()).exp().double().cumsum(0)
    empirical = (samples[:, None] <= x.double()).double().mean(0)
    assert (empirical - cdf).abs().max() < 0.02  # fails with probability 2 e^-16 (Dvoretzky, Kiefer, Wolfowitz, 1956)


def test_samples_of_the_discretized_logistic_have_its_moments_and_tails() -> None:
    """Far from the edges, mean mu and variance s^2 pi^2 / 3 + 1/12 in levels; the edge levels have the whole tails."""
    p_x, half, n = OBSERVATIONS["logistic"](Space((2,), 256)), 127.5, 200_000
    theta = torch.tensor([[0.1, 2.5], [math.log(6 / half), math.log(6 / half)]]).double()
    x = p_x.sample(theta.expand(n, -1, -1)).double()
    s = 6 * (1 + math.exp(-7) / (6 / half))  # the floor on log s adds a little
    variance = s**2 * math.pi**2 / 3 + 1 / 12
    assert x[:, 0].mean().item() == pytest.approx(half * 1.1, abs=5 * (variance / n) ** 0.5)
    assert x[:, 0].var().item() == pytest.approx(variance, rel=0.03)
    assert (x[:, 1] == 255).all()
    edge = theta[:, :1].clone()
    edge[0] = 1.0  # mu is the last level, which has all mass above 254.5
    at_edge = (p_x.sample(edge.expand(n, -1, -1)) == 255).double().mean().item()
    assert at_edge == pytest.approx(1 / (1 + math.exp(-0.5 / s)), abs=5 * (0.25 / n) ** 0.5)


@pytest.mark.parametrize("raw", [-1e4, -50.0, 0.0, 20.0])
def test_logistic_and_its_gradients_are_finite_in_float32(raw: float) -> None:
    p_x = OBSERVATIONS["logistic"](Space((4,), 256))
    theta = torch.tensor([[-30.0, -1.0, 0.3, 30.0], [raw] * 4], requires_grad=True)
    for level in (0.0, 128.0, 255.0):
        log_p = p_x.log_prob(theta, torch.full((4,), level))
        (gradient,) = torch.autograd.grad(log_p.sum(), theta)
        assert log_p.isfinite().all()
        assert (log_p <= 0).all()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("sigma", [None, 0.7])
def test_gaussian_density_is_normalized(sigma: float | None) -> None:
    p_x = Gaussian(Space((4,)), sigma)
    theta, x = torch.randn(p_x.parameters, 4).double(), torch.randn(4).double()
    std = torch.full((4,), 0.7).double() if sigma else theta[1].exp()
    expected = torch.distributions.Normal(theta[0], std).log_prob(x)
    torch.testing.assert_close(p_x.log_prob(theta, x), expected, rtol=2e-2 if sigma is None else 1e-9, atol=1e-2)
    grid = torch.linspace(-30, 30, 60_001, dtype=torch.float64)[:, None].expand(-1, 4)
    mass = torch.trapezoid(p_x.log_prob(theta.expand(60_001, -1, -1), grid).exp(), dx=1e-3, dim=0)
    torch.testing.assert_close(mass, torch.ones(4).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("levels", "name"), [*LEVELS_AND_NAMES, (None, "gaussian")])
def test_decoders_are_initialized_to_the_marginals(levels: int | None, name: ObservationName) -> None:
    space = Space((3,), levels)
    x = points(space, 2000).float()
    p_x = OBSERVATIONS[name](space)
    theta = p_x.initial_theta(x)
    assert theta.shape == (p_x.parameters, 3)
    torch.testing.assert_close(p_x.mean(theta), x.mean(0), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("levels", "name"), [(17, "gaussian"), (17, "bernoulli"), (None, "logistic")])
def test_unsuitable_observation_models_are_rejected(levels: int | None, name: ObservationName) -> None:
    valid = {17: "logistic", None: "gaussian"}[levels]
    with pytest.raises(ValueError, match=f"observation='{name}' does not suit .*'{valid}' does"):
        observation_of(Space((2,), levels), name)
    with pytest.raises(ValueError, match=r"sigma=0\.5 needs a Gaussian"):
        observation_of(Space((2,), 17), sigma=0.5)
    with pytest.raises(ValueError, match="needs images"):
        VAE(Space((2,)), network="convnet")


# --------------------------------------------------------------------------------- a linear-Gaussian model
#
# x = W z + b + 0.5 n: log p(x) = log N(x; b, W W' + I/4), p(z | x) = N(S W' (x - b) / 0.25, S) with
# S = (I + W'W / 0.25)^-1. The columns of W are orthogonal, so S is diagonal and q can equal the posterior.


class LinearGaussian(DiagonalGaussian):
    """This model, q being the true posterior shifted by `shift` standard deviations, with `spread` added to logvar."""

    def __init__(self, shift: float = 0.0, spread: float = 0.0) -> None:
        space, sigma = Space((3,)), 0.5
        W = torch.tensor([[1.0, 0.5], [-0.5, 1.0], [0.3, 0.0]])
        W[2, 1] = -(W[0, 0] * W[0, 1] + W[1, 0] * W[1, 1]) / W[2, 0]
        decoder = nn.Sequential(nn.Linear(2, 3))
        super().__init__(space, 2, Gaussian(space, sigma), decoder)
        with torch.no_grad():
            decoder[0].weight.copy_(W)
        self.double().eval()
        self.W, self.b, self.var = W.double(), decoder[0].bias.detach(), sigma**2
        self.S = 1 / (1 + (self.W**2).sum(0) / self.var)
        self.delta = nn.Parameter(torch.tensor([shift, spread]).double())

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu = (x - self.b) @ self.W / self.var * self.S + self.delta[0] * self.S.sqrt()
        return mu, (self.S.log() + self.delta[1]).expand_as(mu)

    def truth(self, x: Tensor) -> Tensor:
        cov = self.W @ self.W.T + self.var * torch.eye(3).double()
        return torch.distributions.MultivariateNormal(self.b, cov).log_prob(x)


X = 2 * torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("k", [1, 7])
def test_with_the_true_posterior_every_log_weight_is_log_p(k: int) -> None:
    model = LinearGaussian()
    torch.testing.assert_close(model.log_weights(X, k), model.truth(X).expand(k, -1))


@pytest.mark.parametrize(("shift", "spread"), [(0.0, 0.0), (0.8, 0.0), (-0.3, 0.7)])
def test_elbo_gap_is_the_kl_from_the_posterior(shift: float, spread: float) -> None:
    model = LinearGaussian(shift, spread)
    gap = 2 * 0.5 * (math.expm1(spread) - spread + shift**2)
    with torch.no_grad():
        elbo = model.log_prob(X.repeat(4000, 1)).view(4000, 5)
        log_w = model.log_weights(X, 4000)
    for estimate in (elbo, log_w):
        error = estimate.std(0) / len(estimate) ** 0.5 + 1e-12
        assert ((model.truth(X) - estimate.mean(0) - gap).abs() < 5 * error).all()


def test_gap_of_iwae_decreases_as_one_over_k() -> None:
    """k (log p - L_k) -> (E_q[w^2] / p^2 - 1) / 2, which for a shift d of q in each of two dimensions is e^(2 d^2)."""
    model, k, d = LinearGaussian(shift=0.3), 50, 0.3
    with torch.no_grad():
        log_w = model.log_weights(X, k * 10_000).view(10_000, k, 5)
    gap = k * (model.truth(X) - log_w.logsumexp(1) + math.log(k))
    limit = 0.5 * math.expm1(2 * d**2)
    error = gap.std(0) / len(gap) ** 0.5
    assert ((gap.mean(0) - limit).abs() < 4 * error + 3 * limit / k).all()


def test_kl_is_accurate_where_q_is_close_to_the_prior() -> None:
    kl = sample_posterior(torch.zeros(1, 1), torch.full((1, 1), 1e-4)).kl
    assert kl.item() == pytest.approx(2.5e-9, rel=1e-3)


# ---------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("baseline", [None, 0.0, -3.0], ids=["reparameterized", "score", "baseline"])
def test_gradient_estimators_match_the_closed_form(baseline: float | None) -> None:
    """The gradient of KL(q, posterior) in two dimensions is 2 d by the shift d and expm1(s) by the spread s."""
    model = LinearGaussian(0.4, -0.3)
    x = X[:1].expand(200_000, -1)
    (g,) = torch.autograd.grad(model.surrogate(x, baseline), model.delta)
    expected = torch.tensor([2 * 0.4, math.expm1(-0.3)]).double()
    torch.testing.assert_close(g, expected, rtol=0, atol=0.02 if baseline is None else 0.06)


def test_score_and_reparameterized_gradients_agree_for_a_network() -> None:
    model = build(VAES["score mean"], SPACES["binary"])
    assert isinstance(model, DiagonalGaussian)
    x = points(SPACES["binary"], 1).expand(400_000, -1, -1, -1)
    parameters = [p for name, p in model.named_parameters() if name.startswith(("encoder", "decoder"))]
    with torch.no_grad():
        b = model.log_likelihood(x, sample_posterior(*model.posterior(x)).z).mean().item()
    a, c = (
        torch.cat([g.flatten() for g in torch.autograd.grad(model.surrogate(x, baseline), parameters)])
        for baseline in (None, b)
    )
    assert (a - c).norm() < 0.02 * a.norm()


def test_value_of_the_surrogate_is_the_negative_elbo() -> None:
    model = LinearGaussian(0.4, -0.3)
    values = torch.stack([model.surrogate(X.repeat(400, 1), b).detach() for b in (None, 0.0)])
    expected = -model.truth(X).mean() + 0.4**2 + math.expm1(-0.3) + 0.3
    torch.testing.assert_close(values, expected.expand(2), rtol=0, atol=0.1)


def test_gradient_of_l_k_is_that_of_normalized_weights() -> None:
    """Importance Weighted Autoencoders (2016), eq. 14; the value is the bound, not that of the surrogate."""
    model = build(VAES["IWAE"], SPACES["binary"])
    x, parameters = points(SPACES["binary"]), list(model.parameters())
    torch.manual_seed(0)
    loss = model.loss(x)
    torch.manual_seed(0)
    log_w = model.log_weights(x, 4)
    surrogate = -(log_w.softmax(0).detach() * log_w).sum(0).mean()
    torch.testing.assert_close(loss, -(log_w.exp().mean(0)).log().mean())
    assert loss.item() != pytest.approx(surrogate.item(), abs=1e-3)
    for a, b in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(surrogate, parameters), strict=True):
        torch.testing.assert_close(a, b)


def test_geco_reaches_its_target_distortion() -> None:
    space = Space((6,))
    torch.manual_seed(0)
    x = torch.randn(2000, 6) @ torch.diag(torch.tensor([3.0, 2.0, 1.0, 1.0, 0.5, 0.5]))
    model = GECO(space, distortion=5.0, latent=4, hidden=(32,), sigma=0.5, activation="silu")
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for step in range(800):
        optimizer.zero_grad()
        model.loss(x[torch.arange(step * 200, step * 200 + 200) % 2000]).backward()
        optimizer.step()
    with torch.no_grad():
        distortion = model.eval().rate_and_distortion(x)[1].mean().item()
    assert distortion == pytest.approx(5.0, abs=0.5)


def test_geco_loss_and_adaptation_of_lambda() -> None:
    """Taming VAEs (2018), algorithm 1: loss = rate + lambda (distortion - target), here divided by max(1, lambda)."""
    model, x = GECO(SPACES["levels"], distortion=3.0, **SMALL).double(), points(SPACES["levels"])
    for log_lambda in (-1.0, 2.0):
        model.log_lambda.fill_(log_lambda)
        loss, rate, distortion = loss_and_parts(model.eval(), x)
        weight = math.exp(log_lambda)
        assert loss == pytest.approx((rate + weight * (distortion - 3.0)) / max(1.0, weight))
    for excess, sign in ((5.0, 1), (-5.0, -1)):
        model.log_lambda.zero_(), model.constraint.zero_()
        model.adapt_lambda(torch.tensor(excess).double())
        assert model.log_lambda.sign().item() == sign
        assert model.log_lambda.item() == pytest.approx(0.1 * 0.1 * excess / 3, rel=1e-5)
    model.train().loss(x)
    assert model.log_lambda.item() != pytest.approx(0.1 * 0.1 * -5 / 3)


def test_geco_raises_lambda_above_the_target_distortion_and_lowers_it_below() -> None:
    """log lambda moves by speed * C, C the moving average of (distortion - target) / target."""
    for excess, sign in ((2.0, 1), (-2.0, -1)):
        model, C, log_lambda = GECO(SPACES["levels"], distortion=4.0, speed=0.1, memory=0.9, **SMALL), 0.0, 0.0
        for _ in range(3):
            model.adapt_lambda(torch.tensor(excess))
            C = 0.9 * C + 0.1 * excess / 4
            log_lambda += 0.1 * C
        assert model.log_lambda.item() == pytest.approx(log_lambda)
        assert sign * model.log_lambda.item() > 0


@pytest.mark.parametrize("log_lambda", [-1.0, 0.0, 1.5])
def test_geco_loss_in_evaluation_leaves_lambda_unchanged(log_lambda: float) -> None:
    """(rate + lambda (distortion - target)) / max(1, lambda): beta-VAE with beta = 1 / lambda."""
    model = build((GECO, {"distortion": 3.0, **SMALL}), SPACES["levels"])
    model.log_lambda.fill_(log_lambda)
    loss, rate, distortion = loss_and_parts(model, points(SPACES["levels"]))
    weight = math.exp(log_lambda)
    assert loss == pytest.approx((rate + weight * (distortion - 3.0)) / max(1.0, weight))
    assert model.log_lambda.item() == pytest.approx(log_lambda)


def loss_and_parts(model: LatentModel, x: Tensor) -> tuple[float, float, float]:
    """Return loss, rate and distortion, computed with the same random numbers."""
    torch.manual_seed(0)
    loss = model.loss(x).item()
    torch.manual_seed(0)
    rate, distortion = model.rate_and_distortion(x)
    return loss, rate.mean().item(), distortion.mean().item()


WITH_WARMUP: dict[str, tuple[Make, dict[str, object]]] = {
    "VAE": (VAE, {"warmup": 2, **SMALL}),
    "hierarchical": (HierarchicalVAE, {"layers": (2, 3), "width": 8, "warmup": 2, "free": 0.0}),
}


@pytest.mark.parametrize("row", WITH_WARMUP.values(), ids=WITH_WARMUP)
def test_rate_has_full_weight_after_warmup(row) -> None:
    make, options = row
    model, x = make(SPACES["levels"], **options).double(), points(SPACES["levels"])
    for beta in (0.5, 1.0, 1.0):
        loss, rate, distortion = loss_and_parts(model, x)
        assert loss == pytest.approx(distortion + beta * rate)


def test_hierarchical_loss_has_at_least_the_free_nats_of_each_layer() -> None:
    model = HierarchicalVAE(SPACES["levels"], layers=(2, 3), width=8, warmup=0, free=100.0).double()
    loss, _, distortion = loss_and_parts(model, points(SPACES["levels"]))
    assert loss == pytest.approx(distortion + 2 * 100)


# ------------------------------------------------------------------------------------------- L_k as a metric

RUN = Run(suite="s", name="n", model="vaes.vae:VAE", data="digits")


def test_l_k_is_computed_in_batches_of_samples() -> None:
    model = LinearGaussian(shift=0.3)
    data = Dataset(model.space, X, X, X, log_prob=model.truth)
    k = 2 * AT_ONCE // len(X) + 3
    measurements = Metric(lambda evaluation: measure(evaluation, k)).measure(Evaluation(model, data, RUN))
    assert measurements["nats"].impl == f"likelihood 1, L_{k}"
    assert measurements["nats"].kind == "bound"
    assert measurements["excess_nats"].value == pytest.approx(0.5 * math.expm1(2 * 0.3**2) / k, abs=0.05)


def test_k_has_no_effect_for_models_without_latents() -> None:
    model = Linear(Space((3,)))
    x = torch.randn(10, 3)
    evaluation = Evaluation(model, Dataset(model.space, x, x, x), RUN)
    log_p, k = bound(evaluation, 50, x)
    assert k is None
    torch.testing.assert_close(log_p, evaluation.log_prob)
    assert measure(evaluation, 50) == likelihood.measure(evaluation)


def test_convnets_have_the_requested_output_shapes() -> None:
    for space in (Space((3, 6, 4), 17), Space((1, 7, 7), 2)):
        networks = Networks("convnet", channels=4)
        x, z = torch.randn(2, *space.shape), torch.randn(2, 5)
        assert networks.encoder(space, 10)(x).shape == (2, 10)
        assert networks.decoder(space, 5, 3)(z).shape == (2, 3 * space.dims)
