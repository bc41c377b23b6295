"""Properties of every flow, in one table: inverses, Jacobians, total mass, and independence of the batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import batch_norm

from genbench.dataset import Space
from genbench.models.dequantization import noise_from_point
from genbench.models.flows.autoregressive import MaskedAutoregressive
from genbench.models.flows.bijection import Bijection, Chain
from genbench.models.flows.checkerboard import DIAGONAL_FIRST, rows_from_checkerboard
from genbench.models.flows.coupling import AffineCoupling, Coupling, affine_couplings, alternating_couplings
from genbench.models.flows.densities import BASES
from genbench.models.flows.elementwise import Affine, Shift
from genbench.models.flows.fastpath.autoregressive import MaskedAutoregressiveFunction
from genbench.models.flows.fastpath.bijection import step_of
from genbench.models.flows.fastpath.coupling import CouplingFunction
from genbench.models.flows.fastpath.elementwise import affine_coupling_vjp, vjp_of
from genbench.models.flows.fastpath.lu import LULinearFunction, LUMatrixFunction
from genbench.models.flows.fastpath.normalization import ActNormFunction
from genbench.models.flows.ffjord import FFJORD
from genbench.models.flows.flow import DEQUANTIZATIONS, Flow
from genbench.models.flows.flowpp import FlowPP
from genbench.models.flows.gaussianization import Gaussianization
from genbench.models.flows.glow import Glow
from genbench.models.flows.iaf import IAF
from genbench.models.flows.linear import Linear
from genbench.models.flows.lu import LULinear, lu_product, unpack_lu
from genbench.models.flows.maf import MAF
from genbench.models.flows.monotone import MixtureCDF
from genbench.models.flows.nice import NICE
from genbench.models.flows.normalization import ActNorm, BatchNorm
from genbench.models.flows.nsf import NSF, AutoregressiveNSF
from genbench.models.flows.one_dimensional import OneDimensional
from genbench.models.flows.realnvp import RealNVP
from genbench.models.flows.reshaping import Flatten, Permutation, Squeeze, alternating
from genbench.models.flows.residual import ResidualFlow
from genbench.models.flows.tarflow import TarFlow
from genbench.models.flows.variational import VariationalDequantization
from genbench.nets.masked import MaskedMLP
from genbench.nets.mlp import mlp

Make = Callable[..., Flow]
SMALL = {"hidden": (16,), "activation": "silu"}
TOKENS = {"channels": 4, "heads": 2}

FLOWS: dict[str, tuple[Make, dict[str, object]]] = {
    "Linear": (Linear, {}),
    "1-D uniform": (OneDimensional, {"components": 4, "base": "uniform"}),
    "1-D beta": (OneDimensional, {"components": 4, "base": "beta"}),
    "1-D normal": (OneDimensional, {"components": 4}),
    "NICE": (NICE, SMALL),
    "NICE normal": (NICE, {"base": "normal", **SMALL}),
    "RealNVP": (RealNVP, {"couplings": 3, **SMALL}),
    "RealNVP batch": (RealNVP, {"couplings": 3, "norm": "batch", **SMALL}),
    "RealNVP none": (RealNVP, {"couplings": 3, "norm": "none", **SMALL}),
    "RealNVP marginals": (RealNVP, {"couplings": 3, "marginals": 3, **SMALL}),
    "Glow": (Glow, {"depth": 2, **SMALL}),
    "Glow rotated": (Glow, {"depth": 2, "start": "rotation", **SMALL}),
    "MAF": (MAF, {"layers": 2, **SMALL}),
    "MAF batch": (MAF, {"layers": 2, "norm": "batch", "scale": "sigmoid", "residual": True, "hidden": (16, 16)}),
    "IAF": (IAF, {"layers": 2, **SMALL}),
    "NSF": (NSF, {"couplings": 3, "bins": 4, **SMALL}),
    "NSF permutation": (NSF, {"couplings": 2, "linear": "permutation", "norm": "batch", **SMALL}),
    "NSF autoregressive": (AutoregressiveNSF, {"layers": 2, "bins": 4, **SMALL}),
    "NSF autoregressive LU": (AutoregressiveNSF, {"layers": 2, "bins": 4, "linear": "lu", **SMALL}),
    "TarFlow": (TarFlow, {"blocks": 2, "layers": 1, **TOKENS}),
    "Gaussianization": (Gaussianization, {"layers": 2, "components": 3}),
    "Residual": (ResidualFlow, {"blocks": 2, "hidden": (8,)}),
    "FlowPP": (FlowPP, {"couplings": 3, "components": 3, "hidden": (16,), "activation": "tanh"}),
    "FFJORD": (FFJORD, {"hidden": (3,), "method": "rk4", "steps": 6}),
}
IMAGE: dict[str, tuple[Make, dict[str, object]]] = {
    "FlowPP image": (
        FlowPP,
        {"stages": (1, 2, 1), "channels": 4, "blocks": 1, "heads": 2, "components": 2, "dropout": 0.5},
    ),
    "FlowPP flat": (FlowPP, {"network": "mlp", "couplings": 2, "components": 3, "marginals": 3, **SMALL}),
    "RealNVP image": (RealNVP, {"couplings": 3, "channels": 4, "blocks": 1, "activation": "silu"}),
    "RealNVP image batch": (RealNVP, {"couplings": 4, "channels": 4, "norm": "batch", "activation": "silu"}),
    "RealNVP image one scale": (RealNVP, {"scales": 1, "channels": 4, "activation": "silu", "dropout": 0.5}),
    "RealNVP flat": (RealNVP, {"network": "mlp", "dropout": 0.5, **SMALL}),
    "Glow image rotated": (Glow, {"depth": 2, "channels": 4, "start": "rotation", "activation": "silu"}),
    "Glow image": (Glow, {"depth": 2, "channels": 4, "activation": "silu"}),
    "Glow image marginals": (Glow, {"depth": 1, "channels": 4, "marginals": 3, "activation": "silu"}),
    "NSF image": (NSF, {"couplings": 2, "bins": 3, "channels": 4, "activation": "silu", "dropout": 0.5}),
    "NSF flat": (NSF, {"network": "mlp", "linear": "none", "couplings": 2, **SMALL}),
    "Glow flat": (Glow, {"network": "mlp", "depth": 2, **SMALL}),
    "Gaussianization flat": (Gaussianization, {"layers": 2, "components": 3}),
    "Gaussianization LU": (Gaussianization, {"layers": 2, "components": 3, "rotation": "lu"}),
    "Residual image": (ResidualFlow, {"blocks": 2, "channels": (4,)}),
    "Residual flat": (ResidualFlow, {"blocks": 2, "network": "mlp", "hidden": (8,), "marginals": 3}),
    "FFJORD image": (FFJORD, {"scales": 1, "channels": (3,), "method": "rk4", "steps": 6}),
    "FFJORD flat": (FFJORD, {"network": "mlp", "hidden": (8,), "rtol": 1e-9, "atol": 1e-9, "marginals": 3}),
    "TarFlow image mixture": (TarFlow, {"grids": ["patches", "strided"], "components": 3, "dropout": 0.5, **TOKENS}),
    "TarFlow image": (TarFlow, {"blocks": 2, "marginals": 3, **TOKENS}),
    **{name: FLOWS[name] for name in ("TarFlow", "Linear", "1-D normal", "NICE", "MAF", "IAF", "NSF autoregressive")},
}
PLANE, VECTOR, PICTURE = Space((2,)), Space((5,)), Space((3, 4, 4))
CASES = [(row, VECTOR) for row in FLOWS.items()] + [(row, PICTURE) for row in IMAGE.items()]
every_flow = pytest.mark.parametrize(("row", "space"), CASES, ids=[f"{row[0]}-{len(s.shape)}d" for row, s in CASES])


def built(row: tuple[str, tuple[Make, dict[str, object]]], space: Space) -> tuple[Flow, Tensor]:
    """Return a flow with perturbed parameters, in float64 and evaluation mode, and points x (6, *shape)."""
    torch.manual_seed(0)
    make, options = row[1]
    model = make(space, **options).double()
    x = 0.5 + 1.3 * torch.randn(256, *space.shape, dtype=torch.float64)
    model.log_prob(x)  # the first batch initializes ActNorm and mixtures
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2 * torch.randn_like(p)
    return model.eval(), x[:6]


@every_flow
def test_log_determinant_agrees_with_the_jacobian(row, space) -> None:
    model, x = built(row, space)
    for point in x[:2]:
        J = torch.autograd.functional.jacobian(lambda v: model.encode(v.unsqueeze(0))[0], point)
        _, logdet = model.bijection(point.unsqueeze(0))
        expected = torch.linalg.slogdet(J.reshape(space.dims, space.dims)).logabsdet
        torch.testing.assert_close(logdet.expand(1)[0], expected, rtol=1e-7, atol=1e-7)


@every_flow
def test_decoding_inverts_encoding(row, space) -> None:
    model, x = built(row, space)
    z = model.encode(x)
    assert z.shape == (6, space.dims)
    torch.testing.assert_close(model.decode(z), x, rtol=1e-6, atol=1e-6)


@every_flow
def test_likelihood_does_not_depend_on_the_batch(row, space) -> None:
    """Neither on its size, nor on its order, nor on the other points."""
    model, x = built(row, space)
    together = model.log_prob(x)
    torch.testing.assert_close(torch.cat([model.log_prob(p[None]) for p in x]), together)
    torch.testing.assert_close(model.log_prob(x.flip(0)).flip(0), together)
    outliers = torch.cat((x[:1], 100 * torch.randn_like(x)))
    torch.testing.assert_close(model.log_prob(outliers)[0], together[0])


@pytest.mark.parametrize("row", FLOWS.items(), ids=FLOWS)
def test_density_integrates_to_one(row) -> None:
    model, _ = built(row, PLANE)
    side = torch.linspace(-20, 20, 801, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        mass = torch.cat([model.log_prob(part).exp() for part in grid.split(200_000)]).sum() * 0.05**2
    assert mass.item() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("row", {**FLOWS, **IMAGE}.items(), ids={**FLOWS, **IMAGE})
@pytest.mark.parametrize("levels", [None, 17, 256, 1000])
def test_samples_are_points_of_the_space(row, levels) -> None:
    make, options = row[1]
    space = Space((2, 4, 4), levels)
    model = make(space, **options).eval()
    x = model.sample(8)
    assert x.shape == (8, 2, 4, 4)
    assert x.dtype == (torch.float32 if levels is None else torch.uint8 if levels <= 256 else torch.int64)
    assert model.likelihood == ("bound" if levels else "exact")
    if levels:
        assert x.min().item() >= 0
        assert x.max().item() < levels
        assert len(x.unique()) > 8


@every_flow
def test_every_parameter_is_trained(row, space) -> None:
    model, x = built(row, space)
    gradients = torch.autograd.grad(model.loss(x), list(model.parameters()), allow_unused=True)
    dead = [name for (name, _), g in zip(model.named_parameters(), gradients, strict=True) if g is None]
    assert dead == []


# ---------------------------------------------------------------------------------------------- dequantization


@pytest.mark.parametrize(("alpha", "bits"), [(0.0, 8.0), (0.05, 8 - math.log2(0.9))])
def test_uniform_density_over_256_levels_is_8_bits_plus_the_cost_of_the_logit(alpha: float, bits: float) -> None:
    space = Space((3, 8, 8), 256)
    model = Flow(space, [Flatten(space.shape)], "logistic", alpha=alpha)
    log_p = model.log_prob(torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8)).double()
    torch.testing.assert_close(-log_p / math.log(2) / space.dims, torch.full((16,), bits).double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("levels", [2, 17, 100, 256])
@pytest.mark.parametrize("u", [0.0, 2.0**-24, 0.5, 1 - 2.0**-24])
def test_noise_at_the_edge_does_not_change_the_integers(levels: int, u: float, monkeypatch: pytest.MonkeyPatch) -> None:
    k = torch.arange(levels).view(-1, 1, 1, 1).to(torch.uint8)
    monkeypatch.setattr(torch, "rand", lambda shape, device: torch.full(shape, u))
    noise = DEQUANTIZATIONS["uniform"](Space((1, 1, 1), levels)).train()
    assert torch.equal(noise.inverse(noise(k)[0]), k)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("training", [True, False])
def test_dequantization_noise_is_uniform_and_does_not_change_the_integers(levels: int, training: bool) -> None:
    noise = DEQUANTIZATIONS["uniform"](Space((1, 8, 8), levels)).train(training)
    k = torch.randint(0, levels, (500, 1, 8, 8)).to(torch.uint8)
    x, log_q = noise(k)
    u = x * levels - k
    assert log_q == pytest.approx(64 * math.log(levels))
    assert torch.equal(noise.inverse(x), k)
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3


def test_noise_in_evaluation_is_a_function_of_the_point() -> None:
    k = torch.randint(0, 17, (300, 64)).to(torch.uint8)
    u = noise_from_point(k)
    torch.testing.assert_close(noise_from_point(k.flip(0)[:7]), u.flip(0)[:7], rtol=0, atol=0)
    assert u.unique(dim=0).shape == k.unique(dim=0).shape
    neighbor = k.clone()
    neighbor[:, 5] ^= 1
    assert torch.corrcoef(torch.stack((u.flatten(), noise_from_point(neighbor).flatten())))[0, 1].abs() < 0.03
    assert torch.corrcoef(u.T).triu(1).abs().max() < 0.3


def test_points_outside_the_cube_are_mapped_to_its_edge() -> None:
    noise = DEQUANTIZATIONS["uniform"](Space((3,), 17))
    assert noise.inverse(torch.tensor([[-0.2, 1.0, 1.3]])).tolist() == [[0, 16, 16]]


# ----------------------------------------------------------------------------------------------- the 1-D flow

CDFS = {"uniform": stats.uniform.cdf, "beta": stats.beta(5, 5).cdf, "normal": stats.norm.cdf}


def bimodal(base: str, dtype: torch.dtype = torch.float64) -> tuple[OneDimensional, Tensor]:
    """Return a 1-D flow with F = 0.3 Logistic(-2, 0.5) + 0.7 Logistic(1, 0.2), and 5,000 draws of F (5000, 1)."""
    torch.manual_seed(1)
    model = OneDimensional(Space((1,)), components=2, base=base).to(dtype).eval()
    w, mu, sigma = (torch.tensor(v, dtype=dtype) for v in ([0.3, 0.7], [-2.0, 1.0], [0.5, 0.2]))
    cdf = next(f for f in model.bijection if isinstance(f, MixtureCDF))
    with torch.no_grad():
        for parameter, value in zip((cdf.logits, cdf.mu, cdf.log_sigma), (w.log(), mu, sigma.log()), strict=True):
            parameter.copy_(value[:, None])
    k = torch.multinomial(w, 5000, replacement=True)
    return model, (mu[k] + sigma[k] * torch.rand(5000, dtype=dtype).logit(1e-9)).unsqueeze(-1)


@pytest.mark.parametrize("base", CDFS)
def test_encoded_points_have_the_base_distribution(base: str) -> None:
    model, x = bimodal(base)
    assert stats.kstest(model.encode(x).flatten().detach().numpy(), CDFS[base]).pvalue > 0.01
    assert stats.ks_2samp(model.sample(5000).flatten().numpy(), x.flatten().numpy()).pvalue > 0.01


@pytest.mark.parametrize("base", CDFS)
def test_one_dimensional_density_is_the_mixture_and_integrates_to_one(base: str) -> None:
    model, _ = bimodal(base)
    x = torch.linspace(-20, 15, 20_001, dtype=torch.float64).unsqueeze(-1)
    p = model.log_prob(x).exp().detach()
    assert torch.trapezoid(p, x[:, 0]).item() == pytest.approx(1, abs=1e-6)
    expected = 0.3 * stats.logistic(-2, 0.5).pdf(x[:, 0]) + 0.7 * stats.logistic(1, 0.2).pdf(x[:, 0])
    torch.testing.assert_close(p, torch.as_tensor(expected), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("base", CDFS)
def test_tails_are_accurate_in_float32(base: str) -> None:
    model, _ = bimodal(base, torch.float32)
    x = torch.tensor([[-60.0], [-30.0], [-8.0], [0.0], [4.0], [8.0], [20.0]])
    log_p = model.log_prob(x)
    expected = bimodal(base)[0].log_prob(x.double())
    torch.testing.assert_close(log_p.double(), expected, rtol=1e-5, atol=1e-4)
    (gradient,) = torch.autograd.grad(log_p.sum(), next(model.bijection.parameters()))
    assert gradient.isfinite().all()
    if base == "normal":
        torch.testing.assert_close(model.decode(model.encode(x)), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("base", BASES)
def test_base_samples_follow_the_base_density(base: str) -> None:
    torch.manual_seed(3)
    z = BASES[base].sample((4000, 1)).double()
    side = torch.linspace(*((1e-9, 1 - 1e-9) if base in ("uniform", "beta") else (-20, 20)), 20_001).double()
    mass = torch.cumulative_trapezoid(BASES[base].log_prob(side).exp(), side)
    assert mass[-1].item() == pytest.approx(1, abs=1e-4)
    assert stats.kstest(z.flatten().numpy(), lambda v: np.interp(v, side[1:], mass)).pvalue > 0.01


# --------------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("shape", [(4,), (4, 6, 6)], ids=["vector", "image"])
def test_actnorm_normalizes_the_first_batch(shape: tuple[int, ...]) -> None:
    x = 3 + 2 * torch.randn(64, *shape, dtype=torch.float64)
    layer = ActNorm(shape).double()
    y, _ = layer(x)
    var, mean = torch.var_mean(y, dim=[i for i in range(y.ndim) if i != 1], correction=0)
    torch.testing.assert_close(mean, torch.zeros(4).double())
    torch.testing.assert_close(var, torch.ones(4).double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(layer(10 * x)[0], torch.addcmul(y, x, 9 * layer.s.exp().view(-1, *[1] * len(shape[1:]))))


def test_loaded_actnorm_is_not_initialized_again() -> None:
    x = torch.randn(64, 4)
    first, second = ActNorm((4,)), ActNorm((4,))
    y, _ = first(x)
    second.load_state_dict(first.state_dict())
    second(50 + x)
    assert torch.equal(second(x)[0], y)


@pytest.mark.parametrize("shape", [(5, 4), (2, 4, 3)], ids=["vector", "image"])
def test_analytic_gradients_of_actnorm(shape: tuple[int, ...]) -> None:
    x, s, t = (torch.randn(n, dtype=torch.float64, requires_grad=True) for n in (shape, 4, 4))
    args = x, (math.prod(shape[2:]),), s, t
    assert torch.autograd.gradcheck(ActNormFunction.apply, args)
    assert torch.autograd.gradgradcheck(ActNormFunction.apply, args)


@pytest.mark.parametrize("scale", ["tanh", "sigmoid", None])
def test_analytic_gradients_of_a_coupling(scale: str | None) -> None:
    net = mlp(2, 6 if scale else 3, (4, 5))
    coupling = (AffineCoupling(net, 5, 2, scale=scale) if scale else Coupling(net, 5, 2, Shift())).double()
    vjp, gain = (affine_coupling_vjp("chunk", scale), coupling.gain) if scale else (vjp_of(Shift()), None)
    weights = [p for layer in net for p in layer.parameters()]
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)

    def fast(*args: Tensor) -> tuple[Tensor, Tensor]:
        y, logdet = CouplingFunction.apply(args[0], (coupling.sizes, vjp, 0.0), *args[1:])
        return y, logdet.expand(3)

    args = x, gain, *weights
    mine, theirs = fast(*args), coupling(x)
    torch.testing.assert_close(mine, (theirs[0], theirs[1].expand(3)))
    assert torch.autograd.gradcheck(fast, args)
    assert torch.autograd.gradgradcheck(fast, args)


@pytest.mark.parametrize("scale", ["tanh", "exp", "sigmoid"])
def test_analytic_gradients_of_an_autoregressive_layer(scale: str) -> None:
    layer = MaskedAutoregressive(MaskedMLP(4, 2, (5, 6), order=(2, 0, 3, 1)), Affine(scale)).double()
    masked = layer.net.layers
    tensors = *(f.mask for f in masked), *(f.weight for f in masked), *(f.bias for f in masked)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)

    def fast(x: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        return MaskedAutoregressiveFunction.apply(x, (layer.map, vjp_of(layer.map), 0.0), *tensors)

    torch.testing.assert_close(fast(x, *tensors), layer(x))
    assert torch.autograd.gradcheck(fast, (x, *tensors))
    assert torch.autograd.gradgradcheck(fast, (x, *tensors))


def fused_chain() -> Chain:
    """Return bijections of five dimensions, one of each type with a fast implementation, and one of them twice."""
    twice = ActNorm((5,))
    chain = Chain(
        [
            Coupling(mlp(2, 3, (4,)), 5, 2, Shift()),
            twice,
            LULinear((5,)),
            AffineCoupling(mlp(3, 4, (7, 6)), 5, 3),
            MaskedAutoregressive(MaskedMLP(5, 2, (8,)), Affine()),
            twice,
            AffineCoupling(mlp(2, 6, (7,)), 5, 2, scale="sigmoid"),
        ]
    )
    chain(torch.randn(32, 5))  # initializes ActNorm
    return chain


def one_by_one(chain: Chain, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return y and log|det dy/dx|, computed bijection by bijection."""
    total = torch.zeros(())
    for f in chain:
        x, logdet = f(x)
        total = total + logdet
    return x, total


