"""Mixtures: EM against its closed forms and scikit-learn's, the density's mass, samples against the mixture."""

import math
from itertools import pairwise

import pytest
import torch
from scipy.stats import chisquare, multivariate_normal
from torch import Tensor

from genbench.dataset import Space
from genbench.models.mixtures.gmm import GMM, Mixture, em, precision_factor, start
from genbench.run import find

PLANE = Space((2,))
DIGIT = Space((1, 2, 2), levels=17)


def points(n: int = 600, D: int = 2) -> Tensor:
    """Return n points of three Gaussians that overlap, (n, D) float64."""
    generator = torch.Generator().manual_seed(0)
    x, k = torch.randn(n, D, generator=generator, dtype=torch.float64), torch.randint(3, (n,), generator=generator)
    spread = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64)[k, None]
    return x.cumsum(1) * spread + 2.0 * k[:, None]


def steps(x: Tensor, mixture: Mixture, n: int, floor: float = 0.0) -> tuple[Mixture, list[float]]:
    """Return the mixture after n steps of EM, and the likelihoods before each."""
    found = []
    for _ in range(n):
        mixture, nats = em(x, mixture, floor)
        found.append(nats)
    return mixture, found


def fitted(x: Tensor, space: Space = PLANE, seed: int = 0, **options) -> GMM:
    torch.manual_seed(seed)
    model = GMM(space, **options).eval()
    model.finish(x)
    return model


def drawn(space: Space = PLANE) -> GMM:
    """Return a mixture of three components with parameters at random."""
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
    _, nats = steps(x, start(x, 7, 0.0), 60)
    assert all(after >= before - 1e-12 for before, after in pairwise(nats))
    assert nats[-1] > nats[0] + 0.01


