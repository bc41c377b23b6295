"""Truths about vector quantisation: gradients, averages and restarts of codebooks, bounds below an exact likelihood."""

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
from genbench.models.vaes.codebook import SPREAD, Codebook, Learning, Quantised, squares, statistics, straight_through
from genbench.models.vaes.quantised import Choose, Prior, QuantisedModel
from genbench.models.vaes.vae import VAE
from genbench.models.vaes.vqvae import VQVAE, FlatVQVAE
from genbench.models.vaes.vqvae2 import VQVAE2
from genbench.records.artifacts import Work
from genbench.suite import Run
from genbench.train import train

Make = Callable[..., QuantisedModel]
Row = tuple[Make, dict[str, object]]
SMALL: dict[str, object] = {"codes": 3, "dim": 2, "width": 8, "heads": 2, "depth": 1}
MODELS: dict[str, Row] = {
    "VQVAE": (VQVAE, {"patch": 2, "channels": 4, "blocks": 1, **SMALL}),
    "VQVAE by loss": (VQVAE, {"patch": 2, "channels": 4, "blocks": 1, "codebook": "loss", **SMALL}),
    "FlatVQVAE": (FlatVQVAE, {"positions": 3, "hidden": (8,), **SMALL}),
    "VQVAE2": (VQVAE2, {"patch": 1, "channels": 4, "blocks": 1, **SMALL, "codes": 2}),
}
every_model = pytest.mark.parametrize("row", MODELS.values(), ids=MODELS)
both = pytest.mark.parametrize("learning", ["ema", "loss"])
BINARY, LEVELS = Space((1, 2, 4), 2), Space((2, 4, 4), 5)


def points(space: Space, n: int = 6) -> Tensor:
    """Return points x (n, *shape) of a space."""
    if space.levels is None:
        return 1 + 2 * torch.randn(n, *space.shape)
    return torch.randint(0, space.levels, (n, *space.shape)).to(torch.uint8)


def built(row: Row, space: Space) -> QuantisedModel:
    """Return a model that has started on data and is far from its start, in float64 and evaluation mode."""
    make, options = row
    model = make(space, **options).double()
    model.loss(points(space, 64))
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn_like(p)
    return model.eval()


def book(size: int = 4, dim: int = 3, learning: Learning = "ema", restart: float = 0.0) -> Codebook:
    """Return a codebook in float64."""
    return Codebook(size, dim, learning=learning, decay=0.9, restart=restart).double()


# ----------------------------------------------------------------------------------------------- codebooks


def test_the_gradient_straight_through_is_the_identity() -> None:
    codes, z = book(), torch.randn(5, 3, 2, 2).double().requires_grad_()
    g = torch.randn(5, 3, 2, 2).double()
    assert torch.equal(torch.autograd.grad(codes.nearest(z).z, z, g)[0], g)
    e = torch.randn_like(z)
    torch.testing.assert_close(straight_through(z, e), e)


def test_each_vector_becomes_the_nearest() -> None:
    z, e = torch.randn(50, 3).double(), torch.randn(7, 3).double()
    torch.testing.assert_close(squares(z, e) + z.square().sum(1, keepdim=True), torch.cdist(z, e) ** 2)
    codes = book()
    quantised = codes.nearest(e[:5].T.unsqueeze(0))  # (1, 3, 5)
    assert quantised.codes.shape == (1, 5)
    assert torch.equal(quantised.codes[0], torch.cdist(e[:5], codes.e).argmin(1))
    torch.testing.assert_close(quantised.z[0].T, codes.e[quantised.codes[0]])
    torch.testing.assert_close(codes.vectors(quantised.codes), quantised.z)