def test_fused_chain_agrees_with_its_bijections_one_by_one() -> None:
    chain, x = fused_chain(), torch.randn(9, 5, requires_grad=True)
    mine, theirs = chain(x), one_by_one(chain, x)
    assert "ChainFunction" in type(mine[0].grad_fn).__name__
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    cotangents, inputs = (torch.randn(9, 5), torch.randn(9)), (x, *chain.parameters())
    gradients, expected = (torch.autograd.grad(out, inputs, cotangents) for out in (mine, theirs))
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-5)
    chain.bijections[1].requires_grad_(False)
    chain(x.detach())[1].sum().backward()
    assert [p.grad is not None for p in chain.parameters()] == [p.requires_grad for p in chain.parameters()]
    assert type(one_by_one(chain, x)[0].grad_fn).__name__ != type(mine[0].grad_fn).__name__


def test_second_gradients_of_a_fused_chain() -> None:
    chain, x = fused_chain(), torch.randn(9, 5, requires_grad=True)

    def penalty(outputs: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        (slope,) = torch.autograd.grad(outputs[0].square().sum() - outputs[1].sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), (x, *chain.parameters()))

    torch.testing.assert_close(penalty(chain(x)), penalty(one_by_one(chain, x)), rtol=1e-3, atol=1e-3)


