"""Mixtures: EM compared with closed forms and scikit-learn, normalization of the density, samples."""

import math
from itertools import pairwise

import pytest
import torch
from scipy.stats import chisquare, multivariate_normal
from torch import Tensor

from genbench.dataset import Dataset, Space
from genbench.evaluation import Evaluation
from genbench.metrics.likelihood import L16, likelihood
from genbench.models.mixtures.cells import log_rectangle
from genbench.models.mixtures.gmm import GMM, Mixture, em_step, init_kmeans_plusplus, precision_factor
from genbench.registry import find
from genbench.suite import Run

SPACE_2D = Space((2,))
DIGIT = Space((1, 2, 2), levels=17)


def points(n: int = 600, D: int = 2) -> Tensor:
    """Return n points of three overlapping Gaussians, (n, D) float64."""
    generator = torch.Generator().manual_seed(0)
    x, k = torch.randn(n, D, generator=generator, dtype=torch.float64), torch.randint(3, (n,), generator=generator)
    spread = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64)[k, None]
    return x.cumsum(1) * spread + 2.0 * k[:, None]


def run_em(x: Tensor, mixture: Mixture, n: int, floor: float = 0.0) -> tuple[Mixture, list[float]]:
    """Return the mixture after n steps of EM, and the mean log-likelihoods before each step."""
    nats_before = []
    for _ in range(n):
        mixture, nats = em_step(x, mixture, floor)
        nats_before.append(nats)
    return mixture, nats_before


def fit(x: Tensor, space: Space = SPACE_2D, seed: int = 0, **options) -> GMM:
    torch.manual_seed(seed)
    model = GMM(space, **options).eval()
    model.fit_closed_form(x)
    return model


def random_gmm(space: Space = SPACE_2D) -> GMM:
    """Return a mixture of three components with random parameters."""
    torch.manual_seed(1)
    model = GMM(space, components=3).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.5)
    return model


def covariances(mixture: Mixture) -> Tensor:
    return (mixture.U @ mixture.U.mT).inverse()


# ------------------------------------------------------------------------------------------------------------ EM


@pytest.mark.parametrize("D", [1, 2, 5])
def test_em_never_decreases_the_likelihood(D):
    x = points(D=D)
    torch.manual_seed(0)
    _, nats = run_em(x, init_kmeans_plusplus(x, 7, 0.0), 60)
    assert all(after >= before - 1e-12 for before, after in pairwise(nats))
    assert nats[-1] > nats[0] + 0.01