def test_averages_of_two_half_batches_merged_are_those_of_one_batch() -> None:
    z = torch.randn(40, 3).double()
    whole, halves = book(), book()
    for codes in (whole, halves):
        codes.e.copy_(z[:4]), codes.sums.copy_(5 * z[:4]), codes.counts.fill_(5)
    chosen = squares(z, whole.e).argmin(1)
    whole.follow(*statistics(z, chosen, 4))
    parts = [statistics(z[half], chosen[half], 4) for half in (slice(0, 17), slice(17, None))]
    halves.follow(*(a + b for a, b in zip(*parts, strict=True)))
    torch.testing.assert_close(whole.e, halves.e)
    torch.testing.assert_close(whole.counts, halves.counts)
    n, m = torch.bincount(chosen, minlength=4), torch.stack([z[chosen == k].sum(0) for k in range(4)])
    expected = (0.9 * 5 * z[:4] + 0.1 * m) / (0.9 * 5 + 0.1 * n)[:, None]  # eq. 6 to 8
    torch.testing.assert_close(whole.e, expected)


def test_averages_of_vectors_that_stay_are_their_means() -> None:
    """k-means of two clusters."""
    z = torch.tensor([[0.0], [1.0], [9.0], [10.0], [14.0]]).double().view(1, 1, 5)
    codes = book(2, 1)
    codes.e.copy_(torch.tensor([[3.0], [12.0]])), codes.sums.copy_(codes.e), codes.counts.fill_(1)
    for _ in range(400):
        codes.learned(z)
    torch.testing.assert_close(codes.e.flatten(), torch.tensor([0.5, 11.0]).double())
    torch.testing.assert_close(codes.counts, torch.tensor([2.0, 3.0]).double())


def test_codes_are_drawn_by_the_law_that_they_say() -> None:
    codes, z = book(), torch.randn(1, 3, 2).double()
    drawn = codes.drawn(z.expand(20_000, -1, -1))
    q = (-(torch.cdist(z[0].T, codes.e) ** 2) / (SPREAD * codes.error)).softmax(1)
    counts = torch.zeros(4, 4).double().index_put_(tuple(drawn.codes.T), torch.tensor(1 / 20_000).double(), True)
    expected = q[0, :, None] * q[1]
    torch.testing.assert_close(drawn.log_q, expected.log()[tuple(drawn.codes.T)])
    assert ((counts - expected).abs() < 5 * (expected / 20_000).sqrt() + 1e-4).all()
    torch.testing.assert_close(drawn.z, codes.vectors(drawn.codes))


@both
def test_commitment_moves_the_encoder_and_the_codebook_moves_by_its_own_loss(learning: Learning) -> None:
    """d/dz beta/N sum |z - e|^2 = 2 beta (z - e) / N, and d/de 1/N sum |z - e|^2 = 2 (e - z) / N."""
    codes, z = book(4, 3, learning), torch.randn(20, 3).double().requires_grad_()
    quantised = codes.nearest(z)
    wanted = [z, codes.e] if learning == "loss" else [z]
    found = torch.autograd.grad(quantised.loss, wanted)
    difference = (z - codes.e[quantised.codes]).detach()
    torch.testing.assert_close(found[0], 2 * 0.25 * difference / 20)
    if learning == "loss":
        expected = torch.zeros(4, 3).double().index_add_(0, quantised.codes, -2 * difference / 20)
        torch.testing.assert_close(found[1], expected)
    else:
        assert "e" not in dict(codes.named_parameters())


@both
def test_the_first_batch_gives_every_code(learning: Learning) -> None:
    z = torch.randn(30, 3, 4).double() * 100
    codes = book(8, 3, learning)
    codes.restart(z.movedim(1, -1).flatten(0, 1))
    assert (torch.cdist(codes.e.detach(), z.movedim(1, -1).flatten(0, 1)).amin(1) == 0).all()
    assert len(codes.e.unique(dim=0)) > 4
    assert (codes.counts == 30 * 4 / 8).all()