def test_one_component_is_the_gaussian_of_greatest_likelihood():
    x = points()
    model = fitted(x.float(), components=1, floor=1e-12)
    mixture, Sigma = model.mixture, x.float().double().T.cov(correction=0)
    torch.testing.assert_close(mixture.mu[0], x.float().double().mean(0))
    torch.testing.assert_close(covariances(mixture)[0], Sigma)
    expected = multivariate_normal(x.mean(0), Sigma).logpdf(x)
    torch.testing.assert_close(model.log_prob(x), torch.from_numpy(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("D", "floor"), [(2, 0.0), (4, 1e-3)])
def test_em_is_scikit_learns_from_the_same_start(D, floor):
    from sklearn.mixture import GaussianMixture

    x = points(D=D)
    torch.manual_seed(3)
    begin = start(x, 4, floor)
    means, precisions = begin.mu.numpy(), (begin.U @ begin.U.mT).numpy()
    theirs = GaussianMixture(
        4, tol=0, max_iter=20, reg_covar=floor, weights_init=[0.25] * 4, means_init=means, precisions_init=precisions
    )
    with pytest.warns(match="did not converge"):
        theirs.fit(x.numpy())
    ours, _ = steps(x, begin, 20, floor)
    torch.testing.assert_close(ours.mu, torch.from_numpy(theirs.means_), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(covariances(ours), torch.from_numpy(theirs.covariances_), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(
        ours.log_prob(x), torch.from_numpy(theirs.score_samples(x.numpy())), rtol=1e-6, atol=1e-7
    )


def test_chunks_change_nothing(monkeypatch):
    x, whole = points(), drawn().mixture
    expected, nats = em(x, whole, 1e-6)
    monkeypatch.setattr("genbench.models.mixtures.gmm.AT_ONCE", 30)
    in_parts, nats_in_parts = em(x, whole, 1e-6)
    torch.testing.assert_close(in_parts, expected)
    assert nats == pytest.approx(nats_in_parts)
    torch.testing.assert_close(whole.log_prob(x), whole.log_joint(whole.away(x)).logsumexp(0))


def test_the_floor_keeps_a_component_on_one_point_of_finite_density():
    x = torch.cat([points(50), torch.full((20, 2), 30.0, dtype=torch.float64)])
    model = fitted(x, components=6, floor=1e-3)
    assert covariances(model.mixture).isfinite().all()
    assert torch.linalg.eigvalsh(covariances(model.mixture)).min() >= 1e-3 * (1 - 1e-9)
    assert model.log_prob(x).isfinite().all()


def test_precision_factor_is_triangular_and_gives_the_inverse():
    Sigma = points(D=4).T.cov()
    U = precision_factor(Sigma)
    torch.testing.assert_close(U @ U.mT, Sigma.inverse())
    assert (U.tril(-1) == 0).all()


def test_seeds_start_differently_and_one_seed_always_the_same():
    x = points().float()
    first, again, other = (fitted(x, seed=seed, components=9, iterations=3).mu for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_em_finds_eight_gaussians():
    data = find("datasets", "toys:eight_gaussians")()
    model = fitted(data.train[:10_000], components=8)
    excess = data.log_prob(data.test) - model.log_prob(data.test)
    assert abs(excess.mean()) < 0.01


# -------------------------------------------------------------------------------------------------------- gradient


def test_the_gradient_reaches_the_likelihood_of_em():
    x = points().float()
    torch.manual_seed(0)
    model = GMM(PLANE, components=3, fit="gradient")
    (player,) = model.players(lambda parameters: torch.optim.Adam(parameters, lr=0.03))
    for _ in range(400):
        player.optimizer.zero_grad()
        player.loss(x).backward()
        player.optimizer.step()
    by_em = fitted(x, components=3)
    before = [p.clone() for p in model.parameters()]
    model.finish(x)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert model.loss(x).item() == pytest.approx(by_em.loss(x).item(), abs=5e-3)


def test_em_moves_in_finish_alone():
    assert GMM(PLANE).players(torch.optim.Adam) == []


def test_by_gradient_every_parameter_moves():
    model = GMM(Space((3,)), components=4, fit="gradient")
    model.loss(points(D=3)).backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize(("K", "D"), [(1, 1), (3, 2), (10, 5)])
def test_it_has_as_many_parameters_as_numbers_to_choose(K, D):
    count = sum(p.numel() for p in GMM(Space((D,)), components=K).parameters())
    assert count == K * (1 + D + D * (D + 1) // 2)


# --------------------------------------------------------------------------------------------- density and samples


def test_the_density_integrates_to_one():
    middle = torch.arange(-12, 12, 0.05, dtype=torch.float64) + 0.025
    with torch.no_grad():
        mass = drawn().log_prob(torch.cartesian_prod(middle, middle)).exp().sum() * 0.05**2
    assert mass.item() == pytest.approx(1, abs=1e-4)


def test_samples_have_the_moments_of_the_mixture():
    model = drawn()
    with torch.no_grad():
        x, (log_pi, mu, _) = model.sample(200_000).double(), model.mixture
        pi, Sigma = log_pi.exp(), covariances(model.mixture)
    mean = pi @ mu
    around = mu - mean
    covariance = torch.einsum("k,kij->ij", pi, Sigma + around[:, :, None] * around[:, None])
    torch.testing.assert_close(x.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(x.T.cov(), covariance, atol=0.0, rtol=0.03)
    assert (x.dtype, model.sample(3).dtype) == (torch.float64, torch.float32)


def test_responsibilities_are_the_posterior_of_the_component():
    model, x = drawn(), points(50)
    r, (log_pi, mu, _) = model.encode(x), model.mixture
    Sigma = covariances(model.mixture).detach()
    joint = [
        p.item() * multivariate_normal(m.numpy(), S.numpy()).pdf(x)
        for p, m, S in zip(log_pi.exp().detach(), mu.detach(), Sigma, strict=True)
    ]
    expected = torch.stack([torch.as_tensor(j) for j in joint], 1)
    torch.testing.assert_close(r, expected / expected.sum(1, keepdim=True))


@pytest.mark.parametrize("space", [PLANE, DIGIT])
def test_log_prob_does_not_depend_on_batch_mates(space):
    model = drawn(space)
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


def test_on_integers_it_is_a_bound_on_a_probability():
    space = Space((1,), levels=5)
    k = torch.tensor([0, 1, 1, 2, 2, 2, 4], dtype=torch.uint8).repeat(40)[:, None]
    model = fitted(k, space, components=3)
    assert (model.likelihood, GMM(PLANE).likelihood) == ("bound", "exact")
    draws = torch.arange(5, dtype=torch.uint8)[:, None].repeat(4000, 1)
    model.train()  # noise drawn anew, point by point
    with torch.no_grad():
        bound = model.log_prob(draws).view(4000, 5)
        p = bound.exp().mean(0)  # E p(x) / q(x | k) is the mass of the cube of k
        edges = torch.arange(6) / 5
        mu, sd = model.mu[:, 0], (-model.log_scales[:, 0]).exp()
        cdf = torch.special.ndtr((edges[:, None] - mu) / sd) @ model.mixture.log_pi.exp()
    torch.testing.assert_close(p, cdf.diff(), atol=5e-3, rtol=0.03)
    assert (bound.mean(0) <= cdf.diff().log() + 0.02).all()


def test_samples_of_integers_are_integers_of_the_space_as_often_as_they_are_likely():
    space = Space((1,), levels=3)
    k = torch.tensor([0, 0, 0, 1, 2, 2], dtype=torch.uint8).repeat(100)[:, None]
    model = fitted(k, space, components=3, floor=1e-4)
    x = model.sample(3000)
    assert (x.dtype, x.shape) == (torch.uint8, (3000, 1))
    counts = x.flatten().bincount(minlength=3)
    edges = torch.tensor([-math.inf, 1 / 3, 2 / 3, math.inf], dtype=torch.float64)
    with torch.no_grad():
        sd = (-model.log_scales[:, 0]).exp()
        p = (torch.special.ndtr((edges[:, None] - model.mu[:, 0]) / sd) @ model.mixture.log_pi.exp()).diff()
    assert chisquare(counts, 3000 * p).pvalue > 1e-3