def test_fused_chain_frees_saved_tensors_and_recomputes_them_for_a_second_gradient() -> None:
    chain, x = fused_chain(), torch.randn(9, 5, requires_grad=True)
    y, logdet = chain(x)
    outputs, inputs, cotangents = (y, logdet), (x, *chain.parameters()), (torch.randn(9, 5), torch.randn(9))
    first = torch.autograd.grad(outputs, inputs, cotangents, retain_graph=True)
    assert not y.grad_fn.contexts
    second = torch.autograd.grad(outputs, inputs, cotangents)
    assert not any(g.requires_grad for g in second)
    torch.testing.assert_close(second, first, rtol=1e-5, atol=1e-5)
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()


def test_bijections_with_dropout_are_not_fused_in_training() -> None:
    net = mlp(2, 6, (7,), dropout=0.5)
    chain = Chain([AffineCoupling(net, 5, 2), ActNorm((5,))])
    x = torch.randn(9, 5)
    chain(x)
    assert "ChainFunction" not in type(chain(x)[0].grad_fn).__name__
    assert "ChainFunction" in type(chain.eval()(x)[0].grad_fn).__name__


@pytest.mark.parametrize("shape", [(4,), (4, 6, 6)], ids=["vector", "image"])
def test_actnorm_transforms_the_first_batch_as_every_other(shape: tuple[int, ...]) -> None:
    """Before the first batch there is no fast implementation; it has the same output and log-determinant."""
    layer, x = ActNorm(shape), 1 + 3 * torch.randn(32, *shape)
    first, second = layer(x), layer(x)
    assert step_of(layer, x) is not None
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(
        first[1], -math.prod(shape[1:]) * x.var((0, *range(2, x.ndim)), correction=0).log().sum() / 2
    )


