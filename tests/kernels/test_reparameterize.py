"""Reparameterized sampling: the kernels, run by Triton's interpreter, against float64; Philox; normals and the KL."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import pytest
import torch
from genbench_kernels import explain, reparameterize
from genbench_kernels.op import trace
from genbench_kernels.reparameterize import (
    OP,
    SAMPLES_PER_PROGRAM,
    _backward_op,
    _box_muller,
    _forward_op,
    fused,
    normals,
    philox,
)
from genbench_kernels.tolerance import excess
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, vmap
from torch.special import ndtr

KEY = torch.tensor([20131220, 1312])
MODULE = importlib.import_module("genbench_kernels.reparameterize")  # in the package this name is the function
ROWS = {1: 64, 7: 16, 100: 8, 5000: 2}  # size of a row -> rows; a row of 5000 takes several tiles


def inputs(B: int, D: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return random mu and logvar (B, D)."""
    torch.manual_seed(seed)
    return torch.randn(B, D).to(dtype), (1.5 * torch.randn(B, D) - 0.5).to(dtype)


def run(
    mu: Tensor, logvar: Tensor, key: Tensor = KEY, dtype: torch.dtype | None = None, **options: Any
) -> tuple[Tensor, ...]:
    """Return z, kl and the gradients of mu and logvar for a fixed random cotangent, computed in `dtype`."""
    leaves = [(v if dtype is None else v.to(dtype)).detach().requires_grad_() for v in (mu, logvar)]
    outputs = [v for v in reparameterize(*leaves, key, **options) if v is not None]
    torch.manual_seed(0)
    cotangents = [torch.randn(v.shape).bfloat16().to(v) for v in outputs]  # the same values in every dtype
    return *outputs, *torch.autograd.grad(outputs, leaves, cotangents)


def assert_within_tolerance(B: int, D: int, dtype: torch.dtype = torch.float32, draws: int = 4, **options: Any) -> None:
    """Assert the tolerance of values and gradients over several draws; eager's error in a single one is luck.

    Eager computes at its own precision throughout, including the normals (which the reference computes in float64).
    """
    samples = [inputs(B, D, dtype, seed) for seed in range(draws)]
    forms: Any = {"backend": "fused"}, {"backend": "reference"}, {"backend": "reference", "dtype": torch.float64}
    ours, exact = ([run(*sample, **form, **options) for sample in samples] for form in forms[::2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "normals", partial(normals, dtype=torch.float32))
        eager = [run(*sample, **forms[1], **options) for sample in samples]
    pooled = (map(torch.cat, zip(*form, strict=True)) for form in (ours, eager, exact))
    assert max(excess(*triple) for triple in zip(*pooled, strict=True)) <= 1


# ----------------------------------------------------------------------------------------- accuracy


@pytest.mark.parametrize("size", ROWS)
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("kl", [True, False])
def test_values_and_gradients_agree_with_float64(size: int, samples: int, kl: bool) -> None:
    assert_within_tolerance(ROWS[size], size, samples=samples, kl=kl)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_adds_only_rounding_errors(dtype: torch.dtype) -> None:
    assert_within_tolerance(8, 100, dtype, samples=2)


def test_gradients_of_samples_divided_among_programs() -> None:
    assert_within_tolerance(2, 20, samples=SAMPLES_PER_PROGRAM + 3)


def test_float64_is_computed_in_float64() -> None:
    args = inputs(5, 33, torch.float64)
    for ours, exact in zip(run(*args, backend="fused"), run(*args, backend="reference"), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-13, atol=1e-13)


def test_float32_normals_are_accurate_to_four_ulps_in_tails_and_near_zero() -> None:
    zero = torch.zeros(4, 4096)
    z, _ = reparameterize(zero, zero, KEY, kl=False, backend="fused")
    exact = normals(KEY, 1, 4, 4096)
    relative = ((z - exact) / exact).abs()
    assert relative.max() < 4 * 2**-23
    assert relative.mean() < 2**-24


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_small_kl_does_not_cancel(backend: Any) -> None:
    _, kl = reparameterize(torch.zeros(1, 1), torch.full((1, 1), 1e-4), KEY, backend=backend)
    assert kl is not None
    assert kl.item() == pytest.approx(2.5e-9, rel=1e-2)
    assert reparameterize(torch.zeros(1, 4), torch.zeros(1, 4), KEY, backend=backend)[1].tolist() == [0.0]  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore:overflow")
def test_float32_kl_is_accurate_everywhere() -> None:
    logvar = torch.cat([torch.linspace(-80, 80, 1601), torch.linspace(-2, 2, 1601), torch.logspace(-9, 0, 91)])[:, None]
    _, kl, _, slope = run(torch.zeros_like(logvar), logvar, samples=1, backend="fused")
    wide = logvar.double()[:, 0]
    series = sum(wide**k / torch.tensor(k + 1.0).lgamma().exp().double() for k in range(2, 30))
    exact = 0.5 * torch.where(wide.abs() < 1, series, torch.expm1(wide) - wide)  # type: ignore[arg-type]
    assert ((kl - exact).abs() <= 4 * 2**-23 * exact).all()
    assert torch.isfinite(slope).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # from the interpreter's NumPy
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_non_finite_inputs_affect_only_their_own_results(backend: Any) -> None:
    logvar = torch.tensor([[0.0, torch.nan], [torch.inf, 0.0], [-torch.inf, 0.0], [200.0, 0.0], [0.0, 0.0]])
    z, kl = reparameterize(torch.zeros(5, 2), logvar, KEY, backend=backend)
    assert kl is not None
    assert z[0].isfinite().tolist() == [[True, False], [False, True], [True, True], [False, True], [True, True]]
    assert kl.isfinite().tolist() == [False, False, False, False, True]


# ----------------------------------------------------------------------------------------------- normals


VECTORS = [  # Random123, kat_vectors: counter, key, words
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), VECTORS)
def test_philox_matches_known_answers(counter: list[int], key: list[int], words: list[int]) -> None:
    assert [int(w) for w in philox(*torch.tensor(counter), *torch.tensor(key))] == words


