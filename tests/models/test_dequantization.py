"""Properties of dequantization noise: its density, and the bound on the likelihood of the integers."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from genbench.dataset import Dataset, Space
from genbench.evaluation import Evaluation
from genbench.metrics.likelihood import bound
from genbench.models.dequantization import EDGE, noise_from_point
from genbench.models.flows.flow import DEQUANTIZATIONS, Flow
from genbench.models.flows.linear import Linear
from genbench.models.flows.realnvp import RealNVP
from genbench.models.flows.reshaping import Flatten
from genbench.models.flows.variational import VariationalDequantization
from tests.models.test_flows import FLOWS, IMAGE

SQUARE = Space((2,), 3)
SPACES = {"vector": Space((5,), 17), "small image": Space((1, 8, 8), 17), "image": Space((3, 10, 12), 256)}
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def points(space: Space, n: int = 6) -> Tensor:
    """Return n points of `space`; all entries of the first have the lowest level, of the second the highest."""
    k = torch.randint(0, space.levels, (n, *space.shape))
    k[0], k[1] = 0, space.levels - 1
    return k.to(torch.uint8)


def perturbed(model: torch.nn.Module, by: float = 0.5) -> torch.nn.Module:
    """Return `model` with perturbed parameters, in evaluation mode."""
    with torch.no_grad():
        for p in model.parameters():
            p += by * torch.randn_like(p) / p.shape[-1] ** 0.5
    return model.eval()


@every_space
@pytest.mark.parametrize("training", [True, False])
def test_variational_noise_starts_as_uniform_noise(space: Space, training: bool) -> None:
    k, noise = points(space), VariationalDequantization(space, dropout=0.0)
    seed = torch.random.get_rng_state()
    x, log_q = noise.train(training)(k)
    torch.random.set_rng_state(seed)
    expected, level = DEQUANTIZATIONS["uniform"](space).train(training)(k)
    torch.testing.assert_close(x, expected, rtol=0, atol=2 * EDGE / space.levels)
    torch.testing.assert_close(log_q, torch.full((6,), level), rtol=1e-5, atol=space.dims * 3 * EDGE)


def test_uniform_density_over_256_levels_is_8_bits_with_initial_variational_noise() -> None:
    space = Space((3, 8, 8), 256)
    model = Flow(space, [Flatten(space.shape)], "logistic", alpha=0.0, dequantization="variational").eval()
    bits = -model.log_prob(points(space)) / math.log(2) / space.dims
    torch.testing.assert_close(bits, torch.full((6,), 8.0), rtol=2e-5, atol=0)


@every_space
@pytest.mark.parametrize("training", [True, False])
def test_variational_noise_does_not_change_the_integers(space: Space, training: bool) -> None:
    k, noise = points(space, 64), perturbed(VariationalDequantization(space, components=2)).train(training)
    x, log_q = noise(k)
    assert torch.equal(noise.inverse(x), k)
    assert log_q.shape == (64,)
    assert (x * space.levels - k).std() > 0.05


@pytest.mark.parametrize("components", [1, 3])
def test_variational_density_agrees_with_the_jacobian(components: int) -> None:
    torch.manual_seed(0)
    noise = perturbed(VariationalDequantization(SQUARE, components=components)).double()
    k = torch.tensor([[2, 0]])

    def dequantize(u: Tensor) -> tuple[Tensor, Tensor]:
        noise.uniform = lambda k, draw: u[None]
        x, log_q = noise(k)
        return x[0], log_q[0]

    for u in torch.rand(4, 2, dtype=torch.float64):
        J = torch.autograd.functional.jacobian(lambda v: dequantize(v)[0], u)
        torch.testing.assert_close(dequantize(u)[1], -torch.linalg.slogdet(J).logabsdet)


@pytest.mark.parametrize("components", [1, 3])
def test_variational_density_integrates_to_one(components: int) -> None:
    """Sum of density times area over the cells of a mesh of the square, deformed by the flow."""
    torch.manual_seed(1)
    noise, n = perturbed(VariationalDequantization(SQUARE, components=components)).double(), 60
    side = torch.linspace(-16, 16, 2 * n + 1, dtype=torch.float64).sigmoid()
    noise.uniform = lambda k, draw: torch.cartesian_prod(side, side)
    x, log_q = noise(torch.tensor([[1, 2]]).expand((2 * n + 1) ** 2, 2))
    x, q = x.detach().view(2 * n + 1, 2 * n + 1, 2), log_q.detach().exp().view(2 * n + 1, 2 * n + 1)
    a, b = x[2::2, 2::2] - x[:-2:2, :-2:2], x[:-2:2, 2::2] - x[2::2, :-2:2]  # diagonals
    area = (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]).abs() / 2
    assert (q[1::2, 1::2] * area).sum().item() == pytest.approx(1, abs=2e-3)


# ---------------------------------------------------------------------------------------------------- the bound


def enumerable(dequantization: str) -> tuple[Flow, Tensor, Tensor]:
    """Return a perturbed flow on 2 dimensions of 3 levels, the nine points and their log P by quadrature."""
    torch.manual_seed(2)
    model = RealNVP(SQUARE, couplings=2, hidden=(8,), activation="tanh", norm="none", dequantization=dequantization)
    perturbed(model.bijection), perturbed(model.dequantization, 0.2)
    exact = copy.deepcopy(model).double().eval()
    side, n = (torch.arange(300, dtype=torch.float64) + 0.5) / 300, 100
    x = torch.cartesian_prod(side, side)
    with torch.no_grad():
        z, logdet = exact.bijection(x)
        p = (exact.base.log_prob(z).sum(1) + logdet).exp().view(3, n, 3, n)
    k = torch.cartesian_prod(torch.arange(3), torch.arange(3)).to(torch.uint8)
    return model.eval(), k, (p.sum((1, 3)) / 300**2).log().flatten().float()


@pytest.mark.parametrize("dequantization", DEQUANTIZATIONS)
@torch.no_grad()
def test_expected_bound_is_below_the_true_likelihood_and_tight_with_many_draws(dequantization: str) -> None:
    model, k, truth = enumerable(dequantization)
    assert truth.exp().sum().item() < 1
    bounds = torch.stack([model.bound(k, draw) for draw in range(300)])
    assert (bounds.mean(0) < truth).all()
    many_draws = bounds.logsumexp(0) - math.log(300)
    torch.testing.assert_close(many_draws, truth, rtol=0, atol=0.1)


@pytest.mark.parametrize("dequantization", DEQUANTIZATIONS)
@torch.no_grad()
def test_more_draws_tighten_the_bound(dequantization: str) -> None:
    """L_1 <= L_8 <= L_64 in expectation: over 9 points and 4 disjoint sets of draws."""
    model, k, truth = enumerable(dequantization)
    bounds = torch.stack([model.bound(k, draw) for draw in range(256)])
    means = [(bounds.view(-1, d, 9).logsumexp(1) - math.log(d)).mean().item() for d in (1, 8, 64)]
    assert means == sorted(means)
    assert means[-1] < truth.mean().item() + 0.01
    torch.testing.assert_close(model.log_weights(k, 5, 3), bounds[3:8])


@pytest.mark.parametrize("dequantization", DEQUANTIZATIONS)
def test_likelihood_of_integers_does_not_depend_on_the_batch(dequantization: str) -> None:
    space = SPACES["small image"]
    model = perturbed(RealNVP(space, network="mlp", hidden=(16,), couplings=2, dequantization=dequantization))
    k = points(space)
    together = model.log_prob(k)
    torch.testing.assert_close(torch.cat([model.log_prob(p[None]) for p in k]), together)
    torch.testing.assert_close(model.log_prob(k.flip(0)).flip(0), together)
    assert torch.equal(model.log_prob(k), together)


def test_draws_for_a_point_are_uncorrelated_and_the_first_is_the_default() -> None:
    k = points(Space((200,), 17))
    u = torch.stack([noise_from_point(k, draw) for draw in range(4)])
    assert torch.equal(u[0], noise_from_point(k))
    assert torch.corrcoef(u.flatten(1)).triu(1).abs().max() < 0.1


@pytest.mark.parametrize("row", {**FLOWS, **IMAGE}.items(), ids={**FLOWS, **IMAGE})
def test_every_flow_trains_variational_noise(row) -> None:
    make, options = row[1]
    model = make(Space((2, 4, 4), 17), **options, dequantization="variational")
    k = points(model.space)
    gradients = torch.autograd.grad(model.loss(k), list(model.dequantization.parameters()), allow_unused=True)
    assert all(g is not None for g in gradients)
    assert max(g.abs().max().item() for g in gradients if g is not None) > 0


def fitted(dequantization: str) -> float:
    """Return the loss in nats of a linear flow fitted to a single point of 2 dimensions with 4 levels."""
    torch.manual_seed(0)
    space = Space((2,), 4)
    k = torch.tensor([[1, 2]], dtype=torch.uint8).expand(256, 2)
    model = Linear(space, dequantization=dequantization)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        model.loss(k).backward()
        optimizer.step()
    with torch.no_grad():
        return -torch.stack([model.eval().bound(k[:1], draw) for draw in range(500)]).mean().item()


def test_trained_variational_bound_is_tighter_than_the_uniform_one() -> None:
    """Uniform noise costs the KL divergence of a cell from a normal; a flow can make the noise normal."""
    assert 0 < fitted("variational") < fitted("uniform") / 2


def test_metric_uses_each_draw_once() -> None:
    space = Space((1, 4, 4), 17)
    model = RealNVP(space, network="mlp", hidden=(8,), couplings=2).eval()
    k = points(space, 256)  # so many that draws are split into batches
    evaluation = Evaluation(model, Dataset(space, k, k, k), run=None)
    log_p, draws = bound(evaluation, 70, k)
    assert draws == 70
    with torch.no_grad():
        expected = model.log_weights(k, 70).double().logsumexp(0) - math.log(70)
    torch.testing.assert_close(log_p, expected)
