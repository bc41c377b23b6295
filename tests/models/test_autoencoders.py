"""Autoencoders and metrics of representations: principal components, Jacobians, scores with known values."""

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
from genbench.models.autoencoders.autoencoder import (
    Autoencoder,
    BaseAutoencoder,
    Contractive,
    Denoising,
    Sparse,
    kl_sparsity,
)
from genbench.models.autoencoders.pca import PCA
from genbench.models.flows.linear import Linear
from genbench.registry import find
from genbench.suite import Run

RUN = Run(suite="s", name="n", model="autoencoders.pca:PCA", data="digits")
Make = Callable[..., BaseAutoencoder]
SMALL = {"latent": 3, "hidden": (16,), "activation": "silu"}
AUTOENCODERS: dict[str, tuple[Make, dict[str, object]]] = {
    "autoencoder": (Autoencoder, SMALL),
    "linear": (Autoencoder, {"latent": 2, "hidden": ()}),
    "one number": (Autoencoder, {"latent": 1, "hidden": (8,), "dropout": 0.2}),
    "convnet": (Autoencoder, {"latent": 3, "network": "convnet", "channels": 8, "activation": "silu"}),
    "denoising": (Denoising, {"sigma": 0.5, **SMALL}),
    "sparse kl": (Sparse, {"hidden": (16,), "latent": 9}),
    "sparse l1": (Sparse, {"penalty": "l1", "weight": 0.01, "hidden": (16,), "latent": 9}),
    "contractive": (Contractive, {"latent": 5}),
}
every_autoencoder = pytest.mark.parametrize("row", AUTOENCODERS.values(), ids=AUTOENCODERS)
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


def build(row: tuple[Make, dict[str, object]], space: Space) -> BaseAutoencoder:
    """Return a model initialized on data, in evaluation mode."""
    model = row[0](space, **row[1])
    model.loss(points(space))
    model.fit_closed_form(points(space))
    return model.eval()


def fit_pca(space: Space, x: Tensor, latent: int) -> PCA:
    """Return a PCA fitted to x (N, *shape)."""
    model = PCA(space, latent=latent)
    model.fit_closed_form(x)
    return model.eval()


def evaluate(model: Model, x: Tensor, labels: Tensor | None = None) -> Evaluation:
    """Return an evaluation of the model with x (N, *shape) as all three splits."""
    return Evaluation(model, Dataset(model.space, x, x, x, labels=labels if labels is None else (labels,) * 3), RUN)


# ------------------------------------------------------------------------------------- principal components


@every_space
@pytest.mark.parametrize("latent", [1, 3, 4])
def test_pca_reconstruction_error_is_the_sum_of_discarded_eigenvalues(space: Space, latent: int) -> None:
    x = points(space, 500)
    model = fit_pca(space, x, latent)
    error = (x - model.reconstruct(x)).double().square().flatten(1).sum(1).mean().item()
    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.flatten(1).double().T, correction=0))
    assert error == pytest.approx(eigenvalues[: 4 - latent].sum().item(), rel=1e-4, abs=1e-8)
    z = model.encode(x).double()
    torch.testing.assert_close(torch.cov(z.T, correction=0).view(latent, -1).diagonal(), eigenvalues.flip(0)[:latent])


def test_linear_autoencoder_finds_the_principal_subspace() -> None:
    """Baldi and Hornik, 1989: the optimal decoder spans the leading eigenvectors."""
    space = Space((6,))
    x = torch.randn(400, 6) * torch.tensor([3.0, 2.0, 1.5, 0.7, 0.4, 0.2]) @ torch.linalg.qr(torch.randn(6, 6))[0] + 1
    model, pca = Autoencoder(space, latent=3, hidden=()), fit_pca(space, x, 3)
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
def test_ppca_density_matches_its_covariance_and_noise_is_optimal(latent: int) -> None:
    x = points(SPACES["reals"], 500)
    model = fit_pca(SPACES["reals"], x, latent)
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


def test_ppca_samples_have_the_moments_of_the_model() -> None:
    x = points(SPACES["reals"], 500)
    model = fit_pca(SPACES["reals"], x, 2)
    along, across = model.variances
    C = model.V * (along - across) @ model.V.T + across * torch.eye(4)
    samples = model.sample(40_000).flatten(1).double()
    torch.testing.assert_close(torch.cov(samples.T), C, rtol=0, atol=0.05 * C.diagonal().max().item())
    torch.testing.assert_close(samples.mean(0), model.mu, rtol=0, atol=0.05 * C.diagonal().max().item() ** 0.5)


@pytest.mark.parametrize("name", ["binary", "levels"])
def test_ppca_bound_on_integers_sums_to_at_most_one(name: str) -> None:
    """The sum is below 1, up to Monte Carlo error: it is a bound, and the Gaussian has mass outside the range."""
    space = SPACES[name]
    model, K = fit_pca(space, points(space, 500), 2), space.levels
    assert model.likelihood == "bound"
    x = torch.cartesian_prod(*[torch.arange(K)] * 4).view(-1, 1, 2, 2)
    mass = model.log_prob(x).exp().sum().item()
    assert 0.2 < mass < 1.05
    assert model.sample(100).max().item() <= K - 1


