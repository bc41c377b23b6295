"""Splines: the fast path agrees with the equations, inverses with maps, and float32 with float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genbench.dataset import Space
from genbench.models.flows.bijection import Chain
from genbench.models.flows.coupling import Coupling
from genbench.models.flows.nsf import LINEARS, NSF, AutoregressiveNSF
from genbench.models.flows.spline import MINIMUM, Spline
from genbench.nets.mlp import mlp

SHAPES = {"vector": (40, 10), "image": (6, 2, 4, 5)}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def random_inputs(shape: tuple[int, ...], K: int, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return x inside and outside [-3, 3], and params for K bins, in float64 with gradients."""
    params = spread * torch.randn(shape[0], (3 * K - 1) * shape[1], *shape[2:], dtype=torch.float64)
    return (2 * torch.randn(shape, dtype=torch.float64)).requires_grad_(), params.requires_grad_()


@every_shape
@pytest.mark.parametrize("K", [2, 3, 8, 32])
def test_fast_implementation_agrees_with_the_equation(shape: tuple[int, ...], K: int) -> None:
    x, params = random_inputs(shape, K)
    fast, equation = Spline(K, 3.0)(x, params), Spline(K, 3.0).forward(x, params)
    torch.testing.assert_close(fast, equation)
    g = [torch.randn_like(v) for v in fast]
    torch.testing.assert_close(
        torch.autograd.grad(fast, (x, params), g), torch.autograd.grad(equation, (x, params), g), rtol=1e-6, atol=1e-9
    )


def test_gradients_of_first_and_second_order() -> None:
    x, params = random_inputs((3, 2), 4)
    assert torch.autograd.gradcheck(Spline(4, 3.0), (x, params))
    assert torch.autograd.gradgradcheck(Spline(4, 3.0), (x, params))


@pytest.mark.parametrize("fixed", [0, 1])
def test_gradients_of_one_input_only(fixed: int) -> None:
    inputs = random_inputs((3, 2), 4)
    inputs[fixed].requires_grad_(False)
    assert torch.autograd.gradgradcheck(Spline(4, 3.0), inputs)


@every_shape
def test_log_determinant_agrees_with_autograd(shape: tuple[int, ...]) -> None:
    x, params = random_inputs(shape, 5, spread=3)
    y, logdet = Spline(5, 3.0)(x, params)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert slope.min() > 0
    torch.testing.assert_close(logdet, slope.log().flatten(1).sum(1))


@every_shape
@pytest.mark.parametrize("spread", [1.0, 10.0])
def test_inverse(shape: tuple[int, ...], spread: float) -> None:
    x, params = random_inputs(shape, 8, spread)
    map = Spline(8, 3.0)
    torch.testing.assert_close(map.inverse(map(x, params)[0], params), x, rtol=1e-6, atol=1e-6)
    small, p = x.float(), params.float()
    y, logdet = map(small, p)
    torch.testing.assert_close(logdet.double(), map(x, params)[1], rtol=1e-2, atol=1e-2)
    assert ((map(map.inverse(y, p), p)[0] - y).abs() < 1e-4).all()


def test_spline_continues_as_the_identity() -> None:
    K, bound = 6, 2.5
    params = torch.randn(1, 3 * K - 1, dtype=torch.float64)
    x = torch.tensor([-100.0, -bound, bound, 100.0], dtype=torch.float64).unsqueeze(1).requires_grad_()
    y, _ = Spline(K, bound)(x, params.expand(4, -1))
    torch.testing.assert_close(y, x)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], torch.ones_like(x))


def test_zero_parameters_are_the_identity() -> None:
    x = 2 * torch.randn(500, 4)
    y, logdet = Spline(8)(x, torch.zeros(500, 4 * 23))
    torch.testing.assert_close(y, x, rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(logdet, torch.zeros(500), rtol=0, atol=2e-5)


def test_extreme_parameters_are_finite_in_float32() -> None:
    """With minimal bins and slopes, and points on knots and ends: values and gradients are finite."""
    K, bound = 8, 3.0
    params = (100 * torch.randn(2000, 3 * K - 1)).requires_grad_()
    x = torch.linspace(-bound, bound, 2000).unsqueeze(1).requires_grad_()
    map = Spline(K, bound)
    y, logdet = map(x, params)
    assert all(g.isfinite().all() for g in torch.autograd.grad((y.sum(), logdet.sum()), (x, params)))
    assert logdet.isfinite().all()
    assert map.inverse(y, params).isfinite().all()


def test_widths_heights_and_slopes_have_a_minimum() -> None:
    """One bin gets all weight: the others are a thousandth wide and high."""
    K, bound = 4, 1.0
    params = torch.zeros(1, 3 * K - 1, dtype=torch.float64)
    params[0, 0] = params[0, K] = 1000.0
    knot = torch.tensor([[1 - 2 * 3 * MINIMUM]], dtype=torch.float64)
    torch.testing.assert_close(Spline(K, bound)(knot, params)[0], knot)


def test_nan_is_mapped_to_nan() -> None:
    y, _ = Spline(8)(torch.tensor([[float("nan")]]), torch.zeros(1, 23))
    assert y.isnan().all()


def test_a_single_bin_is_rejected() -> None:
    with pytest.raises(ValueError, match="two bins or more, got 1"):
        Spline(1)


def test_bfloat16_inputs_are_computed_in_float32() -> None:
    x, params = torch.randn(5, 4, dtype=torch.bfloat16), torch.randn(5, 92, dtype=torch.bfloat16)
    y, logdet = Spline(8)(x, params)
    assert y.dtype == logdet.dtype == torch.float32
    torch.testing.assert_close(y, Spline(8)(x.float(), params.float())[0])


@pytest.mark.parametrize("make", [NSF, AutoregressiveNSF])
def test_flow_of_splines_starts_as_a_linear_map(make: type[NSF] | type[AutoregressiveNSF]) -> None:
    torch.manual_seed(0)
    model = make(Space((4,)), hidden=(8,), bound=10.0).double()
    x = torch.randn(64, 4, dtype=torch.float64)
    z = model.encode(x)
    best = torch.linalg.lstsq(torch.cat((x, torch.ones(64, 1)), 1), z)
    torch.testing.assert_close(torch.cat((x, torch.ones(64, 1)), 1) @ best.solution, z, rtol=1e-6, atol=1e-6)


def test_spline_coupling_transforms_one_half() -> None:
    map = Spline(8)
    layer, x = Coupling(mlp(3, 4 * map.parameters, (8,)), 7, 3, map), torch.randn(6, 7)
    y, _ = layer(x)
    assert torch.equal(y[:, 4:], x[:, :3])
    torch.testing.assert_close(layer.inverse(y), x, rtol=1e-4, atol=1e-4)


def test_matrix_between_splines_starts_as_a_permutation() -> None:
    start = Chain(LINEARS["lu"]((6,)))
    y, logdet = start(torch.eye(6))
    assert torch.equal(y.sort(0).values, torch.eye(6).sort(0).values)
    assert torch.equal(y @ y.T, torch.eye(6))
    assert (logdet == 0).all()
    assert all(p.requires_grad for p in start.parameters())
    assert sum(p.numel() for p in start.parameters()) == 36