def test_bits_match_torch() -> None:
    _random = pytest.importorskip("torch.func._random", reason="torch 2.15 has it")
    key = torch.tensor([42, 2**32 - 3], dtype=torch.uint64)
    x = _random.bits(key, 2, 3, 8, dtype=torch.uint32).double().view(-1, 4).T
    expected = torch.stack([*_box_muller(x[0], x[1]), *_box_muller(x[2], x[3])], -1).view(2, 3, 8)
    assert torch.equal(normals(key.view(torch.int64), 2, 3, 8), expected)
    z, _ = reparameterize(torch.zeros(3, 8), torch.zeros(3, 8), key, samples=2, backend="fused")
    torch.testing.assert_close(z.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("key", [[-1], [0], [2**63 - 1, 2**32 - 5], [-(2**62), 2**40 + 3], [7, -2]])
def test_large_and_negative_keys(key: list[int]) -> None:
    zero = torch.zeros(4, 32, dtype=torch.float64)
    z, _ = reparameterize(zero, zero, torch.tensor(key), kl=False, backend="fused")
    torch.testing.assert_close(z, normals(torch.tensor(key), 1, 4, 32), rtol=1e-12, atol=1e-14)


@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 6), st.sampled_from([8, 16, 64]), st.integers(2, 4))
@settings(max_examples=6, derandomize=True, deadline=None)
def test_samples_do_not_depend_on_the_tile(B: int, D: int, samples: int, K: int, R: int) -> None:
    z, _, *gradients = run(*inputs(B, D), samples=samples, backend="fused")
    R = 1 << R - 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "_tiles", lambda B, D: ({"R": R, "K": K, "num_warps": 1}, -(-B // R), -(-D // K)))
        patch.setattr(MODULE, "SAMPLES_PER_PROGRAM", 8)
        other_z, _, *other_gradients = run(*inputs(B, D), samples=samples, backend="fused")
    assert torch.equal(z, other_z)
    assert all(torch.equal(a, b) for a, b in zip(gradients, other_gradients, strict=True))


def test_a_normal_depends_on_its_position_only() -> None:
    zero = torch.zeros(6, 10)
    z, _ = reparameterize(zero, zero, KEY, samples=2, backend="fused")
    assert torch.equal(reparameterize(zero[:4], zero[:4], KEY, backend="fused")[0][0], z[0, :4])
    later = KEY + torch.tensor([0, 6 * 3])  # the second sample's first counter
    assert torch.equal(reparameterize(zero, zero, later, backend="fused")[0][0], z[1])


def kolmogorov(draws: Tensor) -> float:
    """Return Kolmogorov's statistic sqrt(n) sup |F_n - Phi|."""
    steps = torch.arange(len(draws) + 1, dtype=torch.float64) / len(draws)
    phi = ndtr(draws.sort().values)
    return (torch.maximum((steps[1:] - phi).abs(), (steps[:-1] - phi).abs()).max() * len(draws) ** 0.5).item()


def test_normals_have_a_normal_distribution() -> None:
    eps = normals(KEY, 1, 64, 4096).flatten()
    assert all(kolmogorov(draws) < 1.63 for draws in (eps, *(eps[lane::4] for lane in range(4))))  # 1 % level
    moments = torch.stack([(eps**k).mean() for k in (1, 2, 3, 4)])
    spread = torch.tensor([1.0, 2.0, 15.0, 96.0]).sqrt() / len(eps) ** 0.5
    assert ((moments - torch.tensor([0.0, 1.0, 0.0, 3.0])).abs() < 4 * spread).all()
    tail = 2 * ndtr(torch.tensor(-4.0)).item() * len(eps)
    assert abs((eps.abs() > 4).sum().item() - tail) < 4 * tail**0.5


def test_normals_are_independent() -> None:
    streams = [normals(torch.tensor(key), 2, 32, 1024) for key in ([0], [1], [2**32], [0, 2**32])]
    eps = torch.cat([s.reshape(2, -1) for s in streams])  # keys and samples; below, neighbouring elements
    pairs = torch.cat([eps, *(eps[:1].roll(lag, 1) for lag in (1, 2, 3, 4, 1024))])
    for power in (1, 2):  # squares, too: pairs of Box-Muller share a radius
        correlation = torch.corrcoef(pairs**power) - torch.eye(len(pairs))
        assert correlation.abs().max() < 4.5 / eps.shape[1] ** 0.5


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 5), st.integers(0, 9), st.integers(1, 3), st.booleans())
@settings(max_examples=40, derandomize=True, deadline=None)
def test_shapes_keys_and_memory_orders(seed: int, B: int, D: int, samples: int, transposed: bool) -> None:
    mu, logvar = inputs(B, D, torch.float64)
    strided = [v.T.contiguous().T if transposed else torch.cat((v, v), 1)[:, D:] for v in (mu, logvar)]
    key = torch.tensor([seed])
    for ours, exact in zip(
        run(*strided, key, samples=samples, backend="fused"),
        run(mu, logvar, key, samples=samples, backend="reference"),
        strict=True,
    ):
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)