def test_pca_rejects_more_latents_than_dimensions() -> None:
    with pytest.raises(ValueError, match="latent=5 is not between 1 and the 4"):
        PCA(SPACES["reals"], latent=5)


# -------------------------------------------------------------------------------------------- autoencoders


@every_autoencoder
@every_space
def test_samples_and_reconstructions_have_the_shape_and_range_of_the_data(row, space: Space) -> None:
    model = build(row, space)
    x, samples = points(space), model.sample(40)
    z, reconstruction = model.encode(x), model.reconstruct(x)
    assert (z.shape, reconstruction.shape, samples.shape) == ((64, model.latent), x.shape, (40, *space.shape))
    assert samples.dtype == x.dtype
    assert model.likelihood is None
    torch.testing.assert_close(model.decode(z), reconstruction)
    if space.levels:
        assert samples.max().item() < space.levels


@every_autoencoder
@every_space
def test_every_parameter_is_trained_and_the_error_drops_by_a_quarter(row, space: Space) -> None:
    model, x = build(row, space).train(), points(space)
    gradients = torch.autograd.grad(model.loss(x), list(model.parameters()), allow_unused=True)
    assert all(g is not None for g in gradients)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = model.eval().error(x, model.encode(x)).mean().item()
    for _ in range(150):
        optimizer.zero_grad()
        model.train().loss(x).backward()
        optimizer.step()
    assert model.eval().error(x, model.encode(x)).mean().item() < 0.75 * before


@every_autoencoder
def test_fitted_gaussian_has_the_moments_of_the_codes(row) -> None:
    space = SPACES["reals"]
    model, x = build(row, space), points(space)
    model.fit_closed_form(x)
    z = model.encode(x).double()
    torch.testing.assert_close(model.m, z.mean(0).float(), rtol=1e-4, atol=1e-5)
    cov = torch.cov(z.T, correction=0).view(model.latent, -1).float()
    torch.testing.assert_close(model.L @ model.L.T, cov, rtol=1e-3, atol=1e-5)


def test_denoising_autoencoder_without_noise_is_an_autoencoder() -> None:
    space = SPACES["levels"]
    model, x = build((Denoising, {"sigma": 0.0, **SMALL}), space), points(space)
    torch.testing.assert_close(model.loss(x), Autoencoder.loss(model, x))
    model.sigma = 2.0
    assert model.loss(x) > Autoencoder.loss(model, x)


def test_sparsity_penalty_is_the_kl_between_bernoulli_distributions() -> None:
    z, rho = torch.rand(50, 7), 0.1
    bernoulli = torch.distributions.Bernoulli
    truth = torch.distributions.kl_divergence(bernoulli(torch.tensor(rho)), bernoulli(z.mean(0))).sum()
    torch.testing.assert_close(kl_sparsity(z, rho), truth)
    assert kl_sparsity(torch.full((5, 3), rho), rho).item() == pytest.approx(0, abs=1e-6)
    assert math.isfinite(kl_sparsity(torch.zeros(5, 3), rho).item())


def test_contractive_penalty_is_the_squared_norm_of_the_jacobian() -> None:
    model = build((Contractive, {"latent": 5}), SPACES["reals"])
    y = model.scaled(points(SPACES["reals"], 6))
    J = torch.stack([torch.autograd.functional.jacobian(model.encoder, row[None]) for row in y])
    torch.testing.assert_close(model.squared_jacobian_norm(model.encoder(y)), J.square().flatten(1).sum(1))


# ------------------------------------------------------------------------------------------------- metrics


def test_clustering_scores_of_separated_classes_and_of_random_labels() -> None:
    labels = torch.arange(400) % 4
    z = 10 * torch.nn.functional.one_hot(labels).double() + 0.1 * torch.randn(400, 4).double()
    separated, noise = clusters(z, z, labels), clusters(z, z, labels[torch.randperm(400)])
    assert separated["clustering_ari"].value == pytest.approx(1)
    assert separated["clustering_nmi"].value == pytest.approx(1)
    assert noise["clustering_ari"].value == pytest.approx(0, abs=0.03)
    assert noise["clustering_nmi"].value < 0.05


def test_linear_probe_of_separable_and_of_random_labels() -> None:
    z = torch.randn(600, 4).double()
    labels = (z[:, 0] > 0).long()
    assert probe(z[:400], labels[:400], z[400:], labels[400:]).value > 0.96
    coin = torch.randint(0, 2, (600,))
    at_random = probe(z[:400], coin[:400], z[400:], coin[400:])
    assert at_random.value == pytest.approx(0.5, abs=4 * at_random.stderr)