@both
def test_codes_out_of_use_are_put_on_vectors_of_the_batch_and_no_others(learning: Learning) -> None:
    z = torch.randn(100, 3).double()
    codes = book(4, 3, learning, restart=0.1)
    with torch.no_grad():
        codes.e.copy_(torch.cat((z[:3], torch.full((1, 3), 50.0).double())))
        codes.counts.fill_(25), codes.sums.copy_(25 * codes.e)
    steps = math.ceil(math.log(0.1) / math.log(0.9))  # until 0.9^n is 0.1 or less
    for _ in range(steps):
        codes.learned(z)
    assert torch.equal(codes.e[3].detach(), torch.full((3,), 50.0).double())
    kept = codes.e.detach().clone()
    codes.restart(z)
    assert (z == codes.e[3].detach()).all(1).any()
    assert codes.counts[3] == 25
    assert torch.equal(codes.e[:3].detach(), kept[:3])
    torch.testing.assert_close(codes.sums[3], 25 * codes.e[3].detach())


# -------------------------------------------------------------------------------------------------- priors


@pytest.mark.parametrize("lengths", [(4,), (1, 3)])
def test_the_prior_has_mass_one_is_told_by_former_codes_alone_and_starts_uniform(lengths: tuple[int, ...]) -> None:
    prior = Prior(3, lengths, width=8, depth=1, heads=2, dropout=0.0).double()
    c = torch.tensor(list(itertools.product(range(3), repeat=4)))
    torch.testing.assert_close(prior.log_prob(c), torch.full((81,), -4 * math.log(3)).double())
    with torch.no_grad():
        for p in prior.parameters():
            p += 0.5 * torch.randn_like(p)
        p = prior.log_prob(c).exp()
        drawn = torch.bincount(prior.sample(20_000) @ torch.tensor([27, 9, 3, 1]), minlength=81) / 20_000
        logits = prior.net(prior.embedding(c + prior.first))
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    assert p.max() > 2 * p.min()
    assert ((drawn - p).abs() < 5 * (p * (1 - p) / 20_000).sqrt() + 1e-4).all()
    assert torch.equal(logits[0, :3], logits[2, :3])  # 0000 and 0002: no output is told of the last code
    assert not torch.allclose(logits[0, 3], logits[3, 3])  # 0000 and 0010: the last is told of the one before


# ------------------------------------------------------------------------------------------------- models


@every_model
def test_the_likelihood_is_below_that_of_the_model_which_has_mass_one(row: Row) -> None:
    """log p(x) = log sum_c p(c) p(x | c), over every c, is no less than the bound; samples follow it."""
    model = built(row, BINARY)
    x = torch.tensor(list(itertools.product((0, 1), repeat=8)), dtype=torch.uint8).view(256, 1, 2, 4)
    lengths = [math.prod(shape) for shape in model.places]
    c = torch.cartesian_prod(*[torch.arange(model.size)] * sum(lengths))
    levels = [part.view(-1, *shape) for part, shape in zip(c.split(lengths, 1), model.places, strict=True)]
    with torch.no_grad():
        log_p_x = model.log_likelihood(x, model.vectors(levels)[:, None])  # (codes, 256)
        log_p = (model.log_prior(levels)[:, None] + log_p_x).logsumexp(0)
        samples = model.sample(20_000).flatten(1).long() @ (2 ** torch.arange(7, -1, -1))
        assert (model.log_prob(x) <= log_p + 1e-9).all()
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-9)
    seen, p = torch.bincount(samples, minlength=256) / 20_000, log_p.exp()
    assert ((seen - p).abs() < 5 * (p * (1 - p) / 20_000).sqrt() + 1e-4).all()


@every_model
def test_until_the_prior_is_trained_codes_cost_log_k(row: Row) -> None:
    model = row[0](LEVELS, **row[1])
    rate, distortion = model.eval().rate_and_distortion(x := points(LEVELS))
    places = sum(math.prod(shape) for shape in model.places)
    torch.testing.assert_close(rate, torch.full((6,), places * math.log(model.size)))
    torch.testing.assert_close(model.log_prob(x), -rate - distortion)