def test_halves_of_one_tensor_are_not_copied() -> None:
    mu, logvar = torch.randn(6, 40, device="meta").chunk(2, 1)
    args = mu.requires_grad_(), logvar.requires_grad_(), KEY.to("meta"), True, 1, torch.float32
    forward, backward = trace(fused, *args)
    assert [launch.name for launch in (*forward, *backward)] == ["forward_kernel", "backward_kernel"]


def test_broadcast_inputs_and_cotangents() -> None:
    mu, logvar = torch.randn(1, 12).expand(5, 12), torch.zeros(5, 1).expand(5, 12)
    for ours, exact in zip(
        run(mu, logvar, backend="fused"), run(mu.contiguous(), logvar.contiguous(), backend="fused"), strict=True
    ):
        assert torch.equal(ours, exact)
    leaf = mu.clone().requires_grad_()
    reparameterize(leaf, logvar, KEY, samples=3, backend="fused")[0].sum().backward()
    assert torch.equal(leaf.grad, torch.full((5, 12), 3.0))


# --------------------------------------------------------------------------------------- gradients


def test_gradients_of_expectations() -> None:
    mu, logvar = (v[:, :2].double().requires_grad_() for v in inputs(2, 4))
    n = 20000
    z, _ = reparameterize(mu, logvar, KEY, samples=n)
    gmu, glogvar = torch.autograd.grad(z.mean(0).sum(), (mu, logvar), retain_graph=True)
    torch.testing.assert_close(gmu, torch.ones_like(mu))
    sigma = (logvar / 2).exp().detach()
    assert (glogvar.abs() < 4 * sigma / 2 / n**0.5).all()
    gmu, glogvar = torch.autograd.grad((z**2).mean(0).sum(), (mu, logvar))
    assert ((gmu - 2 * mu).abs() < 4 * 2 * sigma / n**0.5).all()
    deviation = sigma * (mu**2 + 2 * sigma**2).sqrt()
    assert ((glogvar - sigma**2).abs() < 5 * deviation / n**0.5).all()


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_kl_and_its_gradient_match_torch_distributions(backend: Any) -> None:
    mu, logvar = (v.requires_grad_() for v in inputs(4, 6, torch.float64))
    _, kl = reparameterize(mu, logvar, KEY, backend=backend)
    q, p = torch.distributions.Normal(mu, (logvar / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(kl, torch.distributions.kl_divergence(q, p).sum(1))
    assert kl is not None
    gmu, glogvar = torch.autograd.grad(kl.sum(), (mu, logvar))
    torch.testing.assert_close(gmu, mu)
    torch.testing.assert_close(glogvar, torch.expm1(logvar) / 2)


@pytest.mark.parametrize("form", [fused, _forward_op], ids=["eager", "registered"])
@pytest.mark.parametrize(("kl", "samples"), [(True, 1), (False, 2)])
def test_first_and_second_derivatives(form: Any, kl: bool, samples: int) -> None:
    mu, logvar = (v.requires_grad_() for v in inputs(1, 2, torch.float64))
    args = mu, logvar, KEY, kl, samples, torch.float64
    assert torch.autograd.gradcheck(form, args)
    assert torch.autograd.gradgradcheck(form, args)


@pytest.mark.parametrize("form", [fused, _forward_op], ids=["eager", "registered"])
@pytest.mark.parametrize("used", [0, 1])
def test_either_output_may_be_unused(form: Any, used: int) -> None:
    mu, logvar = (v.requires_grad_() for v in inputs(3, 5))
    ours = torch.autograd.grad(form(mu, logvar, KEY, True, 1, torch.float32)[used].sum(), (mu, logvar))
    reference = torch.autograd.grad(OP.reference(mu, logvar, KEY, True, 1, torch.float32)[used].sum(), (mu, logvar))
    for a, b in zip(ours, reference, strict=True):
        torch.testing.assert_close(a, b)


def test_only_one_input_requires_gradients() -> None:
    mu, logvar = inputs(3, 5)
    for a, b in ((mu.clone().requires_grad_(), logvar), (mu, logvar.clone().requires_grad_())):
        z, kl = reparameterize(a, b, KEY, backend="fused")
        assert kl is not None
        (z.sum() + kl.sum()).backward()
        assert (a.grad is None) != (b.grad is None)


def test_a_key_changed_before_backward_is_an_error() -> None:
    (mu, logvar), key = inputs(3, 5), KEY.clone()
    z, _ = reparameterize(mu.requires_grad_(), logvar, key, backend="fused")
    key[1] += 8
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


# ---------------------------------------------------------------------------------------------- composition


def test_registered_ops_pass_opcheck() -> None:
    mu, logvar = (v.requires_grad_() for v in inputs(3, 4))
    torch.library.opcheck(_forward_op, (mu, logvar, KEY, True, 2, torch.float32))
    torch.library.opcheck(_forward_op, (mu, logvar, KEY, False, 1, torch.float32))
    tensors = torch.randn(2, 3, 4), torch.randn(3), mu.detach(), logvar.detach(), KEY
    torch.library.opcheck(_backward_op, (*tensors, 2))
    torch.library.opcheck(_backward_op, (None, *tensors[1:], 2))


@torch._dynamo.config.patch(error_on_recompile=True)
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_compiles_without_breaks_and_once_for_all_batch_sizes(backend: Any) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(reparameterize, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch in (5, 7, 9):
        mu, logvar = (v.requires_grad_() for v in inputs(batch, 6))
        ours = compiled(mu, logvar, KEY, samples=2, backend=backend)
        reference = reparameterize(mu, logvar, KEY, samples=2, backend="reference")
        for a, b in zip(ours, reference, strict=True):
            torch.testing.assert_close(a, b)
        losses = (z.square().sum() + kl.sum() for z, kl in (ours, reference))
        for a, b in zip(*(torch.autograd.grad(loss, (mu, logvar)) for loss in losses), strict=True):
            torch.testing.assert_close(a, b)


def test_vmap_equals_a_loop() -> None:
    mu, logvar = (v.view(3, 5, 6) for v in inputs(15, 6))
    keys = torch.arange(6).view(3, 2)
    for dims in ((0, 0, None), (0, None, 0), (None, 0, 0), (None, None, 0)):
        args = [v if d == 0 else v[0] for v, d in zip((mu, logvar, keys), dims, strict=True)]
        z, kl = vmap(lambda *a: reparameterize(*a, samples=2, backend="fused"), dims)(*args)
        for i in range(3):
            single = reparameterize(*(v[i] if d == 0 else v for v, d in zip(args, dims, strict=True)), samples=2)
            torch.testing.assert_close(z[i], single[0])
            torch.testing.assert_close(kl[i], single[1])


def test_vmap_nests_and_has_gradients() -> None:
    mu, logvar = (v.view(2, 3, 4, 5) for v in inputs(24, 5))

    def loss(mu: Tensor, logvar: Tensor, backend: Any = "fused") -> Tensor:
        z, kl = reparameterize(mu, logvar, KEY, backend=backend)
        return z.square().sum() + kl.sum()

    nested = vmap(vmap(grad(loss, (0, 1))))(mu, logvar)
    outer = grad(lambda *a: vmap(vmap(loss))(*a).sum(), (0, 1))(mu, logvar)
    for i in range(2):
        for j in range(3):
            expected = grad(lambda m, v: loss(m, v, "reference"), (0, 1))(mu[i, j], logvar[i, j])
            for a, b, c in zip(nested, outer, expected, strict=True):
                torch.testing.assert_close(a[i, j], c)
                torch.testing.assert_close(b[i, j], c)


def test_autocast_samples_in_float32() -> None:
    mu, logvar = inputs(4, 6, torch.bfloat16)
    for backend in ("fused", "reference"):
        assert reparameterize(mu, logvar, KEY, backend=backend)[0].dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            z, kl, gmu, _ = run(mu, logvar, backend=backend)
        assert z.dtype == kl.dtype == torch.float32
        assert gmu.dtype == torch.bfloat16


def test_results_are_bitwise_reproducible() -> None:
    first, second = (run(*inputs(6, 100), samples=2, backend="fused") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_an_empty_batch_has_empty_results_and_zero_gradients(backend: Any) -> None:
    z, kl, gmu, glogvar = run(torch.zeros(0, 3), torch.zeros(0, 3), samples=2, backend=backend)
    assert (z.shape, kl.shape, gmu.shape, glogvar.shape) == ((2, 0, 3), (0,), (0, 3), (0, 3))
    z, kl, *_ = run(torch.zeros(4, 0), torch.zeros(4, 0), backend=backend)
    assert z.shape == (1, 4, 0)
    assert torch.equal(kl, torch.zeros(4))
    assert reparameterize(torch.zeros(2, 3), torch.zeros(2, 3), KEY, kl=False, backend=backend)[1] is None


X = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"logvar": torch.zeros(2, 4)}, r"\(2, 3\) and \(2, 4\)"),
        ({"mu": torch.zeros(3), "logvar": torch.zeros(3)}, r"\(3,\)"),
        ({"logvar": X.double()}, r"float32 and torch\.float64"),
        ({"mu": X.long(), "logvar": X.long()}, r"torch\.int64"),
        ({"key": torch.tensor([1.0])}, r"torch\.float32, \(1,\)"),
        ({"key": torch.tensor(1)}, r"\(\)"),
        ({"key": torch.arange(3)}, r"\(3,\)"),
        ({"samples": 0}, "0"),
        ({"backend": "cuda"}, "cuda"),
        ({"key": KEY.to("meta")}, r"cpu.*meta"),
        ({"mu": X.to("meta"), "logvar": X.to("meta"), "key": KEY.to("meta"), "backend": "fused"}, "meta"),
    ],
)
def test_errors_name_the_invalid_arguments(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reparameterize(**{"mu": X, "logvar": X, "key": KEY, **args})


def test_launches_and_bytes_match_the_docstring() -> None:
    mu, logvar = (torch.randn(4096, 128, device="meta", requires_grad=True) for _ in range(2))
    key, one_pass = torch.zeros(1, dtype=torch.int64, device="meta"), mu.numel() * 4
    parts = trace(fused, mu, logvar, key, True, 1, torch.float32)
    assert [(len(p), round(sum(launch.bytes for launch in p) / one_pass, 1)) for p in parts] == [(1, 3.0), (1, 5.0)]


def test_explain_returns_form_and_costs() -> None:
    mu, logvar = (v.requires_grad_() for v in inputs(64, 128))
    explanation = explain(reparameterize, mu, logvar, KEY)
    assert explanation.backend == "reference"
    assert explanation.backward is not None
    assert explanation.reference_backward is not None
    assert explanation.forward.launches + explanation.backward.launches == 2
    assert explanation.reference_forward.bytes > explanation.forward.bytes
    assert explanation.reference_backward.launches > explanation.backward.launches


@pytest.mark.parametrize("example", list(OP.examples("cpu")), ids=lambda example: example.name)
def test_both_forms_agree_on_every_example(example: Any) -> None:
    for ours, reference in zip(OP.fused(*example.args), OP.reference(*example.args), strict=True):
        torch.testing.assert_close(ours, reference)