def test_auroc_of_known_scores() -> None:
    outlier = torch.arange(200) % 2
    assert auroc(outlier, outlier.double()).value == 1
    assert auroc(outlier, -outlier.double()).value == 0
    assert auroc(outlier, torch.ones(200)).value == 0.5
    x = torch.randn(100_000, 2)
    shift = 1.0  # P(a + shift > b) of normals is Phi(shift / sqrt 2)
    score = torch.cat((x[:, 0], x[:, 1] + shift))
    truth = 0.5 * (1 + math.erf(shift / 2))
    assert auroc((torch.arange(200_000) >= 100_000).int(), score).value == pytest.approx(truth, abs=0.005)


def test_shuffled_points_have_the_same_marginals_and_are_detected_by_their_covariance() -> None:
    x = points(SPACES["reals"], 400)
    assert torch.equal(shuffled(x).sort(0).values, x.sort(0).values)
    model = fit_pca(SPACES["reals"], x, 2)
    correlated = anomalies.measure(evaluate(model, x))
    assert set(correlated) == {"anomaly_auroc_reconstruction_shuffled", "anomaly_auroc_likelihood_shuffled"}
    assert all(result.value > 0.6 for result in correlated.values())
    x = torch.randn(4000, 1, 2, 2)  # independent dimensions, so that shuffling changes nothing
    independent = anomalies.measure(evaluate(fit_pca(SPACES["reals"], x, 2), x))
    assert all(result.value == pytest.approx(0.5, abs=0.03) for result in independent.values())


@pytest.mark.parametrize(("name", "rest"), [("digits", "but_nine"), ("digits:binary", "binary_but_nine")])
def test_nines_are_anomalies_for_models_trained_without_nines(name: str, rest: str) -> None:
    """Principal components fitted to the other digits reconstruct nines worse."""
    data = find("datasets", f"digits:{rest}")()
    model = fit_pca(data.space, data.train, 30)
    measurements = nine.measure(Evaluation(model, data, RUN))
    assert set(measurements) == {"anomaly_auroc_reconstruction_nine", "anomaly_auroc_likelihood_nine"}
    assert all(result.n == len(data.test) + 180 and 0.55 < result.value < 1 for result in measurements.values())
    assert nine.measure(Evaluation(model, find("datasets", name)(), RUN)) == {}
    assert nine.measure(evaluate(fit_pca(SPACES["reals"], points(SPACES["reals"]), 2), points(SPACES["reals"]))) == {}


def test_denoising_psnr_of_the_identity_is_that_of_the_noise() -> None:
    x = points(SPACES["levels"], 4000)
    psnr = denoising.measure(evaluate(fit_pca(SPACES["levels"], x, 4), x))["denoising_psnr"]
    assert psnr.value == pytest.approx(-20 * math.log10(0.25), abs=5 * psnr.stderr)
    assert psnr.stderr < 0.1
    real = points(SPACES["reals"])
    assert denoising.measure(evaluate(fit_pca(SPACES["reals"], real, 2), real)) == {}


def test_bits_of_known_frequencies() -> None:
    a = torch.arange(4).repeat(1000)[:, None]
    torch.testing.assert_close(bits(a, a), torch.full((4000,), 2.0).double())
    new = torch.tensor([[-2]])  # one of six values, with 4,006 counts in all
    assert bits(a, new).item() == pytest.approx(math.log2(4006))


def test_compression_error_is_that_of_rounding() -> None:
    space = Space((1, 1, 2))
    x = torch.randn(20_000, 1, 1, 2) * torch.tensor([3.0, 1.0])
    measurements = compression.measure(evaluate(fit_pca(space, x, 2), x))
    steps = torch.tensor([3.0, 1.0]) / STEPS
    error = (steps.square().mean() / 12).sqrt().item()
    assert measurements["compression_error"].value == pytest.approx(error, rel=0.02)
    entropy = 0.5 * math.log2(2 * math.pi * math.e) + math.log2(STEPS)  # of a unit Gaussian, finely rounded
    assert measurements["compression_rate"].value == pytest.approx(2 * entropy, abs=0.06)


def test_constant_latents_take_no_bits() -> None:
    space = Space((1, 1, 3))
    x = torch.randn(500, 1, 1, 3) * torch.tensor([1.0, 1.0, 0.0])
    three, two = (compression.measure(evaluate(fit_pca(space, x, Z), x))["compression_rate"] for Z in (3, 2))
    assert three.value == pytest.approx(two.value, abs=0.01)


def test_metrics_return_nothing_where_they_do_not_apply() -> None:
    space, x = SPACES["levels"], points(SPACES["levels"])
    flow = Linear(space).eval()
    assert linear_probe.measure(evaluate(flow, x)) == clustering.measure(evaluate(flow, x)) == {}  # no labels
    assert denoising.measure(evaluate(flow, x)) == compression.measure(evaluate(flow, x)) == {}
    assert set(anomalies.measure(evaluate(flow, x))) == {"anomaly_auroc_likelihood_shuffled"}
    assert ising.measure(evaluate(flow, x)) == {}  # of another space
    labeled = evaluate(fit_pca(space, x, 2), x, torch.arange(64) % 2)
    assert set(linear_probe.measure(labeled)) == {"linear_probe_accuracy"}
    assert set(clustering.measure(labeled)) == {"clustering_ari", "clustering_nmi"}