def test_batch_norm_agrees_with_its_formula() -> None:
    layer, rho, eps = BatchNorm((3,), rho=0.9).double(), 0.9, 1e-4
    first, x = 1 + torch.randn(32, 3).double(), 2 * torch.randn(32, 3).double().requires_grad_()
    layer(first)
    y, logdet = layer(x)
    m = rho * first.mean(0) + (1 - rho) * x.mean(0)
    v = rho * first.var(0, correction=0) + (1 - rho) * x.var(0, correction=0)
    expected = (x - m) / (v + eps).sqrt()
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(logdet, -0.5 * (v + eps).log().sum())
    torch.testing.assert_close((layer.mean, layer.var), (m.detach(), v.detach()))
    g = torch.randn_like(y)
    (mine,) = torch.autograd.grad((y * g).sum() + logdet, x)
    (theirs,) = torch.autograd.grad((expected * g).sum() - 0.5 * (v + eps).log().sum(), x)
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_gradient_passes_only_through_the_statistics_of_the_batch(rho: float) -> None:
    """With rho = 1, m and v are constants; with rho = 0 this is ordinary batch normalization."""
    layer = BatchNorm((3,), rho=rho).double()
    layer(1 + torch.randn(32, 3).double())
    x = 2 * torch.randn(32, 3).double().requires_grad_()
    g = torch.randn(32, 3).double()
    (mine,) = torch.autograd.grad((layer(x)[0] * g).sum(), x)
    if rho == 1:
        expected = g / (layer.var + layer.eps).sqrt()
    else:
        (expected,) = torch.autograd.grad((batch_norm(x, None, None, training=True, eps=layer.eps) * g).sum(), x)
    torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("shape", [(6,), (6, 3, 2)], ids=["vector", "image"])
