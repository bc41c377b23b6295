"""Vector quantization: gradients, moving averages and restarts of codebooks; bounds compared with exact likelihoods."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from genbench.dataset import Dataset, Space
from genbench.evaluation import Evaluation
from genbench.metrics.codebook import codebook, use
from genbench.models.vaes.codebook import (
    TEMPERATURE,
    Codebook,
    Learning,
    QuantizerOutput,
    counts_and_sums,
    relative_squared_distances,
    straight_through,
)
from genbench.models.vaes.discrete_latent import CodePrior, DiscreteLatentModel, Quantizer
from genbench.models.vaes.vae import VAE
from genbench.models.vaes.vqvae import VQVAE, FlatVQVAE
from genbench.models.vaes.vqvae2 import VQVAE2
from genbench.records.artifacts import Work
from genbench.suite import Run
from genbench.train import train

Make = Callable[..., DiscreteLatentModel]
Row = tuple[Make, dict[str, object]]
SMALL: dict[str, object] = {"codes": 3, "dim": 2, "width": 8, "heads": 2, "depth": 1}
MODELS: dict[str, Row] = {
    "VQVAE": (VQVAE, {"patch": 2, "channels": 4, "blocks": 1, **SMALL}),
    "VQVAE by loss": (VQVAE, {"patch": 2, "channels": 4, "blocks": 1, "codebook": "loss", **SMALL}),
    "FlatVQVAE": (FlatVQVAE, {"positions": 3, "hidden": (8,), **SMALL}),
    "VQVAE2": (VQVAE2, {"patch": 1, "channels": 4, "blocks": 1, **SMALL, "codes": 2}),
}
every_model = pytest.mark.parametrize("row", MODELS.values(), ids=MODELS)
each_learning = pytest.mark.parametrize("learning", ["ema", "loss"])
BINARY, LEVELS = Space((1, 2, 4), 2), Space((2, 4, 4), 5)


def points(space: Space, n: int = 6) -> Tensor:
    """Return points x (n, *shape) of a space."""
    if space.levels is None:
        return 1 + 2 * torch.randn(n, *space.shape)
    return torch.randint(0, space.levels, (n, *space.shape)).to(torch.uint8)


def build(row: Row, space: Space) -> DiscreteLatentModel:
    """Return a model initialized on data, with perturbed parameters, in float64 and evaluation mode."""
    make, options = row
    model = make(space, **options).double()
    model.loss(points(space, 64))
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn_like(p)
    return model.eval()


def make_codebook(size: int = 4, dim: int = 3, learning: Learning = "ema", restart: float = 0.0) -> Codebook:
    """Return a codebook in float64."""
    return Codebook(size, dim, learning=learning, decay=0.9, restart=restart).double()


# ----------------------------------------------------------------------------------------------- codebooks


def test_straight_through_gradient_is_the_identity() -> None:
    book, z = make_codebook(), torch.randn(5, 3, 2, 2).double().requires_grad_()
    g = torch.randn(5, 3, 2, 2).double()
    assert torch.equal(torch.autograd.grad(book.quantize(z).z, z, g)[0], g)
    e = torch.randn_like(z)
    torch.testing.assert_close(straight_through(z, e), e)


def test_vectors_are_replaced_by_the_nearest_code() -> None:
    z, e = torch.randn(50, 3).double(), torch.randn(7, 3).double()
    distances = relative_squared_distances(z, e) + z.square().sum(1, keepdim=True)
    torch.testing.assert_close(distances, torch.cdist(z, e) ** 2)
    book = make_codebook()
    output = book.quantize(e[:5].T.unsqueeze(0))  # (1, 3, 5)
    assert output.codes.shape == (1, 5)
    assert torch.equal(output.codes[0], torch.cdist(e[:5], book.e).argmin(1))
    torch.testing.assert_close(output.z[0].T, book.e[output.codes[0]])
    torch.testing.assert_close(book.embed(output.codes), output.z)


def test_statistics_of_two_half_batches_add_up_to_those_of_the_batch() -> None:
    z = torch.randn(40, 3).double()
    whole, halves = make_codebook(), make_codebook()
    for book in (whole, halves):
        book.e.copy_(z[:4]), book.sums.copy_(5 * z[:4]), book.counts.fill_(5)
    chosen = relative_squared_distances(z, whole.e).argmin(1)
    whole.update_averages(*counts_and_sums(z, chosen, 4))
    parts = [counts_and_sums(z[half], chosen[half], 4) for half in (slice(0, 17), slice(17, None))]
    halves.update_averages(*(a + b for a, b in zip(*parts, strict=True)))
    torch.testing.assert_close(whole.e, halves.e)
    torch.testing.assert_close(whole.counts, halves.counts)
    n, m = torch.bincount(chosen, minlength=4), torch.stack([z[chosen == k].sum(0) for k in range(4)])
    expected = (0.9 * 5 * z[:4] + 0.1 * m) / (0.9 * 5 + 0.1 * n)[:, None]  # eq. 6 to 8
    torch.testing.assert_close(whole.e, expected)


def test_moving_averages_of_constant_vectors_converge_to_cluster_means() -> None:
    """As in k-means with two clusters."""
    z = torch.tensor([[0.0], [1.0], [9.0], [10.0], [14.0]]).double().view(1, 1, 5)
    book = make_codebook(2, 1)
    book.e.copy_(torch.tensor([[3.0], [12.0]])), book.sums.copy_(book.e), book.counts.fill_(1)
    for _ in range(400):
        book.quantize_and_update(z)
    torch.testing.assert_close(book.e.flatten(), torch.tensor([0.5, 11.0]).double())
    torch.testing.assert_close(book.counts, torch.tensor([2.0, 3.0]).double())


def test_codes_are_sampled_with_the_reported_probabilities() -> None:
    book, z = make_codebook(), torch.randn(1, 3, 2).double()
    samples = book.sample(z.expand(20_000, -1, -1))
    q = (-(torch.cdist(z[0].T, book.e) ** 2) / (TEMPERATURE * book.error)).softmax(1)
    counts = torch.zeros(4, 4).double().index_put_(tuple(samples.codes.T), torch.tensor(1 / 20_000).double(), True)
    expected = q[0, :, None] * q[1]
    torch.testing.assert_close(samples.log_q, expected.log()[tuple(samples.codes.T)])
    assert ((counts - expected).abs() < 5 * (expected / 20_000).sqrt() + 1e-4).all()
    torch.testing.assert_close(samples.z, book.embed(samples.codes))


@each_learning
def test_commitment_loss_trains_the_encoder_and_codebook_loss_the_codes(learning: Learning) -> None:
    """d/dz beta/N sum |z - e|^2 = 2 beta (z - e) / N, and d/de 1/N sum |z - e|^2 = 2 (e - z) / N."""
    book, z = make_codebook(4, 3, learning), torch.randn(20, 3).double().requires_grad_()
    output = book.quantize(z)
    inputs = [z, book.e] if learning == "loss" else [z]
    gradients = torch.autograd.grad(output.loss, inputs)
    difference = (z - book.e[output.codes]).detach()
    torch.testing.assert_close(gradients[0], 2 * 0.25 * difference / 20)
    if learning == "loss":
        expected = torch.zeros(4, 3).double().index_add_(0, output.codes, -2 * difference / 20)
        torch.testing.assert_close(gradients[1], expected)
    else:
        assert "e" not in dict(book.named_parameters())


@each_learning
def test_first_batch_initializes_every_code(learning: Learning) -> None:
    z = torch.randn(30, 3, 4).double() * 100
    book = make_codebook(8, 3, learning)
    book.restart_dead_codes(z.movedim(1, -1).flatten(0, 1))
    assert (torch.cdist(book.e.detach(), z.movedim(1, -1).flatten(0, 1)).amin(1) == 0).all()
    assert len(book.e.unique(dim=0)) > 4
    assert (book.counts == 30 * 4 / 8).all()


@each_learning
def test_only_dead_codes_are_reset_to_vectors_of_the_batch(learning: Learning) -> None:
    z = torch.randn(100, 3).double()
    book = make_codebook(4, 3, learning, restart=0.1)
    with torch.no_grad():
        book.e.copy_(torch.cat((z[:3], torch.full((1, 3), 50.0).double())))
        book.counts.fill_(25), book.sums.copy_(25 * book.e)
    steps = math.ceil(math.log(0.1) / math.log(0.9))  # until 0.9^n <= 0.1
    for _ in range(steps):
        book.quantize_and_update(z)
    assert torch.equal(book.e[3].detach(), torch.full((3,), 50.0).double())
    before = book.e.detach().clone()
    book.restart_dead_codes(z)
    assert (z == book.e[3].detach()).all(1).any()
    assert book.counts[3] == 25
    assert torch.equal(book.e[:3].detach(), before[:3])
    torch.testing.assert_close(book.sums[3], 25 * book.e[3].detach())


# -------------------------------------------------------------------------------------------------- priors


@pytest.mark.parametrize("lengths", [(4,), (1, 3)])
def test_prior_sums_to_one_is_causal_and_starts_uniform(lengths: tuple[int, ...]) -> None:
    prior = CodePrior(3, lengths, width=8, depth=1, heads=2, dropout=0.0).double()
    c = torch.tensor(list(itertools.product(range(3), repeat=4)))
    torch.testing.assert_close(prior.log_prob(c), torch.full((81,), -4 * math.log(3)).double())
    with torch.no_grad():
        for p in prior.parameters():
            p += 0.5 * torch.randn_like(p)
        p = prior.log_prob(c).exp()
        frequencies = torch.bincount(prior.sample(20_000) @ torch.tensor([27, 9, 3, 1]), minlength=81) / 20_000
        logits = prior.net(prior.embedding(c + prior.offsets))
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    assert p.max() > 2 * p.min()
    assert ((frequencies - p).abs() < 5 * (p * (1 - p) / 20_000).sqrt() + 1e-4).all()
    assert torch.equal(logits[0, :3], logits[2, :3])  # 0000 and 0002: no output depends on the last code
    assert not torch.allclose(logits[0, 3], logits[3, 3])  # 0000 and 0010: the last output depends on the code before


# ------------------------------------------------------------------------------------------------- models


@every_model
def test_bound_is_below_the_exact_likelihood_and_samples_follow_it(row: Row) -> None:
    """The exact log p(x) = log sum_c p(c) p(x | c) sums over all codes c."""
    model = build(row, BINARY)
    x = torch.tensor(list(itertools.product((0, 1), repeat=8)), dtype=torch.uint8).view(256, 1, 2, 4)
    lengths = [math.prod(grid) for grid in model.grids]
    c = torch.cartesian_prod(*[torch.arange(model.size)] * sum(lengths))
    levels = [part.view(-1, *grid) for part, grid in zip(c.split(lengths, 1), model.grids, strict=True)]
    with torch.no_grad():
        log_p_x = model.log_likelihood(x, model.embed(levels)[:, None])  # (codes, 256)
        log_p = (model.log_prior(levels)[:, None] + log_p_x).logsumexp(0)
        samples = model.sample(20_000).flatten(1).long() @ (2 ** torch.arange(7, -1, -1))
        assert (model.log_prob(x) <= log_p + 1e-9).all()
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-9)
    frequencies, p = torch.bincount(samples, minlength=256) / 20_000, log_p.exp()
    assert ((frequencies - p).abs() < 5 * (p * (1 - p) / 20_000).sqrt() + 1e-4).all()


@every_model
def test_with_an_untrained_prior_each_code_costs_log_k(row: Row) -> None:
    model = row[0](LEVELS, **row[1])
    rate, distortion = model.eval().rate_and_distortion(x := points(LEVELS))
    positions = sum(math.prod(grid) for grid in model.grids)
    torch.testing.assert_close(rate, torch.full((6,), positions * math.log(model.size)))
    torch.testing.assert_close(model.log_prob(x), -rate - distortion)


@every_model
def test_log_weights_vary_with_the_sampled_codes(row: Row) -> None:
    """If only the nearest codes are sampled, each log-weight equals the bound."""
    model, x = build(row, LEVELS), points(LEVELS)
    with torch.no_grad():
        spread = model.log_weights(x, 50)
        for book in model.codebook_list:
            book.error.fill_(1e-12)
        torch.testing.assert_close(model.log_weights(x, 3), model.log_prob(x).expand(3, -1))
    assert spread.shape == (50, 6)
    assert (spread.std(0) > 0).all()


@every_model
@pytest.mark.parametrize("space", [BINARY, LEVELS], ids=["binary", "levels"])
def test_samples_and_reconstructions_have_the_shape_and_range_of_the_data(row: Row, space: Space) -> None:
    model, x = build(row, space).float(), points(space)
    assert space.levels is not None
    samples, mean, z = model.sample(50), model.reconstruct(x), model.encode(x)
    assert samples.shape == (50, *space.shape)
    assert samples.dtype == torch.uint8
    assert samples.max().item() == space.levels - 1
    assert mean.shape == x.shape
    assert 0 <= mean.min().item() <= mean.max().item() <= space.levels - 1
    assert z.shape == (6, model.dim * sum(math.prod(grid) for grid in model.grids))
    torch.testing.assert_close(model.decode(z), mean)


def test_flat_vqvae_models_2d_points() -> None:
    model = build(MODELS["FlatVQVAE"], Space((2,))).float()
    assert model.sample(4).shape == (4, 2)
    assert model.log_prob(points(Space((2,)))).isfinite().all()


@every_model
def test_every_parameter_is_trained_in_exactly_one_stage(row: Row) -> None:
    model, x = build(row, LEVELS).train(), points(LEVELS)
    parameters, trained = list(model.parameters()), []
    for stage in model.configure_optimizers(torch.optim.SGD):
        gradients = torch.autograd.grad(stage.loss(x), parameters, allow_unused=True)
        trained.append({id(p) for p, g in zip(parameters, gradients, strict=True) if g is not None})
        assert trained[-1] == {id(p) for p in stage.parameters}
    assert trained[0] | trained[1] == {id(p) for p in parameters}
    assert not trained[0] & trained[1]


def test_prior_is_trained_on_nearest_codes_or_on_samples_near_them() -> None:
    make, options = MODELS["VQVAE"]
    model, x = build((make, {**options, "near": False}), LEVELS), points(LEVELS)
    with torch.no_grad():
        assert model.prior_loss(x) == model.rate_and_distortion(x)[0].mean()
        model.near = True
        assert len({model.prior_loss(x).item() for _ in range(5)}) == 5


@every_model
def test_encoder_receives_the_gradient_of_the_reconstruction(row: Row) -> None:
    """The gradient at z is that of the decoder at z_q, as if nothing were quantized."""
    model, x = build(row, LEVELS), points(LEVELS)
    z = torch.cat([level.z.flatten(1) for level in model.quantize(x)], 1)
    z_q = model.encode(x).requires_grad_()
    (through,) = torch.autograd.grad(-model.log_likelihood(x, z).mean(), z)
    (expected,) = torch.autograd.grad(-model.log_likelihood(x, z_q).mean(), z_q)
    torch.testing.assert_close(through, expected)
    assert expected.abs().max() > 1e-6


@every_model
def test_log_prob_of_a_point_ignores_the_batch_and_evaluation_changes_no_state(row: Row) -> None:
    model, x = build(row, LEVELS), points(LEVELS)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        one_by_one = torch.cat([model.log_prob(point[None]) for point in x])
        torch.testing.assert_close(model.log_prob(x), one_by_one)
        model.loss(x), model.train().log_prob(x), model.prior_loss(x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@every_model
def test_codebooks_use_full_precision_under_autocast(row: Row) -> None:
    model, x = build(row, LEVELS).float().train(), points(LEVELS)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(x) + model.prior_loss(x)
    assert loss.isfinite()
    for book in model.codebook_list:
        z = torch.randn(4, model.dim, 5)
        exact = book.quantize(z).codes
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(book.quantize(z).codes, exact)


class InterruptedVQVAE2(VQVAE2):
    """A model that raises KeyboardInterrupt after `left` training batches."""

    left = math.inf

    def quantize(self, x: Tensor, quantizer: Quantizer = Codebook.quantize) -> list[QuantizerOutput]:
        self.left -= self.training
        if self.left < 0:
            raise KeyboardInterrupt
        return super().quantize(x, quantizer)


@pytest.mark.parametrize("learning", ["ema", "loss"])
@pytest.mark.parametrize("stop", [7, 16])
def test_resumed_run_is_bit_identical_in_either_stage(tmp_path: Path, learning: Learning, stop: int) -> None:
    x = points(LEVELS, 40)
    data = Dataset(LEVELS, x, x[:10], x[10:20])
    run = Run(suite="s", name="n", model="m", data="d", steps=20, batch=8, checks=2, selection="last")

    def model() -> InterruptedVQVAE2:
        torch.manual_seed(0)
        return InterruptedVQVAE2(LEVELS, **{**MODELS["VQVAE2"][1], "codebook": learning, "restart": 0.5})

    whole, part, rest = model(), model(), model()
    train(whole, data, run, Work(tmp_path / "a"), code="c")
    part.left = stop
    with pytest.raises(KeyboardInterrupt):
        train(part, data, run, Work(tmp_path / "b"), code="c", checkpoint_every=0)
    train(rest, data, run, Work(tmp_path / "b"), code="c")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[name]), name
    moved = [name for name, value in rest.state_dict().items() if not torch.equal(value, part.state_dict()[name])]
    assert moved
    assert stop < 12 or all(name.startswith("prior.") for name in moved), "the second stage trains only the prior"


@pytest.mark.parametrize("make", [VQVAE, VQVAE2])
@pytest.mark.parametrize("shape", [(64,), (1, 7, 8)])
def test_data_that_cannot_be_cut_into_patches_are_rejected(make: Make, shape: tuple[int, ...]) -> None:
    side = 4 if make is VQVAE else 8
    with pytest.raises(ValueError, match=f"patches of {side}x{side} need images whose sides {side} divides, got shape"):
        make(Space(shape, 17))
    with pytest.raises(ValueError, match=r"share=1\.5 must be above 0 and at most 1"):
        make(Space((1, 8, 8), 17), share=1.5)


# ------------------------------------------------------------------------------------------------- metrics


def test_perplexity_of_given_codes() -> None:
    measurements = use(torch.arange(8).repeat(3), 10)
    assert measurements["codebook_perplexity"].value == pytest.approx(8)
    assert (measurements["codes_used"].value, measurements["codes_used"].n) == (8, 24)
    assert use(torch.zeros(5).long(), 10)["codebook_perplexity"].value == pytest.approx(1)
    halves = use(torch.tensor([0, 0, 1, 2]), 4)["codebook_perplexity"].value
    assert halves == pytest.approx(2**1.5)  # 1/2, 1/4, 1/4: 1.5 bits


def test_codebook_metric_reports_each_level_and_skips_models_without_codes() -> None:
    x = points(LEVELS, 20)
    run, data = Run(suite="s", name="n", model="m", data="d"), Dataset(LEVELS, x, x, x)

    def counts(model: torch.nn.Module) -> dict[str, int]:
        return {name: result.n for name, result in codebook.measure(Evaluation(model.eval(), data, run)).items()}

    assert counts(build(MODELS["VQVAE"], LEVELS)) == {"codebook_perplexity": 80, "codes_used": 80}
    levels = counts(build(MODELS["VQVAE2"], LEVELS))
    assert levels == {
        "codebook_perplexity_1": 80,
        "codes_used_1": 80,
        "codebook_perplexity_2": 320,
        "codes_used_2": 320,
    }
    assert counts(VAE(LEVELS)) == {}
