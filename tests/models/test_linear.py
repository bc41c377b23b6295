"""The fast linear layer and MLP agree with PyTorch's, and are used only where they apply."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from genbench.nets.fastpath import linear as module
from genbench.nets.fastpath.linear import favors_onednn, is_plain_float32
from genbench.nets.linear import Dense, linear
from genbench.nets.mlp import mlp

B, I, O = 128, 208, 192  # noqa: E741
assert B * I * O >= 2 * module.ONEDNN_FROM

needs_onednn = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this PyTorch has no oneDNN, or another interface to it"
)


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that oneDNN is faster on this processor."""
    monkeypatch.setattr(module, "onednn_is_faster", lambda: True)
    monkeypatch.setitem(module.FAST, linear, module.fast_linear)


def uses_onednn(x: Tensor, W: Tensor) -> bool:
    """Return whether `linear` computes x W^T by oneDNN."""
    return favors_onednn(x, len(W)) and is_plain_float32(x, W)


def arguments(*batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return x (*batch, I), W (O, I) and b (O,) that take gradients."""
    return tuple(torch.randn(s).requires_grad_() for s in ((*batch, I), (O, I), (O,)))


@needs_onednn
@pytest.mark.parametrize("batch", [(B,), (4, 32), (2, 2, 32)], ids=str)
@pytest.mark.parametrize("layout", [Tensor.contiguous, lambda x: x.transpose(0, -2).contiguous().transpose(0, -2)])
def test_values_and_gradients_agree_with_pytorch(onednn: None, batch: tuple[int, ...], layout: Callable) -> None:
    x, W, b = arguments(*batch)
    assert uses_onednn(x, W)
    mine, theirs = linear(layout(x), W, b), nn.functional.linear(x.double(), W.double(), b.double())
    torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-4)
    for g in (torch.randn_like(mine), torch.ones(()).expand_as(mine)):
        gradients = torch.autograd.grad(mine, (x, W, b), g, retain_graph=True)
        expected = torch.autograd.grad(theirs, (x, W, b), g.double(), retain_graph=True)
        torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-3)


@needs_onednn
def test_layer_on_a_slice_of_its_input_and_without_bias(onednn: None) -> None:
    x, W, _ = arguments(B)
    wide = torch.randn(B, 2 * I)
    mine = linear(wide[:, I:], W)
    torch.testing.assert_close(mine, nn.functional.linear(wide[:, I:], W), rtol=1e-5, atol=1e-4)
    g = torch.randn_like(mine)
    torch.testing.assert_close(torch.autograd.grad(mine, W, g)[0], g.T @ wide[:, I:], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(linear(x.detach(), W), nn.functional.linear(x, W), rtol=1e-5, atol=1e-4)


@needs_onednn
def test_gradients_of_gradients_agree_with_pytorch(onednn: None) -> None:
    """For the penalty E |d f / d x|^2, which needs them all."""

    def penalty(f: Callable[..., Tensor], x: Tensor, W: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        y = f(torch.tanh(f(x, W, b) @ torch.eye(O, I, dtype=x.dtype)), W, b).sin().sum()
        (gx,) = torch.autograd.grad(y, x, create_graph=True)
        return torch.autograd.grad(gx.square().sum() / B, (x, W, b))

    x, W, b = arguments(B)
    tensors = (x.detach().repeat(1, 2)[:, :I].requires_grad_(), W, b)
    exact = penalty(nn.functional.linear, *(t.detach().double().requires_grad_() for t in tensors))
    for mine, theirs in zip(penalty(linear, *tensors), exact, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())


def test_other_dtypes_are_differentiable_twice() -> None:
    x, W, b = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((3, 4), (2, 4), (2,)))
    assert torch.autograd.gradgradcheck(linear, (x, W, b))


@needs_onednn
def test_results_are_reproducible_to_the_bit(onednn: None) -> None:
    x, W, b = arguments(B)
    g = torch.randn(B, O)
    runs = [(y := linear(x, W, b), *torch.autograd.grad(y, (x, W, b), g)) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_dense_is_initialized_as_pytorchs_linear_layer() -> None:
    torch.manual_seed(0)
    mine = Dense(I, O)
    torch.manual_seed(0)
    theirs = nn.Linear(I, O)
    assert mine.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(mine.state_dict()[k], v) for k, v in theirs.state_dict().items())
    x = torch.randn(B, I)
    torch.testing.assert_close(mine(x), theirs(x), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(mine(x[0]), theirs(x[0]))


@needs_onednn
def test_onednn_is_used_only_for_large_eager_float32_products(onednn: None) -> None:
    x, W, _ = arguments(B)
    assert uses_onednn(x, W)
    assert not uses_onednn(x[:1], W)
    assert not uses_onednn(x.double(), W.double())
    assert not uses_onednn(x.bfloat16(), W.bfloat16())
    assert not uses_onednn(x.to("meta"), W.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not uses_onednn(x, W)
    seen = []
    torch.vmap(lambda v: seen.append(uses_onednn(v, W)) or v)(x.expand(2, B, I))
    torch.func.jvp(lambda v: seen.append(uses_onednn(v, W)) or v, (x,), (x,))
    with forward_ad.dual_level():
        seen.append(uses_onednn(forward_ad.make_dual(x, x), W))
    assert seen == [False] * 3


def test_vmap_and_jvp_work(onednn: None) -> None:
    x, W, b = (t.detach() for t in arguments(B))
    many = torch.randn(3, B, I)
    torch.testing.assert_close(
        torch.vmap(lambda v: linear(v, W, b))(many), nn.functional.linear(many, W, b), rtol=1e-5, atol=1e-4
    )
    _, tangent = torch.func.jvp(lambda v: linear(v, W, b), (x,), (many[0],))
    torch.testing.assert_close(tangent, many[0] @ W.T, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
def test_it_compiles_without_graph_breaks(onednn: None) -> None:
    layer = Dense(I, O)
    x = torch.randn(B, I)
    compiled = torch.compile(copy.deepcopy(layer), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x), rtol=1e-5, atol=1e-4)


def test_pytorch_reports_a_size_mismatch(onednn: None) -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Dense(I, O)(torch.randn(B, I + 1))


# ---------------------------------------------------------------------------------------------------- the MLP


def one_by_one(net: nn.Sequential) -> nn.Sequential:
    """Return a torch.nn.Sequential of the same layers."""
    return nn.Sequential(*(copy.deepcopy(layer) for layer in net))


def outputs_and_gradients(net: nn.Module, x: Tensor) -> list[Tensor]:
    """Return y, the gradients of x and the parameters, and those of a penalty on the gradient of x."""
    torch.manual_seed(1)
    y, inputs = net(x), [x, *net.parameters()]
    first = torch.autograd.grad(y.sin().sum(), inputs, retain_graph=True)
    (gx,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
    return [y, *first, *torch.autograd.grad(gx.square().sum(), inputs, allow_unused=True, materialize_grads=True)]


@needs_onednn
@pytest.mark.parametrize("hidden", [(8,), (8, 7), (192, 160)], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_mlp_agrees_with_its_layers_one_by_one(onednn: None, hidden: tuple[int, ...], dropout: float) -> None:
    net, x = mlp(5, 6, hidden, dropout=dropout), torch.randn(B, 9)[:, :5].requires_grad_()
    assert "MLPFunction" in type(net(x).grad_fn).__name__
    pairs = zip(outputs_and_gradients(net, x), outputs_and_gradients(one_by_one(net), x), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


@needs_onednn
@pytest.mark.parametrize("f", [Dense(I, O), mlp(I, 6, (192, 160))], ids=["linear", "mlp"])
def test_batched_gradients(onednn: None, f: nn.Module) -> None:
    x = torch.randn(B, I, requires_grad=True)
    y = f(x)
    many = torch.randn(3, *y.shape)
    batched = torch.autograd.grad(y, x, many, retain_graph=True, is_grads_batched=True)[0]
    each = torch.stack([torch.autograd.grad(y, x, g, retain_graph=True)[0] for g in many])
    torch.testing.assert_close(batched, each, rtol=1e-4, atol=1e-4)


def test_mlp_computes_gradients_only_where_required() -> None:
    net, x = mlp(5, 6, (8,)), torch.randn(B, 5)
    net[0].weight.requires_grad_(False)
    net(x).sum().backward()
    assert net[0].weight.grad is None
    torch.testing.assert_close(net[2].bias.grad, torch.full((6,), float(B)))


@pytest.mark.parametrize("activation", ["silu", "gelu", "tanh"])
def test_mlp_with_another_activation_runs_layer_by_layer(activation: str) -> None:
    net, x = mlp(5, 6, (8, 8), activation=activation), torch.randn(B, 5)
    torch.testing.assert_close(net(x), one_by_one(net)(x))


def test_slice_of_an_mlp_runs_layer_by_layer() -> None:
    net, x = mlp(5, 6, (8, 8)), torch.randn(B, 5)
    torch.testing.assert_close(net[:2](x), net[0](x).relu())


def test_mlp_supports_other_dtypes_shapes_and_transforms() -> None:
    net = mlp(5, 6, (8, 8))
    x = torch.randn(4, B, 5)
    torch.testing.assert_close(net(x), torch.stack([net(part) for part in x]))
    torch.testing.assert_close(torch.vmap(net)(x), net(x))
    torch.testing.assert_close(copy.deepcopy(net).double()(x[0].double()).float(), net(x[0]))


@pytest.mark.parametrize(("vendor", "family", "wide"), [("AuthenticAMD", 26, True), ("AuthenticAMD", 25, False)])
def test_onednn_is_faster_only_on_amd_with_full_width_avx512(
    vendor: str, family: int, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "processor", lambda: {"vendor_id": vendor, "cpu family": str(family)})
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    expected = wide and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    assert module.onednn_is_faster.__wrapped__() == expected


@needs_onednn
@pytest.mark.parametrize("threads", [1, 2])
def test_weight_gradients_agree_with_pytorch_on_any_number_of_threads(onednn: None, threads: int) -> None:
    g, x, before = torch.randn(B, O), torch.randn(B, I), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        gradient = module.weight_gradient(g, x)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(gradient, (g.double().T @ x.double()).float(), rtol=1e-4, atol=1e-4)