@pytest.mark.parametrize("start", ["rotation", "identity"])
def test_lu_log_determinant_agrees_with_the_matrix(shape: tuple[int, ...], start: str) -> None:
    layer = LULinear(shape, start=start).double()
    W, x = layer.weight(), torch.randn(2, *shape).double()
    torch.testing.assert_close(W @ W.T, torch.eye(6).double(), atol=1e-5, rtol=0)
    with torch.no_grad():
        for p in layer.parameters():
            p += 0.3 * torch.randn_like(p)
    y, logdet = layer(x)
    torch.testing.assert_close(y, torch.einsum("ij,bj...->bi...", layer.weight(), x))
    expected = math.prod(shape[1:]) * torch.linalg.slogdet(layer.weight()).logabsdet
    torch.testing.assert_close(logdet, expected)


def test_analytic_gradients_of_the_lu_matrix() -> None:
    args = torch.randn(4, 4).double().requires_grad_(), torch.tensor([1.0, -1, 1, -1]).double()
    assert torch.autograd.gradcheck(LUMatrixFunction.apply, args)
    assert torch.autograd.gradgradcheck(LUMatrixFunction.apply, args)


def test_packed_lu_factors_have_no_unused_entries() -> None:
    L, U = torch.randn(4, 4).tril(-1), torch.randn(4, 4).triu()
    packed = (L + U.diagonal_scatter(U.diagonal().abs().log())).requires_grad_()
    unpacked = unpack_lu(packed, U.diagonal().sign())
    torch.testing.assert_close(unpacked, (L, U))
    torch.testing.assert_close(lu_product(*unpacked), (L + torch.eye(4)) @ U)
    assert (torch.autograd.grad(lu_product(*unpacked).square().sum(), packed)[0] != 0).all()