def test_one_component_is_the_maximum_likelihood_gaussian():
    x = points()
    model = fit(x.float(), components=1, floor=1e-12)
    mixture, Sigma = model.mixture, x.float().double().T.cov(correction=0)
    torch.testing.assert_close(mixture.mu[0], x.float().double().mean(0))
    torch.testing.assert_close(covariances(mixture)[0], Sigma)
    expected = multivariate_normal(x.mean(0), Sigma).logpdf(x)
    torch.testing.assert_close(model.log_prob(x), torch.from_numpy(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("D", "floor"), [(2, 0.0), (4, 1e-3)])
def test_em_matches_scikit_learn_from_the_same_start(D, floor):
    from sklearn.mixture import GaussianMixture

    x = points(D=D)
    torch.manual_seed(3)
    init = init_kmeans_plusplus(x, 4, floor)
    means, precisions = init.mu.numpy(), (init.U @ init.U.mT).numpy()
    theirs = GaussianMixture(
        4, tol=0, max_iter=20, reg_covar=floor, weights_init=[0.25] * 4, means_init=means, precisions_init=precisions
    )
    with pytest.warns(match="did not converge"):
        theirs.fit(x.numpy())
    ours, _ = run_em(x, init, 20, floor)
    torch.testing.assert_close(ours.mu, torch.from_numpy(theirs.means_), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(covariances(ours), torch.from_numpy(theirs.covariances_), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(
        ours.log_prob(x), torch.from_numpy(theirs.score_samples(x.numpy())), rtol=1e-6, atol=1e-7
    )


def test_results_do_not_depend_on_the_chunk_size(monkeypatch):
    x, whole = points(), random_gmm().mixture
    expected, nats = em_step(x, whole, 1e-6)
    monkeypatch.setattr("genbench.models.mixtures.gmm.CHUNK_NUMEL", 30)
    in_parts, nats_in_parts = em_step(x, whole, 1e-6)
    torch.testing.assert_close(in_parts, expected)
    assert nats == pytest.approx(nats_in_parts)
    torch.testing.assert_close(whole.log_prob(x), whole.log_joint(whole.differences(x)).logsumexp(0))


def test_floor_bounds_the_density_of_a_component_on_a_single_point():
    x = torch.cat([points(50), torch.full((20, 2), 30.0, dtype=torch.float64)])
    model = fit(x, components=6, floor=1e-3)
    assert covariances(model.mixture).isfinite().all()
    assert torch.linalg.eigvalsh(covariances(model.mixture)).min() >= 1e-3 * (1 - 1e-9)
    assert model.log_prob(x).isfinite().all()


def test_precision_factor_is_triangular_and_gives_the_inverse():
    Sigma = points(D=4).T.cov()
    U = precision_factor(Sigma)
    torch.testing.assert_close(U @ U.mT, Sigma.inverse())
    assert (U.tril(-1) == 0).all()


def test_initialization_depends_on_the_seed_alone():
    x = points().float()
    first, again, other = (fit(x, seed=seed, components=9, iterations=3).mu for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_em_fits_eight_gaussians():
    data = find("datasets", "toys:eight_gaussians")()
    model = fit(data.train[:10_000], components=8)
    excess = data.log_prob(data.test) - model.log_prob(data.test)
    assert abs(excess.mean()) < 0.01


# -------------------------------------------------------------------------------------------------------- gradient


def test_gradient_fit_reaches_the_likelihood_of_em():
    x = points().float()
    torch.manual_seed(0)
    model = GMM(SPACE_2D, components=3, fit="gradient")
    (stage,) = model.configure_optimizers(lambda parameters: torch.optim.Adam(parameters, lr=0.03))
    for _ in range(400):
        stage.optimizer.zero_grad()
        stage.loss(x).backward()
        stage.optimizer.step()
    by_em = fit(x, components=3)
    before = [p.clone() for p in model.parameters()]
    model.fit_closed_form(x)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert model.loss(x).item() == pytest.approx(by_em.loss(x).item(), abs=5e-3)


def test_em_has_no_gradient_steps():
    assert GMM(SPACE_2D).configure_optimizers(torch.optim.Adam) == []


def test_gradient_fit_trains_every_parameter():
    model = GMM(Space((3,)), components=4, fit="gradient")
    model.loss(points(D=3)).backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize(("K", "D"), [(1, 1), (3, 2), (10, 5)])
def test_number_of_parameters(K, D):
    for covariance, variances in (("full", D * (D + 1) // 2), ("diagonal", D)):
        model = GMM(Space((D,)), components=K, covariance=covariance)
        assert sum(p.numel() for p in model.parameters()) == K * (1 + D + variances)


# --------------------------------------------------------------------------------------------- density and samples


def test_the_density_integrates_to_one():
    middle = torch.arange(-12, 12, 0.05, dtype=torch.float64) + 0.025
    with torch.no_grad():
        mass = random_gmm().log_prob(torch.cartesian_prod(middle, middle)).exp().sum() * 0.05**2
    assert mass.item() == pytest.approx(1, abs=1e-4)


def test_samples_have_the_moments_of_the_mixture():
    model = random_gmm()
    with torch.no_grad():
        x, (log_pi, mu, _) = model.sample(200_000).double(), model.mixture
        pi, Sigma = log_pi.exp(), covariances(model.mixture)
    mean = pi @ mu
    around = mu - mean
    covariance = torch.einsum("k,kij->ij", pi, Sigma + around[:, :, None] * around[:, None])
    torch.testing.assert_close(x.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(x.T.cov(), covariance, atol=0.0, rtol=0.03)
    assert (x.dtype, model.sample(3).dtype) == (torch.float64, torch.float32)


def test_responsibilities_are_the_posterior_over_components():
    model, x = random_gmm(), points(50)
    r, (log_pi, mu, _) = model.encode(x), model.mixture
    Sigma = covariances(model.mixture).detach()
    joint = [
        p.item() * multivariate_normal(m.numpy(), S.numpy()).pdf(x)
        for p, m, S in zip(log_pi.exp().detach(), mu.detach(), Sigma, strict=True)
    ]
    expected = torch.stack([torch.as_tensor(j) for j in joint], 1)
    torch.testing.assert_close(r, expected / expected.sum(1, keepdim=True))


@pytest.mark.parametrize("space", [SPACE_2D, DIGIT])
def test_log_prob_of_a_point_ignores_the_rest_of_the_batch(space):
    model = random_gmm(space)
    generator = torch.Generator().manual_seed(0)
    shape = (40, *space.shape)
    x = (
        torch.randint(17, shape, generator=generator).byte()
        if space.levels
        else torch.randn(shape, generator=generator)
    )
    whole, order = model.log_prob(x), torch.randperm(40, generator=generator)
    torch.testing.assert_close(model.log_prob(x[order]), whole[order])
    torch.testing.assert_close(torch.cat([model.log_prob(x[i : i + 1]) for i in range(40)]), whole)


# -------------------------------------------------------------------------------------------------------- integers


def all_points(space: Space) -> Tensor:
    """Return every point of a small space, (levels^D, *shape)."""
    x = torch.cartesian_prod(*[torch.arange(space.levels)] * space.dims).view(-1, *space.shape)
    return x.to(torch.uint8)


EXACT = {
    "line": (Space((1,), levels=5), {}),
    "plane": (Space((2,), levels=5), {}),
    "diagonal": (Space((3,), levels=3), {"covariance": "diagonal"}),
}


@pytest.mark.parametrize(("space", "options"), EXACT.values(), ids=EXACT)
def test_exact_probabilities_of_integers_sum_to_one_and_match_the_samples(space, options):
    x = all_points(space)
    torch.manual_seed(0)
    model = fit(x[torch.randint(len(x), (12,))].repeat(10, 1), space, components=3, floor=2e-3, **options)
    assert model.likelihood == "exact"
    p = model.log_prob(x).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    place = torch.tensor([space.levels**i for i in range(space.dims)]).flip(0)
    counts = (model.sample(20_000).long() @ place).bincount(minlength=len(x))
    often = 20_000 * p > 5
    assert ((counts - 20_000 * p)[often] / (20_000 * p * (1 - p))[often].sqrt()).abs().max() < 5
    assert chisquare(counts[often], counts[often].sum() * (p / p[often].sum())[often].detach()).pvalue > 1e-3


def test_the_probability_of_a_cell_is_the_mass_of_its_square():
    """Compared with scipy's distribution function, and with the bound averaged over noise."""
    model = random_gmm(Space((2,), levels=6))
    inner = torch.cartesian_prod(*[torch.arange(1, 5, dtype=torch.uint8)] * 2)
    with torch.no_grad():
        log_p = model.log_prob(inner)
        bounds = torch.stack([model.bound(inner, draw) for draw in range(400)])
        (log_pi, mu, _), Sigma = model.mixture, covariances(model.mixture).detach()
    components = [
        multivariate_normal(m.numpy(), S.numpy(), abseps=1e-10) for m, S in zip(mu.detach(), Sigma, strict=True)
    ]
    for k, value, draws in zip(inner.double() / 6, log_p, bounds.T, strict=True):
        masses = torch.tensor([c.cdf(k + 1 / 6, lower_limit=k) for c in components], dtype=torch.float64)
        assert value.exp().item() == pytest.approx((log_pi.exp() @ masses).item(), rel=1e-5)
        assert draws.mean() < value
        weights = draws.exp()
        assert abs(weights.mean() - value.exp()) < 5 * weights.std() / 400**0.5


def test_in_many_dimensions_the_likelihood_is_a_bound_that_tightens_with_more_noise():
    model = random_gmm(DIGIT)
    k = torch.randint(17, (20, 1, 2, 2), generator=torch.Generator().manual_seed(0)).byte()
    assert model.likelihood == "bound"
    data = Dataset(DIGIT, k, k, k)
    run = Run(suite="s", name="n", model="m", data="d")
    one, sixteen = (metric.measure(Evaluation(model, data, run))["bpd"] for metric in (likelihood, L16))
    with torch.no_grad():
        bounds = torch.stack([model.bound(k, draw) for draw in range(16)])
        torch.testing.assert_close(model.log_weights(k, 5, 3), bounds[3:8])
    assert (one.kind, one.impl, sixteen.kind, sixteen.impl) == ("bound", "likelihood 1", "bound", "likelihood 1, L_16")
    nats = math.log(16) - bounds.logsumexp(0).mean().item()
    assert sixteen.value == pytest.approx(nats / 4 / math.log(2))
    assert sixteen.value < one.value


def test_exact_likelihoods_ignore_the_number_of_noise_draws():
    model, k = random_gmm(Space((2,), levels=4)), all_points(Space((2,), levels=4))
    evaluation = Evaluation(model, Dataset(model.space, k, k, k), Run(suite="s", name="n", model="m", data="d"))
    assert L16.measure(evaluation) == likelihood.measure(evaluation)
    assert (L16.measure(evaluation)["nats"].kind, L16.measure(evaluation)["nats"].impl) == ("exact", "likelihood 1")


@pytest.mark.parametrize("gamma", [0.0, 0.3, -4.0, 1e3])
def test_mass_of_an_orthant_is_its_angle_over_two_pi(gamma):
    """P(t > 0, w > gamma t) of independent t and w: the angle from the line w = gamma t to the axis of w, over 2 pi."""
    ends = [torch.tensor([value], dtype=torch.float64) for value in (0.0, 1e9, 0.0, 1e9, gamma)]
    angle = (math.pi / 2 - math.atan(gamma)) / (2 * math.pi)
    assert log_rectangle(*ends).exp().item() == pytest.approx(angle, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 2.0, -50.0, 2e4])
@pytest.mark.parametrize("far", [0.0, 30.0])
def test_mass_of_a_rectangle_is_the_sum_over_its_parts(gamma, far):
    """Including the tails, at 30 standard deviations, and coordinates that are almost perfectly correlated."""
    A, B, alpha, beta = far - 0.5, far + 1.0, -far * gamma - 1.0, -far * gamma + 300.0
    cuts = torch.linspace(A, B, 12, dtype=torch.float64)
    levels = torch.linspace(alpha, beta, 9, dtype=torch.float64)
    low, high = torch.cartesian_prod(cuts[:-1], levels[:-1]), torch.cartesian_prod(cuts[1:], levels[1:])
    slope = torch.full((len(low),), gamma, dtype=torch.float64)
    parts = log_rectangle(low[:, 0], high[:, 0], low[:, 1], high[:, 1], slope).logsumexp(0)
    ends = [torch.tensor([value], dtype=torch.float64) for value in (A, B, alpha, beta, gamma)]
    assert log_rectangle(*ends).item() == pytest.approx(parts.item(), abs=1e-9)


def test_gradients_of_the_mass_of_a_rectangle():
    torch.manual_seed(0)
    A, alpha, gamma = torch.randn(3, 4, dtype=torch.float64)
    ends = [p.requires_grad_() for p in (A, A + 0.7, alpha, alpha + 0.4, 3 * gamma)]
    assert torch.autograd.gradcheck(log_rectangle, ends, atol=1e-6)


def test_em_with_diagonal_covariances_matches_scikit_learn():
    from sklearn.mixture import GaussianMixture

    x = points(D=3)
    torch.manual_seed(3)
    init = init_kmeans_plusplus(x, 4, 0.0)
    precisions = init.U.diagonal(dim1=1, dim2=2).square().numpy()
    theirs = GaussianMixture(
        4,
        covariance_type="diag",
        tol=0,
        max_iter=20,
        reg_covar=0,
        weights_init=[0.25] * 4,
        means_init=init.mu.numpy(),
        precisions_init=precisions,
    )
    with pytest.warns(match="did not converge"):
        theirs.fit(x.numpy())
    ours = init
    for _ in range(20):
        ours, _ = em_step(x, ours, 0.0, "diagonal")
    torch.testing.assert_close(covariances(ours).diagonal(dim1=1, dim2=2), torch.from_numpy(theirs.covariances_))
    torch.testing.assert_close(ours.log_prob(x), torch.from_numpy(theirs.score_samples(x.numpy())))


def test_samples_of_integers_follow_their_probabilities():
    space = Space((1,), levels=3)
    k = torch.tensor([0, 0, 0, 1, 2, 2], dtype=torch.uint8).repeat(100)[:, None]
    model = fit(k, space, components=3, floor=1e-4)
    x = model.sample(3000)
    assert (x.dtype, x.shape) == (torch.uint8, (3000, 1))
    counts = x.flatten().bincount(minlength=3)
    edges = torch.tensor([-math.inf, 1 / 3, 2 / 3, math.inf], dtype=torch.float64)
    with torch.no_grad():
        sd = (-model.log_scales[:, 0]).exp()
        p = (torch.special.ndtr((edges[:, None] - model.mu[:, 0]) / sd) @ model.mixture.log_pi.exp()).diff()
    assert chisquare(counts, 3000 * p).pvalue > 1e-3
