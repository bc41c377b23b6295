"""Properties of residual flows: Lipschitz constants below one, unbiased determinants, inverses."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

from genbench.dataset import Space
from genbench.models.flows.residual import CERTAIN_TERMS, Residual, ResidualFlow, exact_logdet, logdet_series, roulette
from genbench.nets.lipschitz import LipschitzNet, LipSwish, convolutional_lipschitz, dense_lipschitz

NETS = {
    "dense": (lambda bound: dense_lipschitz((5,), (12, 7), bound=bound), (5,)),
    "convolutional": (lambda bound: convolutional_lipschitz((2, 4, 5), (6,), bound=bound), (2, 4, 5)),
}


def saturated(kind: str, bound: float = 0.9) -> tuple[LipschitzNet, tuple[int, ...]]:
    """Return a network whose weights are all larger than the bound, in float64 and evaluation mode."""
    make, shape = NETS[kind]
    net = make(bound).double()
    with torch.no_grad():
        for layer in net.layers:
            layer.layer.weight.mul_(8)
    return net.eval(), shape


def jacobians(g: LipschitzNet, x: Tensor) -> Tensor:
    """Return dg/dx (B, D, D)."""
    D = x[0].numel()
    J = torch.stack([torch.autograd.functional.jacobian(lambda p: g(p[None])[0], point) for point in x])
    return J.view(len(x), D, D)


# ---------------------------------------------------------------------------------------------------- contractions


@pytest.mark.parametrize("kind", NETS)
def test_norm_of_every_layer_is_its_bound(kind: str) -> None:
    """By SVD of the matrix of the map, also for convolutions."""
    net, _ = saturated(kind)
    for layer in net.layers:
        v = layer.v[0]
        axes = torch.eye(v.numel()).double().view(-1, *v.shape)
        matrix = layer.map(axes, layer.weight()).flatten(1)
        assert torch.linalg.matrix_norm(matrix, 2).item() == pytest.approx(0.9, abs=5e-3)


@pytest.mark.parametrize("kind", NETS)
def test_small_weights_are_not_scaled(kind: str) -> None:
    net, _ = saturated(kind)
    with torch.no_grad():
        for layer in net.layers:
            layer.layer.weight.mul_(1e-3)
    net.eval()
    assert all(torch.equal(layer.weight(), layer.layer.weight) for layer in net.layers)


@pytest.mark.parametrize("kind", NETS)
def test_lipschitz_constant_is_below_one(kind: str) -> None:
    net, shape = saturated(kind, 0.98)
    x = 2 * torch.randn(30, *shape).double()
    assert torch.linalg.matrix_norm(jacobians(net, x), 2).max() < 1
    y = x + torch.randn_like(x) * torch.logspace(-3, 1, 30).double().view(-1, *[1] * len(shape))
    assert ((net(x) - net(y)).flatten(1).norm(dim=1) < (x - y).flatten(1).norm(dim=1)).all()


def test_power_iteration_tracks_the_weights_in_training() -> None:
    net = dense_lipschitz((6,), (10,)).double().train()
    layer = net.layers[0]
    for _ in range(200):
        with torch.no_grad():
            layer.layer.weight.add_(0.01 * torch.randn_like(layer.layer.weight))
        W = layer.weight()
    sigma = torch.linalg.matrix_norm(layer.layer.weight, 2)
    torch.testing.assert_close(W, layer.layer.weight * (0.98 / sigma).clamp(max=1), rtol=0.02, atol=0)


def test_slope_of_lipswish_is_its_derivative_and_below_one() -> None:
    a = torch.linspace(-20, 20, 4001).double().requires_grad_()
    for raw in (-2.0, 0.5, 4.0):
        activation = LipSwish().double()
        torch.nn.init.constant_(activation.raw, raw)
        y, slope = activation(a)
        torch.testing.assert_close(slope, torch.autograd.grad(y.sum(), a)[0])
        assert slope.abs().max() < 1


@pytest.mark.parametrize("kind", NETS)
def test_directional_derivatives_agree_with_the_jacobian(kind: str) -> None:
    net, shape = saturated(kind)
    x, v = torch.randn(3, *shape).double(), torch.randn(2, 3, *shape).double()
    g, jvp = net.linearize(x)
    torch.testing.assert_close(g, net(x))
    expected = torch.einsum("bij,kbj->kbi", jacobians(net, x), v.flatten(2))
    torch.testing.assert_close(jvp(v).flatten(2), expected)
    torch.testing.assert_close(jvp(v[:, :1]), jvp(v[:, :1].expand(-1, 3, *v.shape[2:])))


# ---------------------------------------------------------------------------------------------------- determinants


@pytest.mark.parametrize("kind", NETS)
def test_exact_determinant_agrees_with_the_jacobian(kind: str) -> None:
    net, shape = saturated(kind)
    x = torch.randn(4, *shape).double()
    J = jacobians(net, x)
    expected = torch.linalg.slogdet(torch.eye(J.shape[-1]).double() + J).logabsdet
    torch.testing.assert_close(exact_logdet(net.linearize(x)[1], x), expected)


def test_long_series_converges_to_the_determinant() -> None:
    """For a diagonal J, where a direction of entries +-1 gives the exact trace of every power."""
    a = torch.tensor([0.6, -0.5, 0.3]).double()
    v = torch.tensor([1.0, -1.0, 1.0]).double().view(1, 1, 3)
    torch.testing.assert_close(logdet_series(lambda v: a * v, v, [1.0] * 80), (1 + a).log().sum()[None])


def test_roulette_weights_each_term_by_its_inverse_probability() -> None:
    draws = [roulette() for _ in range(20_000)]
    assert min(map(len, draws)) == CERTAIN_TERMS
    for k in range(CERTAIN_TERMS + 5):
        mean = sum(weights[k] for weights in draws if len(weights) > k) / len(draws)
        assert mean == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_randomly_truncated_series_is_unbiased(noise: str) -> None:
    torch.manual_seed(0)
    block = Residual(saturated("dense", 0.8)[0], determinant="series", noise=noise)
    x = torch.randn(1, 5).double()
    _, J = block.g.linearize(x)
    truth = exact_logdet(J, x).item()
    with torch.no_grad():
        copies = x.expand(4, 5)
        _, J = block.g.linearize(copies)
        means = [logdet_series(J, block.noise(copies), roulette()).mean().item() for _ in range(6000)]
    assert abs(stats.ttest_1samp(means, truth).statistic) < 4
    assert abs(sum(means) / len(means) - truth) < 0.05


def test_gradient_of_the_truncated_series_is_unbiased() -> None:
    torch.manual_seed(0)
    block = Residual(saturated("dense", 0.8)[0], determinant="series", noise="rademacher")
    x, W = torch.randn(8, 5).double(), block.g.layers[0].layer.weight
    (truth,) = torch.autograd.grad(exact_logdet(block.g.linearize(x)[1], x).mean(), W)
    gradients = []
    for _ in range(1500):
        estimate = logdet_series(block.g.linearize(x)[1], block.noise(x), roulette()).mean()
        gradients.append(torch.autograd.grad(estimate, W)[0])
    g = torch.stack(gradients)
    z = (g.mean(0) - truth) / (g.std(0) / len(g) ** 0.5)
    assert z.abs().max() < 4.5


# -------------------------------------------------------------------------------------------------------- the flow


def test_training_loss_is_an_unbiased_estimate_of_the_evaluation_loss() -> None:
    torch.manual_seed(0)
    model = ResidualFlow(Space((6,)), blocks=3, hidden=(16,))
    x = torch.randn(64, 6)
    model.loss(x)
    model.eval()
    truth = model.loss(x).item()
    model.train()
    with torch.no_grad():
        losses = [model.loss(x).item() for _ in range(400)]
    assert abs(stats.ttest_1samp(losses, truth).statistic) < 4


def test_likelihood_with_an_estimated_determinant_does_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    model = ResidualFlow(Space((1, 16, 16), 256), blocks=1, channels=(4,)).eval()
    x = torch.randint(256, (8, 1, 16, 16))
    with torch.no_grad():
        together = model.log_prob(x)
        torch.testing.assert_close(model.log_prob(x.flip(0)).flip(0), together, rtol=0, atol=1e-3)
        torch.testing.assert_close(torch.cat([model.log_prob(p[None]) for p in x]), together, rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fixed_point_iteration_inverts_a_block(dtype: torch.dtype) -> None:
    block = Residual(saturated("dense", 0.98)[0], determinant="series", noise="rademacher").to(dtype).eval()
    x = 3 * torch.randn(50, 5, dtype=dtype)
    with torch.no_grad():
        y = block(x)[0]
    tolerance = 1e-3 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(block.inverse(y), x, rtol=tolerance, atol=tolerance)