@pytest.mark.parametrize("start", ["rotation", "identity"])
def test_analytic_gradients_of_the_lu_layer(start: str) -> None:
    layer = LULinear((4,), start=start).double()
    with torch.no_grad():
        for p in layer.parameters():
            p += 0.3 * torch.randn_like(p)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    step = step_of(layer, x)
    torch.testing.assert_close(step(x)[0], x @ layer.weight().T)
    assert torch.autograd.gradcheck(LULinearFunction.apply, (x, step.options, *step.tensors))
    assert torch.autograd.gradgradcheck(LULinearFunction.apply, (x, step.options, *step.tensors))


def color_of_pixels(order: tuple[int, ...], half: int) -> Tensor:
    """Return an image (6, 6) with 1 for the pixels in one half of the squeezed channels, else 0."""
    y = torch.zeros(1, 4, 3, 3)
    y[:, 2 * half : 2 * half + 2] = 1
    return Squeeze(order).inverse(y)[0, 0]


def test_squeezing_the_diagonal_first_gives_a_checkerboard() -> None:
    board = (torch.arange(6)[:, None] + torch.arange(6)) % 2
    assert torch.equal(color_of_pixels(DIAGONAL_FIRST, 1), board.float())
    assert torch.equal(color_of_pixels(DIAGONAL_FIRST, 0), 1 - board.float())
    rows = (torch.arange(6) % 2).view(6, 1).expand(6, 6)
    assert torch.equal(color_of_pixels((0, 1, 2, 3), 1), rows.float())


