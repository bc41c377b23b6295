"""Outputs depend only on earlier dimensions; the sequential direction agrees with the parallel one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genbench.dataset import Space
from genbench.models.flows.autoregressive import InverseAutoregressive, MaskedAutoregressive, alternating_orders
from genbench.models.flows.elementwise import Affine
from genbench.models.flows.iaf import IAF
from genbench.models.flows.maf import MAF
from genbench.nets.masked import MaskedMLP

NETS = {
    "one dimension": (1, (8,), False),
    "plane": (2, (16, 16), True),
    "linear": (6, (), False),
    "narrow": (9, (3, 5), False),
    "deep": (7, (30, 30, 30), True),
    "unequal": (7, (30, 20, 20), True),
    "wide": (64, (256, 256), False),
}


def masked_mlp(D: int, hidden: tuple[int, ...], residual: bool, outputs: int = 3) -> MaskedMLP:
    """Return a masked MLP in a random order, in float64, with perturbed parameters."""
    net = MaskedMLP(D, outputs, hidden, order=torch.randperm(D).tolist(), activation="tanh", residual=residual).double()
    with torch.no_grad():
        for p in net.parameters():
            p += 0.2 * torch.randn_like(p)
    return net


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_outputs_depend_on_exactly_the_dimensions_before(net: tuple[int, tuple[int, ...], bool]) -> None:
    D, hidden, _ = net
    model = masked_mlp(*net)
    J = torch.autograd.functional.jacobian(model, torch.randn(1, D).double()).view(D, 3, D)
    J = J[model.order][:, :, model.order].abs()
    assert J.amax(1).triu().max() == 0
    if all(units >= D - 1 for units in hidden):
        assert (J > 0).sum() == 3 * D * (D - 1) // 2


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_unrolling_agrees_with_the_parallel_pass(net: tuple[int, tuple[int, ...], bool]) -> None:
    model, x = masked_mlp(*net), torch.randn(4, net[0]).double()
    outputs = {}

    def choose(i: int, y: Tensor) -> Tensor:
        outputs[i] = y
        return x[:, i : i + 1]

    assert torch.equal(model.unroll(4, choose), x)
    torch.testing.assert_close(torch.cat([outputs[i] for i in range(net[0])], 1), model(x))


def test_zero_initialization_and_dropout() -> None:
    x = torch.randn(5, 4)
    assert torch.equal(MaskedMLP(4, 2, (8,), zero=True)(x), torch.zeros(5, 8))
    net = MaskedMLP(4, 2, (64,), dropout=0.5)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


@pytest.mark.parametrize("scale", ["exp", "tanh", "sigmoid"])
def test_inverse_autoregressive_is_the_other_direction(scale: str) -> None:
    """The layer inverts itself, and its determinant agrees with its Jacobian."""
    net = masked_mlp(5, (12, 12), False, outputs=2)
    f, g = MaskedAutoregressive(net, Affine(scale)), InverseAutoregressive(net, Affine(scale))
    y = torch.randn(6, 5).double()
    x = g.inverse(y)
    torch.testing.assert_close(g(x)[0], y)
    J = torch.autograd.functional.jacobian(lambda v: g(v[None])[0][0], x[0])
    torch.testing.assert_close(g(x)[1][0], torch.linalg.slogdet(J).logabsdet)
    torch.testing.assert_close(f.inverse(f(x)[0]), x)


def test_orders_alternate() -> None:
    assert alternating_orders(3, 3) == [[0, 1, 2], [2, 1, 0], [0, 1, 2]]


def test_gradient_through_the_sequential_direction_of_iaf() -> None:
    """With 64 dimensions it agrees with finite differences."""
    model = IAF(Space((64,)), layers=1, hidden=(70,), activation="tanh").double()
    x = torch.randn(8, 64).double()
    model.loss(x)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn_like(p)
    weight = next(p for name, p in model.named_parameters() if "inner.0.weight" in name)
    (gradient,) = torch.autograd.grad(model.loss(x), weight)
    losses = []
    for nudge in (1e-6, -2e-6):
        with torch.no_grad():
            weight[30, 5] += nudge
            losses.append(model.loss(x))
    slope = (losses[0] - losses[1]) / 2e-6
    assert slope.item() == pytest.approx(gradient[30, 5].item(), rel=1e-4)


def test_maf_fits_a_gaussian_with_full_covariance() -> None:
    """One layer with linear conditionals contains the Cholesky factor."""
    A = torch.tensor([[2.0, 0.0, 0.0], [1.5, 0.5, 0.0], [-1.0, 0.3, 0.2]])
    x = torch.randn(500, 3) @ A.T + 1
    model = MAF(Space((3,)), layers=1, hidden=(), norm="act")
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model.loss(x)
        loss.backward()
        return loss

    optimizer.step(closure)
    best = torch.distributions.MultivariateNormal(x.mean(0), torch.cov(x.T, correction=0)).log_prob(x)
    assert model.loss(x).item() <= -best.mean().item() + 1e-4
