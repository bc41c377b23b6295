"""Truths about autoencoders and codes: principal components, Jacobians, and scores of known value."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from genbench.dataset import Dataset, Space
from genbench.evaluation import Evaluation
from genbench.metrics.anomalies import anomalies, auroc, ising, nine, shuffled
from genbench.metrics.representation import clustering, clusters, linear_probe, probe
from genbench.metrics.restoration import STEPS, bits, compression, denoising
from genbench.model import Model
from genbench.models.autoencoders.autoencoder import Autoencoder, Coder, Contractive, Denoising, Sparse, sparsity
from genbench.models.autoencoders.pca import PCA
from genbench.models.flows.linear import Linear
from genbench.registry import find
from genbench.suite import Run

RUN = Run(suite="s", name="n", model="autoencoders.pca:PCA", data="digits")
Make = Callable[..., Coder]
SMALL = {"latent": 3, "hidden": (16,), "activation": "silu"}
CODERS: dict[str, tuple[Make, dict[str, object]]] = {
    "autoencoder": (Autoencoder, SMALL),
    "linear": (Autoencoder, {"latent": 2, "hidden": ()}),
    "one number": (Autoencoder, {"latent": 1, "hidden": (8,), "dropout": 0.2}),
    "convnet": (Autoencoder, {"latent": 3, "network": "convnet", "channels": 8, "activation": "silu"}),
    "denoising": (Denoising, {"sigma": 0.5, **SMALL}),
    "sparse kl": (Sparse, {"hidden": (16,), "latent": 9}),
    "sparse l1": (Sparse, {"penalty": "l1", "weight": 0.01, "hidden": (16,), "latent": 9}),
    "contractive": (Contractive, {"latent": 5}),
}
every_coder = pytest.mark.parametrize("row", CODERS.values(), ids=CODERS)
SPACES = {"binary": Space((1, 2, 2), 2), "levels": Space((1, 2, 2), 5), "reals": Space((1, 2, 2))}
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def points(space: Space, n: int = 64) -> Tensor:
    """Return correlated points x (n, *shape) of a space."""
    x = 1 + torch.randn(n, space.dims) @ torch.randn(space.dims, space.dims)
    if space.levels:
        x = x.round().clamp(0, space.levels - 1).to(torch.uint8)
    return x.view(n, *space.shape)


def built(row: tuple[Make, dict[str, object]], space: Space) -> Coder:
    """Return a model in evaluation mode that has started on data."""
    model = row[0](space, **row[1])
    model.loss(points(space))
    model.fit_closed_form(points(space))
    return model.eval()


def fitted(space: Space, x: Tensor, latent: int) -> PCA:
    """Return the PCA of x (N, *shape)."""
    model = PCA(space, latent=latent)
    model.fit_closed_form(x)
    return model.eval()


def evaluated(model: Model, x: Tensor, labels: Tensor | None = None) -> Evaluation:
    """Return the model beside x (N, *shape), which is all three splits."""
    return Evaluation(model, Dataset(model.space, x, x, x, labels=labels if labels is None else (labels,) * 3), RUN)


# ------------------------------------------------------------------------------------- principal components


@every_space
@pytest.mark.parametrize("latent", [1, 3, 4])
def test_what_pca_loses_is_the_discarded_eigenvalues(space: Space, latent: int) -> None:
    x = points(space, 500)
    model = fitted(space, x, latent)
    lost = (x - model.reconstruct(x)).double().square().flatten(1).sum(1).mean().item()
    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.flatten(1).double().T, correction=0))
    assert lost == pytest.approx(eigenvalues[: 4 - latent].sum().item(), rel=1e-4, abs=1e-8)
    z = model.encode(x).double()
    torch.testing.assert_close(torch.cov(z.T, correction=0).view(latent, -1).diagonal(), eigenvalues.flip(0)[:latent])


def test_a_linear_autoencoder_finds_the_principal_subspace() -> None:
    """Baldi and Hornik, 1989: the optimum's decoder spans what the leading eigenvectors do."""
    space = Space((6,))
    x = torch.randn(400, 6) * torch.tensor([3.0, 2.0, 1.5, 0.7, 0.4, 0.2]) @ torch.linalg.qr(torch.randn(6, 6))[0] + 1
    model, pca = Autoencoder(space, latent=3, hidden=()), fitted(space, x, 3)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=1500, line_search_fn="strong_wolfe", tolerance_change=0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model.loss(x)
        loss.backward()
        return loss

    optimizer.step(closure)
    W = model.decoder[-1].weight.detach().double()
    cosines = torch.linalg.svdvals(torch.linalg.qr(W)[0].T @ pca.V)
    torch.testing.assert_close(cosines, torch.ones(3).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(model.reconstruct(x), pca.reconstruct(x), rtol=0, atol=0.05)


@pytest.mark.parametrize("latent", [1, 3, 4])
def test_ppca_is_the_gaussian_of_its_covariance_and_best_at_its_own_noise(latent: int) -> None:
    x = points(SPACES["reals"], 500)
    model = fitted(SPACES["reals"], x, latent)
    along, across = model.variances
    C = model.V * (along - across) @ model.V.T + across * torch.eye(4)
    truth = torch.distributions.MultivariateNormal(model.mu, C).log_prob(x.flatten(1).double())
    torch.testing.assert_close(model.log_prob(x), truth)
    best = model.log_prob(x).mean()
    for factor in (0.97, 1.03):
        if latent < 4:
            model.discarded.data *= factor
            assert model.log_prob(x).mean() < best
            model.discarded.data /= factor


def test_ppca_samples_have_its_moments() -> None:
    x = points(SPACES["reals"], 500)
    model = fitted(SPACES["reals"], x, 2)
    along, across = model.variances
    C = model.V * (along - across) @ model.V.T + across * torch.eye(4)
    drawn = model.sample(40_000).flatten(1).double()
    torch.testing.assert_close(torch.cov(drawn.T), C, rtol=0, atol=0.05 * C.diagonal().max().item())
    torch.testing.assert_close(drawn.mean(0), model.mu, rtol=0, atol=0.05 * C.diagonal().max().item() ** 0.5)


@pytest.mark.parametrize("name", ["binary", "levels"])
def test_ppca_of_integers_has_mass_at_most_one(name: str) -> None:
    """Mass of a bound over every point, and those a level beyond the edges, where the Gaussian has some too."""
    space = SPACES[name]
    model, K = fitted(space, points(space, 500), 2), space.levels
    assert model.likelihood == "bound"
    x = torch.cartesian_prod(*[torch.arange(K)] * 4).view(-1, 1, 2, 2)
    mass = model.log_prob(x).exp().sum().item()
    assert 0.2 < mass < 1.05
    assert model.sample(100).max().item() <= K - 1


def test_pca_refuses_more_latents_than_dimensions() -> None:
    with pytest.raises(ValueError, match="latent=5 is not between 1 and the 4"):
        PCA(SPACES["reals"], latent=5)


# -------------------------------------------------------------------------------------------- autoencoders


@every_coder
@every_space
def test_samples_and_reconstructions_lie_in_the_space(row, space: Space) -> None:
    model = built(row, space)
    x, drawn = points(space), model.sample(40)
    z, back = model.encode(x), model.reconstruct(x)
    assert (z.shape, back.shape, drawn.shape) == ((64, model.latent), x.shape, (40, *space.shape))
    assert drawn.dtype == x.dtype
    assert model.likelihood is None
    torch.testing.assert_close(model.decode(z), back)
    if space.levels:
        assert drawn.max().item() < space.levels


@every_coder
@every_space
def test_every_parameter_is_trained_and_a_quarter_of_the_error_is_soon_gone(row, space: Space) -> None:
    model, x = built(row, space).train(), points(space)
    gradients = torch.autograd.grad(model.loss(x), list(model.parameters()), allow_unused=True)
    assert all(g is not None for g in gradients)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = model.eval().error(x, model.encode(x)).mean().item()
    for _ in range(150):
        optimizer.zero_grad()
        model.train().loss(x).backward()
        optimizer.step()
    assert model.eval().error(x, model.encode(x)).mean().item() < 0.75 * before


@every_coder
def test_the_gaussian_of_codes_has_their_moments(row) -> None:
    space = SPACES["reals"]
    model, x = built(row, space), points(space)
    model.fit_closed_form(x)
    z = model.encode(x).double()
    torch.testing.assert_close(model.m, z.mean(0).float(), rtol=1e-4, atol=1e-5)
    cov = torch.cov(z.T, correction=0).view(model.latent, -1).float()
    torch.testing.assert_close(model.L @ model.L.T, cov, rtol=1e-3, atol=1e-5)


def test_a_denoising_autoencoder_without_noise_is_an_autoencoder() -> None:
    space = SPACES["levels"]
    model, x = built((Denoising, {"sigma": 0.0, **SMALL}), space), points(space)
    torch.testing.assert_close(model.loss(x), Autoencoder.loss(model, x))
    model.sigma = 2.0
    assert model.loss(x) > Autoencoder.loss(model, x)


def test_the_sparsity_penalty_is_the_divergence_of_coins() -> None:
    z, rho = torch.rand(50, 7), 0.1
    coins = torch.distributions.Bernoulli
    truth = torch.distributions.kl_divergence(coins(torch.tensor(rho)), coins(z.mean(0))).sum()
    torch.testing.assert_close(sparsity(z, rho), truth)
    assert sparsity(torch.full((5, 3), rho), rho).item() == pytest.approx(0, abs=1e-6)
    assert math.isfinite(sparsity(torch.zeros(5, 3), rho).item())


def test_the_contractive_penalty_is_the_norm_of_the_jacobian() -> None:
    model = built((Contractive, {"latent": 5}), SPACES["reals"])
    y = model.scaled(points(SPACES["reals"], 6))
    J = torch.stack([torch.autograd.functional.jacobian(model.encoder, row[None]) for row in y])
    torch.testing.assert_close(model.contraction(model.encoder(y)), J.square().flatten(1).sum(1))


# ------------------------------------------------------------------------------------------------- metrics


def test_clusters_that_are_labels_score_one_and_noise_about_zero() -> None:
    labels = torch.arange(400) % 4
    z = 10 * torch.nn.functional.one_hot(labels).double() + 0.1 * torch.randn(400, 4).double()
    found, noise = clusters(z, z, labels), clusters(z, z, labels[torch.randperm(400)])
    assert found["clustering_ari"].value == pytest.approx(1)
    assert found["clustering_nmi"].value == pytest.approx(1)
    assert noise["clustering_ari"].value == pytest.approx(0, abs=0.03)
    assert noise["clustering_nmi"].value < 0.05


def test_a_probe_reads_what_is_linear_and_guesses_noise() -> None:
    z = torch.randn(600, 4).double()
    labels = (z[:, 0] > 0).long()
    assert probe(z[:400], labels[:400], z[400:], labels[400:]).value > 0.96
    coin = torch.randint(0, 2, (600,))
    found = probe(z[:400], coin[:400], z[400:], coin[400:])
    assert found.value == pytest.approx(0.5, abs=4 * found.stderr)


def test_auroc_of_scores_that_part_and_that_do_not() -> None:
    strange = torch.arange(200) % 2
    assert auroc(strange, strange.double()).value == 1
    assert auroc(strange, -strange.double()).value == 0
    assert auroc(strange, torch.ones(200)).value == 0.5
    x = torch.randn(100_000, 2)
    shift = 1.0  # P(a + shift > b) of normals is Phi(shift / sqrt 2)
    score = torch.cat((x[:, 0], x[:, 1] + shift))
    truth = 0.5 * (1 + math.erf(shift / 2))
    assert auroc((torch.arange(200_000) >= 100_000).int(), score).value == pytest.approx(truth, abs=0.005)


def test_shuffled_points_keep_each_dimension_and_are_found_by_their_covariance() -> None:
    x = points(SPACES["reals"], 400)
    assert torch.equal(shuffled(x).sort(0).values, x.sort(0).values)
    model = fitted(SPACES["reals"], x, 2)
    found = anomalies.measure(evaluated(model, x))
    assert set(found) == {"anomaly_auroc_reconstruction_shuffled", "anomaly_auroc_likelihood_shuffled"}
    assert all(each.value > 0.6 for each in found.values())
    alone = torch.randn(4000, 1, 2, 2)  # dimensions that nothing binds: nobody can tell
    found = anomalies.measure(evaluated(fitted(SPACES["reals"], alone, 2), alone))
    assert all(each.value == pytest.approx(0.5, abs=0.03) for each in found.values())


@pytest.mark.parametrize(("name", "rest"), [("digits", "but_nine"), ("digits:binary", "binary_but_nine")])
def test_nines_are_anomalies_to_a_model_that_has_seen_none_and_to_no_other(name: str, rest: str) -> None:
    """Many principal components of the other digits leave more of a nine behind than of what they are fitted to."""
    data = find("datasets", f"digits:{rest}")()
    model = fitted(data.space, data.train, 30)
    found = nine.measure(Evaluation(model, data, RUN))
    assert set(found) == {"anomaly_auroc_reconstruction_nine", "anomaly_auroc_likelihood_nine"}
    assert all(each.n == len(data.test) + 180 and 0.55 < each.value < 1 for each in found.values())
    assert nine.measure(Evaluation(model, find("datasets", name)(), RUN)) == {}
    assert nine.measure(evaluated(fitted(SPACES["reals"], points(SPACES["reals"]), 2), points(SPACES["reals"]))) == {}


def test_psnr_of_a_model_that_keeps_everything_is_that_of_the_noise() -> None:
    x = points(SPACES["levels"], 4000)
    found = denoising.measure(evaluated(fitted(x=x, space=SPACES["levels"], latent=4), x))["denoising_psnr"]
    assert found.value == pytest.approx(-20 * math.log10(0.25), abs=5 * found.stderr)
    assert found.stderr < 0.1
    real = points(SPACES["reals"])
    assert denoising.measure(evaluated(fitted(SPACES["reals"], real, 2), real)) == {}


def test_bits_are_those_of_the_frequencies() -> None:
    a = torch.arange(4).repeat(1000)[:, None]
    torch.testing.assert_close(bits(a, a), torch.full((4000,), 2.0).double())
    assert bits(a, torch.tensor([[-2]])).item() == pytest.approx(math.log2(4006))  # never seen: six values, 4,006


def test_rounding_adds_a_twelfth_of_the_squared_step() -> None:
    space = Space((1, 1, 2))
    x = torch.randn(20_000, 1, 1, 2) * torch.tensor([3.0, 1.0])
    found = compression.measure(evaluated(fitted(space, x, 2), x))
    steps = torch.tensor([3.0, 1.0]) / STEPS
    assert found["compression_error"].value == pytest.approx((steps.square().mean() / 12).sqrt().item(), rel=0.02)
    entropy = 0.5 * math.log2(2 * math.pi * math.e) + math.log2(STEPS)  # of a unit Gaussian, finely rounded
    assert found["compression_rate"].value == pytest.approx(2 * entropy, abs=0.06)


def test_latents_that_do_not_move_take_no_bits() -> None:
    space = Space((1, 1, 3))
    x = torch.randn(500, 1, 1, 3) * torch.tensor([1.0, 1.0, 0.0])
    found = compression.measure(evaluated(fitted(space, x, 3), x))["compression_rate"]
    less = compression.measure(evaluated(fitted(space, x, 2), x))["compression_rate"]
    assert found.value == pytest.approx(less.value, abs=0.01)


def test_metrics_give_nothing_where_they_do_not_apply() -> None:
    space, x = SPACES["levels"], points(SPACES["levels"])
    flow = Linear(space).eval()
    assert linear_probe.measure(evaluated(flow, x)) == clustering.measure(evaluated(flow, x)) == {}  # no labels
    assert denoising.measure(evaluated(flow, x)) == compression.measure(evaluated(flow, x)) == {}
    assert set(anomalies.measure(evaluated(flow, x))) == {"anomaly_auroc_likelihood_shuffled"}
    assert ising.measure(evaluated(flow, x)) == {}  # of another space
    labelled = evaluated(fitted(space, x, 2), x, torch.arange(64) % 2)
    assert set(linear_probe.measure(labelled)) == {"linear_probe_accuracy"}
    assert set(clustering.measure(labelled)) == {"clustering_ari", "clustering_nmi"}