@pytest.mark.parametrize("n", [1, 2, 3])
def test_permutation_after_checkerboard_couplings_restores_rows(n: int) -> None:
    """Couplings with zero networks only swap halves; the permutation then puts upper pixels first."""
    x = torch.arange(2 * 36.0).view(1, 2, 6, 6)
    y, _ = Squeeze(DIAGONAL_FIRST)(x)
    for step in alternating_couplings((8, 3, 3), n, affine_couplings(lambda i, o: torch.nn.Conv2d(i, o, 1))):
        torch.nn.init.zeros_(step.net.weight), torch.nn.init.zeros_(step.net.bias)
        y, _ = step(y)
    y, _ = Permutation(rows_from_checkerboard(2, bool(n % 2)))(y)
    assert torch.equal(y, Squeeze()(x)[0])


def test_checkerboard_coupling_transforms_one_color() -> None:
    x = torch.randn(2, 1, 6, 6)
    squeeze = Squeeze(DIAGONAL_FIRST)
    coupling = AffineCoupling(torch.nn.Conv2d(2, 4, 3, padding=1), 4, 2)
    y = coupling(squeeze(x)[0])[0].roll(2, dims=1)  # undoes the swap of the halves
    changed = squeeze.inverse(y) != x
    assert torch.equal(changed, ((torch.arange(6)[:, None] + torch.arange(6)) % 2).bool().expand(2, 1, 6, 6))