@every_model
def test_weights_are_of_the_codes_that_are_drawn(row: Row) -> None:
    """Where draws are the nearest codes, each weight is the bound; and draws that spread find more than one term."""
    model, x = built(row, LEVELS), points(LEVELS)
    with torch.no_grad():
        spread = model.log_weights(x, 50)
        for codes in model.books:
            codes.error.fill_(1e-12)
        torch.testing.assert_close(model.log_weights(x, 3), model.log_prob(x).expand(3, -1))
    assert spread.shape == (50, 6)
    assert (spread.std(0) > 0).all()


@every_model
@pytest.mark.parametrize("space", [BINARY, LEVELS], ids=["binary", "levels"])
def test_samples_and_reconstructions_lie_in_the_space(row: Row, space: Space) -> None:
    model, x = built(row, space).float(), points(space)
    assert space.levels is not None
    samples, mean, z = model.sample(50), model.reconstruct(x), model.encode(x)
    assert samples.shape == (50, *space.shape)
    assert samples.dtype == torch.uint8
    assert samples.max().item() == space.levels - 1
    assert mean.shape == x.shape
    assert 0 <= mean.min().item() <= mean.max().item() <= space.levels - 1
    assert z.shape == (6, model.dim * sum(math.prod(shape) for shape in model.places))
    torch.testing.assert_close(model.decode(z), mean)


def test_points_of_the_plane_have_codes_too() -> None:
    model = built(MODELS["FlatVQVAE"], Space((2,))).float()
    assert model.sample(4).shape == (4, 2)
    assert model.log_prob(points(Space((2,)))).isfinite().all()


@every_model
def test_every_parameter_is_trained_by_one_player(row: Row) -> None:
    model, x = built(row, LEVELS).train(), points(LEVELS)
    parameters, trained = list(model.parameters()), []
    for player in model.configure_optimizers(torch.optim.SGD):
        gradients = torch.autograd.grad(player.loss(x), parameters, allow_unused=True)
        trained.append({id(p) for p, g in zip(parameters, gradients, strict=True) if g is not None})
        assert trained[-1] == {id(p) for p in player.parameters}
    assert trained[0] | trained[1] == {id(p) for p in parameters}
    assert not trained[0] & trained[1]


def test_the_prior_learns_from_the_nearest_codes_or_from_draws_near_them() -> None:
    make, options = MODELS["VQVAE"]
    model, x = built((make, {**options, "near": False}), LEVELS), points(LEVELS)
    with torch.no_grad():
        assert model.prior_loss(x) == model.rate_and_distortion(x)[0].mean()
        model.near = True
        assert len({model.prior_loss(x).item() for _ in range(5)}) == 5


@every_model
def test_the_encoder_is_told_of_the_reconstruction_as_if_nothing_were_quantised(row: Row) -> None:
    """With beta = 0 and codes "ema" the gradient at z is that of the decoder at z_q: it is not zero."""
    model, x = built(row, LEVELS), points(LEVELS)
    z = torch.cat([level.z.flatten(1) for level in model.quantised(x)], 1)
    at = model.encode(x).requires_grad_()
    (through,) = torch.autograd.grad(-model.log_likelihood(x, z).mean(), z)
    (expected,) = torch.autograd.grad(-model.log_likelihood(x, at).mean(), at)
    torch.testing.assert_close(through, expected)
    assert expected.abs().max() > 1e-6


