"""Properties of Flow++: its coupling map, its gradient, and its networks."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from genbench.dataset import Space
from genbench.models.flows.flowpp import FlowPP
from genbench.models.flows.mixture_cdf import LogisticMixture, MixtureLogit
from genbench.nets.attention import GatedAttention, gated_attention

double = torch.float64


def random_inputs(K: int, *shape: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return random x (B, C, ...) and params (B, C * (3K + 2), ...)."""
    B, C, *rest = shape
    return torch.randn(*shape, dtype=double), scale * torch.randn(B, C * (3 * K + 2), *rest, dtype=double)


@pytest.mark.parametrize("shape", [(2, 3), (2, 2, 2, 1)], ids=["vector", "image"])
def test_first_and_second_gradients_agree_with_finite_differences(shape: tuple[int, ...]) -> None:
    inputs = [v.requires_grad_() for v in random_inputs(2, *shape)]
    assert gradcheck(MixtureLogit(2), inputs)
    assert gradgradcheck(MixtureLogit(2), inputs)


@pytest.mark.parametrize("K", [1, 2, 9])
@pytest.mark.parametrize("shape", [(50, 4), (9, 3, 2, 2)], ids=["vector", "image"])
def test_map_is_inverted_and_its_log_slope_agrees_with_autograd(K: int, shape: tuple[int, ...]) -> None:
    x, params = random_inputs(K, *shape)
    map = MixtureLogit(K)
    y, logdet = map(x.requires_grad_(), params)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert slope.min() > 0
    torch.testing.assert_close(logdet, slope.log().flatten(1).sum(1))
    restored, _ = map(map.inverse(y, params), params)  # not x: between narrow components the map is flat
    torch.testing.assert_close(restored, y, rtol=1e-8, atol=1e-8)


def test_map_starts_near_the_identity() -> None:
    x = torch.linspace(-3, 3, 61, dtype=double)[None]
    for K in (1, 2, 8, 32):
        y, _ = MixtureLogit(K)(x, torch.zeros(1, 61 * (3 * K + 2), dtype=double))
        torch.testing.assert_close(y, -y.flip(1))
        assert (y.diff() > 0).all()
        assert stats.linregress(x[0], y[0]).rvalue > (0.85 if K > 1 else 1 - 1e-12)
    y, logdet = MixtureLogit(1)(x, torch.zeros(1, 61 * 5, dtype=double))
    torch.testing.assert_close((y, logdet), (x, torch.zeros(1, dtype=double)))


def test_log_cdf_agrees_with_scipy() -> None:
    x = torch.linspace(-9, 9, 19, dtype=double)
    w, mu, sigma = (torch.tensor(v, dtype=double).unsqueeze(1) for v in ([0.3, 0.7], [-2.0, 1.0], [0.5, 0.2]))
    lower, upper, density = LogisticMixture(w.log(), mu, sigma.log()).log_cdf(x)
    parts = [stats.logistic(m, s) for m, s in zip(mu, sigma, strict=True)]
    for mine, name in ((lower, "cdf"), (upper, "sf"), (density, "pdf")):
        theirs = sum(weight.item() * getattr(part, name)(x.numpy()) for weight, part in zip(w, parts, strict=True))
        torch.testing.assert_close(mine.exp(), torch.as_tensor(theirs), rtol=1e-10, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, double])
@pytest.mark.parametrize("K", [1, 4, 32])
def test_quantile_is_accurate_up_to_rounding_for_flat_and_steep_mixtures(K: int, dtype: torch.dtype) -> None:
    torch.manual_seed(K)
    log_w, mu, log_sigma = torch.randn(3, K, 20_000, dtype=dtype).unbind()
    log_w, mu, log_sigma = (2 * log_w).log_softmax(0), 5 * mu, 2 * log_sigma - 1
    logit, eps = 4 * torch.randn(20_000, dtype=dtype), torch.finfo(dtype).eps
    mixture = LogisticMixture(log_w, mu, log_sigma)
    x = mixture.quantile(logit)

    def excess(x: Tensor) -> Tensor:
        lower, upper, _ = mixture.log_cdf(x)
        return lower - upper - logit

    near, rounding = 16 * eps * (1 + x.abs()), 16 * eps * (1 + logit.abs())
    assert (excess(x - near) <= rounding).all()
    assert (excess(x + near) >= -rounding).all()


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_map_is_finite_in_float32_with_narrow_and_distant_components(scale: float) -> None:
    torch.manual_seed(0)
    x, params = random_inputs(6, 400, 3, scale=scale)
    x, params = (100 * x).float().requires_grad_(), params.float().requires_grad_()
    y, logdet = MixtureLogit(6)(x, params)
    gradients = torch.autograd.grad(y.sum() + logdet.sum(), (x, params))
    assert all(v.isfinite().all() for v in (y, logdet, *gradients))
    assert MixtureLogit(6).inverse(y.detach(), params.detach()).isfinite().all()


def test_bfloat16_inputs_are_computed_in_float32() -> None:
    x, params = torch.randn(5, 4, dtype=torch.bfloat16), torch.randn(5, 4 * 11, dtype=torch.bfloat16)
    outputs = MixtureLogit(3)(x, params)
    assert {v.dtype for v in outputs} == {torch.float32}
    torch.testing.assert_close(outputs, MixtureLogit(3)(x.float(), params.float()))


@pytest.mark.parametrize("size", [(4, 4), (2, 3)])
def test_attention_networks_start_at_zero_and_depend_on_the_whole_image(size: tuple[int, int]) -> None:
    net = gated_attention(3, 5, 8, 1, size=size, heads=2, zero=True)
    assert torch.equal(net(torch.randn(2, 3, *size)), torch.zeros(2, 5, *size))
    attention, x = GatedAttention(8, size, heads=2), torch.randn(1, 8, *size, requires_grad=True)
    (g,) = torch.autograd.grad(attention(x)[0, 0, 0, 0], x)
    assert (g.abs().amax((0, 1)) > 0).all()


def test_attention_without_position_embeddings_is_permutation_equivariant() -> None:
    attention, x = GatedAttention(8, (1, 6)), torch.randn(2, 8, 1, 6)
    torch.nn.init.zeros_(attention.position_embedding)
    order = torch.randperm(6)
    torch.testing.assert_close(attention(x[..., order]), attention(x)[..., order])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"heads": 3}, "heads=3 must divide channels=32"), ({}, "4 must divide 6x6; network: mlp takes any")],
)
def test_incompatible_shapes_are_rejected(options: dict[str, int], message: str) -> None:
    side = 8 if options else 6
    with pytest.raises(ValueError, match=message):
        FlowPP(Space((1, side, side), 17), **options)
    FlowPP(Space((1, side, side), 17), network="mlp", **options)