def test_alternating_puts_even_dimensions_first() -> None:
    assert alternating((5,)).tolist() == [0, 2, 4, 1, 3]
    assert alternating((1, 2, 3)).tolist() == [0, 2, 4, 1, 3, 5]


HALVES: dict[str, tuple[Make, dict[str, object]]] = {
    "NICE": (NICE, SMALL),
    "RealNVP": (RealNVP, SMALL),
    "FlowPP": (FlowPP, {"components": 2, **SMALL}),
    "NSF": (NSF, {"linear": "none", "bins": 3, **SMALL}),
}


def transformed(J: Tensor) -> int:
    """Return how many outputs of a map with Jacobian J (D, D) depend on more than one input."""
    return int(((J.abs() > 1e-12).sum(1) > 1).sum())


@pytest.mark.parametrize("D", [2, 3, 5, 8])
@pytest.mark.parametrize("row", HALVES.items(), ids=HALVES)
def test_one_coupling_transforms_half_of_the_dimensions_and_two_transform_all(row, D: int) -> None:
    """One transforms floor(D / 2); every other output depends on a single input."""
    make, options = row[1]

    def transformed_by(couplings: int) -> int:
        model, x = built((row[0], (make, {**options, "couplings": couplings})), Space((D,)))
        return transformed(torch.autograd.functional.jacobian(lambda v: model.encode(v[None])[0], x[0]))

    assert (transformed_by(1), transformed_by(2)) == (D // 2, D)


@pytest.mark.parametrize("D", [2, 3, 5, 8])
def test_couplings_of_variational_noise_transform_all_dimensions(D: int) -> None:
    torch.manual_seed(0)
    noise = VariationalDequantization(Space((D,), 17)).double().eval()
    with torch.no_grad():
        for p in noise.parameters():
            p += 0.3 * torch.randn_like(p)

    def through(v: Tensor) -> Tensor:
        for coupling in noise.couplings:
            v, _ = coupling(v, torch.linspace(-1, 1, D, dtype=torch.float64)[None])
        return v

    J = torch.autograd.functional.jacobian(lambda v: through(v[None])[0], torch.randn(D, dtype=torch.float64))
    assert len(noise.couplings) == 2
    assert transformed(J) == D


def test_couplings_start_as_the_identity() -> None:
    x = torch.randn(4, 6)
    layer: Bijection = AffineCoupling(mlp(3, 6, (8,), zero=True), 6, 3)
    y, logdet = layer(x)
    assert torch.equal(y, x.roll(3, dims=1))
    assert torch.equal(logdet, torch.zeros(4))


def test_nice_does_not_start_at_the_saddle_point_of_symmetric_data() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 2)
    x = torch.cat((x, -x, x * torch.tensor([1.0, -1.0]), x * torch.tensor([-1.0, 1.0])))
    model = NICE(Space((2,)), couplings=2, hidden=(16,), base="normal")
    networks = [p for name, p in model.named_parameters() if ".net." in name]
    gradients = torch.autograd.grad(model.loss(x), networks)
    assert all(g.abs().max() > 1e-4 for g in gradients)


def test_sides_that_cannot_be_halved_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"scales=3 needs sides divisible by 8, got 28x28"):
        RealNVP(Space((1, 28, 28), 256), scales=3)
    with pytest.raises(ValueError, match=r"levels=3 needs sides divisible by 8, got 28x28"):
        Glow(Space((1, 28, 28), 256), levels=3)


def test_linear_flow_fits_the_gaussian_with_the_moments_of_the_data() -> None:
    torch.manual_seed(0)
    A = torch.tensor([[2.0, 0.0], [1.5, 0.5]])
    x = torch.randn(2000, 2) @ A.T + torch.tensor([1.0, -3.0])
    model = Linear(Space((2,)))
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model.loss(x)
        loss.backward()
        return loss

    optimizer.step(closure)
    best = torch.distributions.MultivariateNormal(x.mean(0), torch.cov(x.T, correction=0)).log_prob(x)
    assert model.loss(x).item() == pytest.approx(-best.mean().item(), abs=1e-4)