@every_model
def test_batch_mates_do_not_matter_and_evaluation_moves_no_codebook(row: Row) -> None:
    model, x = built(row, LEVELS), points(LEVELS)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        alone = torch.cat([model.log_prob(one[None]) for one in x])
        torch.testing.assert_close(model.log_prob(x), alone)
        model.loss(x), model.train().log_prob(x), model.prior_loss(x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@every_model
def test_codebooks_learn_in_full_precision_where_networks_do_not(row: Row) -> None:
    model, x = built(row, LEVELS).float().train(), points(LEVELS)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(x) + model.prior_loss(x)
    assert loss.isfinite()
    for codes in model.books:
        z = torch.randn(4, model.dim, 5)
        exact = codes.nearest(z).codes
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(codes.nearest(z).codes, exact)


class Stopped(VQVAE2):
    """A model that is interrupted once it has been shown `left` batches."""

    left = math.inf

    def quantised(self, x: Tensor, choose: Choose = Codebook.nearest) -> list[Quantised]:
        self.left -= self.training
        if self.left < 0:
            raise KeyboardInterrupt
        return super().quantised(x, choose)


@pytest.mark.parametrize("learning", ["ema", "loss"])
@pytest.mark.parametrize("stop", [7, 16])
def test_a_stopped_run_goes_on_bit_for_bit_in_either_stage(tmp_path: Path, learning: Learning, stop: int) -> None:
    x = points(LEVELS, 40)
    data = Dataset(LEVELS, x, x[:10], x[10:20])
    of = Run(suite="s", name="n", model="m", data="d", steps=20, batch=8, checks=2, selection="last")

    def model() -> Stopped:
        torch.manual_seed(0)
        return Stopped(LEVELS, **{**MODELS["VQVAE2"][1], "codebook": learning, "restart": 0.5})

    whole, part, rest = model(), model(), model()
    train(whole, data, of, Work(tmp_path / "a"), code="c")
    part.left = stop
    with pytest.raises(KeyboardInterrupt):
        train(part, data, of, Work(tmp_path / "b"), code="c", checkpoint_every=0)
    train(rest, data, of, Work(tmp_path / "b"), code="c")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[name]), name
    moved = [name for name, value in rest.state_dict().items() if not torch.equal(value, part.state_dict()[name])]
    assert moved
    assert stop < 12 or all(name.startswith("prior.") for name in moved), "the second stage moves the prior alone"


@pytest.mark.parametrize("make", [VQVAE, VQVAE2])
@pytest.mark.parametrize("shape", [(64,), (1, 7, 8)])
def test_what_cannot_be_cut_into_patches_is_refused_in_one_line(make: Make, shape: tuple[int, ...]) -> None:
    side = 4 if make is VQVAE else 8
    with pytest.raises(ValueError, match=f"patches of {side}x{side} need images whose sides {side} divides, got shape"):
        make(Space(shape, 17))
    with pytest.raises(ValueError, match=r"share=1\.5 must be above 0 and at most 1"):
        make(Space((1, 8, 8), 17), share=1.5)


# ------------------------------------------------------------------------------------------------- metrics


def test_perplexity_of_known_codes() -> None:
    found = use(torch.arange(8).repeat(3), 10)
    assert found["codebook_perplexity"].value == pytest.approx(8)
    assert (found["codes_used"].value, found["codes_used"].n) == (8, 24)
    assert use(torch.zeros(5).long(), 10)["codebook_perplexity"].value == pytest.approx(1)
    halves = use(torch.tensor([0, 0, 1, 2]), 4)["codebook_perplexity"].value
    assert halves == pytest.approx(2**1.5)  # 1/2, 1/4, 1/4: 1.5 bits


def test_each_level_has_its_perplexity_and_models_without_codes_have_none() -> None:
    x = points(LEVELS, 20)
    run, data = Run(suite="s", name="n", model="m", data="d"), Dataset(LEVELS, x, x, x)

    def measured(model: torch.nn.Module) -> dict[str, int]:
        return {name: found.n for name, found in codebook.measure(Evaluation(model.eval(), data, run)).items()}

    assert measured(built(MODELS["VQVAE"], LEVELS)) == {"codebook_perplexity": 80, "codes_used": 80}
    levels = measured(built(MODELS["VQVAE2"], LEVELS))
    assert levels == {
        "codebook_perplexity_1": 80,
        "codes_used_1": 80,
        "codebook_perplexity_2": 320,
        "codes_used_2": 320,
    }
    assert measured(VAE(LEVELS)) == {}
