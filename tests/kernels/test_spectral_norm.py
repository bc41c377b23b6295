"""Spectral normalization: the kernels, run by Triton's interpreter, against float64; layers against torch and SVD."""

from __future__ import annotations

import copy
import pickle
import shutil
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from genbench_kernels import explain, remove_spectral_norm_, spectral_norm_
from genbench_kernels.op import jit, launch, tl, trace
from genbench_kernels.spectral_norm import OP, Mode, Order, fused, kernels, matrix, reference
from genbench_kernels.spectral_norm.autograd import backward_op, forward_op
from genbench_kernels.spectral_norm.plan import LayerRow
from genbench_kernels.spectral_norm.reference import power_iteration_op
from genbench_kernels.tolerance import excess
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.nn.utils import parametrizations, parametrize

ORDERS: tuple[Order, ...] = ("torch", "legacy")
MODES: tuple[Mode, ...] = ("weight", "sigma")


def legacy(layer: nn.Module, **options: Any) -> nn.Module:
    """Return the layer under torch's older, deprecated hook."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.spectral_norm(layer, **options)


TORCH: dict[Order, Callable[..., nn.Module]] = {"torch": parametrizations.spectral_norm, "legacy": legacy}


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Return a small network (B, 3, 4, 4) -> (B, 2) of all kinds of layers: aligned, unaligned, transposed, linear."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.LeakyReLU(0.1), nn.ConvTranspose2d(6, 4, 4, 2, 1), nn.LeakyReLU(0.1),
        nn.Conv2d(4, 8, 4, 2, 1), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(128, 2),
    ).to(dtype)  # fmt: skip


def normalized_by_torch(order: Order, **options: Any) -> nn.Sequential:
    net = network(**options)
    for layer in net:
        if hasattr(layer, "weight"):
            TORCH[order](layer)
    return net


def network_pair(order: Order, dtype: torch.dtype = torch.float32, **options: Any) -> tuple[nn.Module, nn.Module]:
    """Return our network and torch's, with the same weights, u and v."""
    torch.manual_seed(1)
    theirs = normalized_by_torch(order, dtype=dtype)
    ours = spectral_norm_(network(dtype), order=order, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


# ------------------------------------------------------------------------------------------- against float64


def inputs(shape: tuple[int, ...], dim: int = 0, layers: int = 12, dtype: torch.dtype = torch.float32) -> Any:
    """Return weights, us, vs and dims of several layers, enough for eager's largest error to be typical."""
    torch.manual_seed(sum(shape))
    weights = torch.randn(layers, *shape).to(dtype)
    h, w = matrix(weights[0], dim).shape
    us, vs = (nn.functional.normalize(torch.randn(layers, n), dim=1).to(dtype) for n in (h, w))
    reference(weights, us, vs, (dim,) * layers, n_iter=3)  # with random u and v, u^T W v is near 0 and inaccurate
    return weights, us, vs, (dim,) * layers


def run(form: Any, weights: Tensor, us: Tensor, vs: Tensor, dims: Any, dtype: Any, **options: Any) -> list[Tensor]:
    """Return outputs, us, vs and gradients of the weights for a fixed random cotangent, each for all layers."""
    leaves = [w.to(dtype, copy=True).requires_grad_() for w in weights]
    us, vs = us.to(dtype, copy=True), vs.to(dtype, copy=True)
    outputs = form(leaves, list(us), list(vs), dims, **options)
    torch.manual_seed(0)
    cotangents = [torch.randn(o.shape).bfloat16().to(o) for o in outputs]  # the same values in every dtype
    gradients = torch.autograd.grad(outputs, leaves, cotangents)
    return [torch.stack(outputs), us, vs, torch.stack(gradients)]


def assert_within_tolerance(args: Any, **options: Any) -> None:
    """Assert the tolerance of values, u, v and gradients of the kernels."""
    dtype = args[0].dtype
    exact = run(reference, *args, torch.float64, **options)
    eager, ours = (run(form, *args, dtype, **options) for form in (reference, fused))
    for name, a, b, c in zip(("outputs", "u", "v", "gradients"), ours, eager, exact, strict=True):
        assert excess(a.to(dtype), b, c) <= 1, name


SHAPES = {
    "1": (1, 1),
    "7": (7, 7),
    "100": (100, 100),
    "blocks": (9, 1100),
    "tall": (140, 3),
    "channels": (12, 5, 4, 4),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mode", MODES)
def test_values_and_gradients_agree_with_float64(shape: tuple[int, ...], order: Order, mode: Mode) -> None:
    assert_within_tolerance(inputs(shape, layers=32 if max(shape) < 10 else 4), order=order, mode=mode)


@pytest.mark.parametrize("n_iter", [0, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_zero_and_three_iterations(n_iter: int, order: Order) -> None:
    assert_within_tolerance(inputs((20, 36)), order=order, n_iter=n_iter)


@pytest.mark.parametrize("shape", [(4, 12, 4, 4), (5, 7, 3)])
@pytest.mark.parametrize("order", ORDERS)
def test_the_output_dimension_may_be_the_second(shape: tuple[int, ...], order: Order) -> None:
    assert_within_tolerance(inputs(shape, dim=1), order=order)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_adds_only_rounding_errors(dtype: torch.dtype) -> None:
    assert_within_tolerance(inputs((24, 40), dtype=dtype))


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_squares_neither_underflow_nor_overflow(scale: float) -> None:
    weights, us, vs, dims = inputs((16, 24), layers=2)
    plain, *_ = run(fused, weights, us, vs, dims, torch.float32)
    scaled, *_ = run(fused, weights * scale, us, vs, dims, torch.float32, eps=1e-30)
    torch.testing.assert_close(scaled, plain)


@given(
    st.lists(st.tuples(*[st.integers(1, 5)] * 3), min_size=1, max_size=4),
    st.integers(0, 1),
    st.sampled_from(ORDERS),
    st.floats(0.01, 100),
)
@settings(max_examples=8, derandomize=True, deadline=None)
def test_scaling_the_weights_changes_only_sigma(shapes: Any, dim: int, order: Order, c: float) -> None:
    torch.manual_seed(0)
    weights = [torch.randn(s, dtype=torch.float64) for s in shapes]
    starts = [torch.randn(n, dtype=torch.float64) for w in weights for n in matrix(w, dim).shape]
    starts = [v / v.norm() for v in starts]
    results = []
    for factor in (1.0, c):
        us, vs = ([v.clone() for v in starts[k::2]] for k in (0, 1))
        scaled = [factor * w for w in weights]
        results.append([*fused(scaled, us, vs, (dim,) * len(shapes), order=order, n_iter=2), *us, *vs])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", [fused, reference])
def test_derivatives_match_finite_differences(order: Order, mode: Mode, form: Any) -> None:
    torch.manual_seed(0)
    shapes, dims = ((2, 2), (2, 1, 2)), (0, 1)
    weights = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    sizes = [matrix(w, dim).shape for w, dim in zip(weights, dims, strict=True)]
    us, vs = ([torch.randn(size[k], dtype=torch.float64) for size in sizes] for k in (0, 1))

    def call(*ws: Tensor) -> tuple[Tensor, ...]:
        return tuple(form(ws, us, vs, dims, order=order, mode=mode, n_iter=0))

    assert torch.autograd.gradcheck(call, weights)
    assert torch.autograd.gradgradcheck(call, weights)


def test_results_are_bitwise_reproducible() -> None:
    args = inputs((30, 50))
    first, second = (run(fused, *args, torch.float32) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_strided_weights() -> None:
    weights, us, vs, dims = inputs((6, 4, 3, 3), layers=3)
    strided = weights.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    for ours, plain in zip(
        run(fused, strided, us, vs, dims, torch.float32), run(fused, weights, us, vs, dims, torch.float32), strict=True
    ):
        assert torch.equal(ours, plain)


# ------------------------------------------------------------------------------------------ against torch


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_training_matches_torch(order: Order, backend: Any) -> None:
    ours, theirs = network_pair(order, torch.float64, backend=backend)
    for step in range(5):
        torch.manual_seed(step)
        x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
        for net in (ours, theirs):
            net.zero_grad()
            y = net(x)
            (y.square().sum() + y.sum()).backward()
        for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, msg=name)
        for net in (ours, theirs):
            with torch.no_grad():
                for p in net.parameters():
                    p -= 0.1 * p.grad
        state = theirs.state_dict()
        for name, a in ours.state_dict().items():
            torch.testing.assert_close(a, state[name], msg=name)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mode", MODES)
def test_checkpoints_are_exchangeable_with_torch(order: Order, mode: Mode) -> None:
    x = torch.randn(2, 3, 4, 4)
    theirs = normalized_by_torch(order)
    ours = spectral_norm_(network(), order=order, mode=mode)
    for net in (ours, theirs):
        with torch.no_grad():
            net(x)
        net.eval()
    for source, target in ((ours, theirs), (theirs, ours)):
        assert not any(target.load_state_dict(source.state_dict()))
        torch.testing.assert_close(source(x), target(x), rtol=1e-4, atol=1e-5)


def test_initialization_matches_torch() -> None:
    torch.manual_seed(7)
    theirs = parametrizations.spectral_norm(nn.Linear(5, 4))
    torch.manual_seed(7)
    ours = spectral_norm_(nn.Linear(5, 4))
    state = theirs.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in ours.state_dict().items())


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_two_forwards_may_precede_one_backward(order: Order, backend: Any) -> None:
    ours, theirs = network_pair(order, torch.float64, backend=backend)
    real, fake = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    gradients = []
    for net in (ours, theirs):
        loss = (net(real) - net(fake)).square().sum()
        gradients.append(torch.autograd.grad(loss, list(net.parameters())))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mode", MODES)
def test_gradient_penalties_differentiate_twice(order: Order, mode: Mode) -> None:
    ours, theirs = network_pair(order, torch.float64, mode=mode, backend="fused")
    gradients = []
    for net in (ours, theirs):
        torch.manual_seed(0)
        x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
        penalty = (slope.flatten(1).norm(dim=1) - 1).square().sum()
        gradients.append(torch.autograd.grad(penalty, [p for n, p in net.named_parameters() if "7.bias" not in n]))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_eval_mode_does_not_update_u_and_v(order: Order, backend: Any) -> None:
    ours, theirs = network_pair(order, backend=backend)
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(ours(x), ours(x))
    assert all(torch.equal(v, before[k]) for k, v in ours.state_dict().items())
    ours.train()(x)
    updated = {k for k, v in ours.state_dict().items() if not torch.equal(v, before[k])}
    assert updated == {name for name, _ in ours.named_buffers()}


# ------------------------------------------------------------------------------------------------- properties


def weight_of(layer: Any, order: Order) -> Tensor:
    """Return the normalized weight: the one last used, or, for order="torch", a new one without update."""
    return layer.eval().weight if order == "torch" else layer.weight


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("order", ORDERS)
def test_many_iterations_converge_to_the_largest_singular_value(order: Order, backend: Any) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(9, 5), nn.Conv1d(3, 4, 3), nn.ConvTranspose2d(3, 5, 2)]
    before = [layer.weight.detach().double() for layer in layers]
    spectral_norm_(layers, n_iter=20, order=order, backend=backend)
    for x, layer in zip((torch.ones(1, 9), torch.ones(1, 3, 4), torch.ones(1, 3, 2, 2)), layers, strict=True):
        layer(x)
    for layer, w, dim in zip(layers, before, (0, 0, 1), strict=True):
        exact = w / torch.linalg.matrix_norm(matrix(w, dim), 2)
        torch.testing.assert_close(weight_of(layer, order).double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_a_normalized_network_is_1_lipschitz(mode: Mode) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 3))
    for p in net.parameters():
        p.data *= 5
    spectral_norm_(net, n_iter=200, mode=mode)
    net(torch.randn(1, 6))
    x, y = 10 * torch.randn(2, 500, 6)
    with torch.no_grad():
        ratio = (net(x) - net(y)).norm(dim=1) / (x - y).norm(dim=1)
    assert 0.05 < ratio.max() <= 1 + 1e-5


@pytest.mark.parametrize("order", ORDERS)
def test_dividing_the_input_equals_dividing_the_weight(order: Order) -> None:
    by_weight, by_input = (network_pair(order, torch.float64, mode=mode, backend="fused")[0] for mode in MODES)
    x, results = torch.randn(2, 3, 4, 4, dtype=torch.float64), []
    for net in (by_weight, by_input):
        y = net(x)
        results.append([y, *torch.autograd.grad(y.square().sum(), list(net.parameters())), *net.buffers()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


# ------------------------------------------------------------------------------------------------- passes


def u_of(layer: Any) -> Tensor:
    return layer.parametrizations.weight[0]._u.clone()


def test_layers_are_updated_together_once_per_pass() -> None:
    net = spectral_norm_(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)))
    first, second = net
    before = [u_of(layer) for layer in net]
    h = first(torch.randn(3, 6))
    after = [u_of(layer) for layer in net]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    second(h)
    assert all(torch.equal(u_of(layer), u) for layer, u in zip(net, after, strict=True))
    second(h)  # its weight of this pass is already used
    assert not any(torch.equal(u_of(layer), u) for layer, u in zip(net, after, strict=True))


def test_a_layer_in_eval_mode_does_not_affect_the_others() -> None:
    net = spectral_norm_(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)))
    theirs = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3))
    for layer in theirs:
        parametrizations.spectral_norm(layer)
    theirs.load_state_dict(net.state_dict())
    x = torch.randn(3, 6)
    for each in (net, theirs):
        each[1].eval()
        each(x)
    state = theirs.state_dict()
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, state[name], msg=name)


def test_a_weight_that_changed_is_normalized_again() -> None:
    net = spectral_norm_(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)), n_iter=100)
    net[0](torch.randn(3, 6))
    with torch.no_grad():
        net[1].parametrizations.weight.original.copy_(torch.eye(4, 5))
    torch.testing.assert_close(net[1].weight, torch.eye(4, 5))


def test_layers_may_be_differentiated_one_by_one() -> None:
    net = spectral_norm_(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)), backend="fused")
    h = net[0](torch.randn(3, 6))
    y = net[1](h.detach())
    for out, layer in ((h, net[0]), (y, net[1])):
        out.square().sum().backward()
        assert layer.parametrizations.weight.original.grad.abs().sum() > 0


def test_modifying_a_weight_before_backward_is_an_error() -> None:
    net = spectral_norm_(nn.Linear(3, 2), backend="fused")
    loss = net(torch.randn(1, 3)).sum()
    with torch.no_grad():
        net.parametrizations.weight.original.mul_(2)
    with pytest.raises(RuntimeError, match="modified"):
        loss.backward()


def test_frozen_layers_get_no_gradient() -> None:
    net = spectral_norm_(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)), backend="fused")
    net[0].requires_grad_(False)
    net(torch.randn(3, 6)).sum().backward()
    assert net[0].parametrizations.weight.original.grad is None
    assert net[1].parametrizations.weight.original.grad is not None


def test_layers_of_several_dtypes() -> None:
    net = spectral_norm_(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4).double()), n_iter=25, backend="fused")
    w, v = (layer.weight for layer in net)
    assert (w.dtype, v.dtype) == (torch.float32, torch.float64)
    assert all(abs(torch.linalg.matrix_norm(m.double(), 2) - 1) < 1e-4 for m in (w, v))


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_copies_are_independent(clone: Any) -> None:
    net = spectral_norm_(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)), order="legacy")
    other = clone(net)
    before = net[0].weight_u.clone()
    other(torch.randn(3, 6))
    assert torch.equal(net[0].weight_u, before)
    assert not torch.equal(other[0].weight_u, before)


def test_torch_can_remove_the_parametrization() -> None:
    net = spectral_norm_(nn.Linear(6, 5), n_iter=100)
    parametrize.remove_parametrizations(net, "weight")
    assert torch.linalg.matrix_norm(net.weight, 2).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_removing_one_layer_leaves_the_others_as_in_torch(backend: Any, training: bool) -> None:
    """Layer 2 of a group gets its normalized weight; the others are updated and trained as torch's are."""
    ours, theirs = (net.train(training) for net in network_pair("torch", torch.float64, backend=backend))
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    for net in (ours, theirs):
        net(x)
        parametrize.remove_parametrizations(net[2], "weight")
    torch.testing.assert_close(ours[2].weight, theirs[2].weight)
    # accessing the weight updated u and v of one layer in torch, of all in ours: make them equal again
    ours.load_state_dict(theirs.state_dict())
    for _ in range(3):
        outputs = []
        for net in (ours, theirs):
            net.zero_grad()
            outputs.append(net(x))
            outputs[-1].square().sum().backward()
        torch.testing.assert_close(*outputs)
        for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, msg=name)
    state = theirs.state_dict()
    assert set(state) == set(ours.state_dict())
    for name, a in ours.state_dict().items():
        torch.testing.assert_close(a, state[name], msg=name)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("index", [0, 2, None])
def test_removal_does_not_change_the_function(order: Order, mode: Mode, index: int | None) -> None:
    """After removal from one layer or all, outputs are the same and only the other layers are normalized."""
    net, x = spectral_norm_(network(torch.float64), order=order, mode=mode), torch.randn(2, 3, 4, 4).double()
    net(x)
    net.eval()
    before = net(x)
    remove_spectral_norm_(net if index is None else [net[index]])
    torch.testing.assert_close(net(x), before)
    removed = [net[0], net[2], net[4], net[7]] if index is None else [net[index]]
    for layer in removed:
        assert set(layer.state_dict()) == {"weight", "bias"}
        assert isinstance(layer.weight, nn.Parameter)
        assert not layer._forward_pre_hooks
    if index is None:
        network(torch.float64).load_state_dict(net.state_dict())
    net.train()(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    spectral_norm_(removed)  # they can be normalized again
    net(x)


@pytest.mark.parametrize("mode", MODES)
def test_layers_can_be_removed_before_the_first_pass_and_one_by_one(mode: Mode) -> None:
    net, x = spectral_norm_(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)), mode=mode), torch.randn(3, 6)
    parametrize.remove_parametrizations(net[0], "weight")
    u = net[1].parametrizations.weight[0]._u.clone()
    net(x).sum().backward()
    assert not torch.equal(net[1].parametrizations.weight[0]._u, u)
    torch.testing.assert_close(net[0](x), nn.functional.linear(x, net[0].weight, net[0].bias))
    parametrize.remove_parametrizations(net[1], "weight")
    torch.testing.assert_close(net(x), nn.functional.linear(net[0](x), net[1].weight, net[1].bias))


def test_removing_from_a_plain_layer_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"none of .*Linear.* is under spectral_norm_"):
        remove_spectral_norm_(nn.Linear(3, 2))


# ----------------------------------------------------------------------------------------------- torch.compile


def difference(net: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return (net(real) - net(fake)).square().sum()


def assert_trains_as_in_eager(build: Callable[..., nn.Module], backend: Any, compiler: Any) -> None:
    """Assert that three steps of gradient descent, compiled once and without breaks, match the reference in eager."""
    eager, net = build(backend="reference"), build(backend=backend)
    net.load_state_dict(eager.state_dict())
    compiled = torch.compile(difference, fullgraph=True, backend=compiler, dynamic=True)
    for step in range(3):
        results, pair = [], [torch.randn(2 + step, 3, 4, 4, dtype=torch.float64) for _ in range(2)]
        for call, owner in ((difference, eager), (compiled, net)):
            loss, parameters = call(owner, *pair), list(owner.parameters())
            slopes = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for p, g in zip(parameters, slopes, strict=True):
                    p -= 0.1 * g
            results.append([loss, *slopes, *owner.buffers()])
        for ours, plain in zip(*results, strict=True):
            torch.testing.assert_close(ours, plain)


CASES = [("fused", order, mode, True) for order in ORDERS for mode in MODES]
CASES += [("reference", order, "weight", True) for order in ORDERS]
CASES += [("fused", order, "weight", False) for order in ORDERS]


@torch._dynamo.config.patch(error_on_recompile=True)
@pytest.mark.parametrize(("backend", "order", "mode", "training"), CASES)
def test_compiled_networks_train_as_in_eager(backend: Any, order: Order, mode: Mode, training: bool) -> None:
    torch._dynamo.reset()

    def build(**options: Any) -> nn.Module:
        net = spectral_norm_(network(torch.float64), order=order, mode=mode, **options)
        with torch.no_grad():
            net(torch.zeros(1, 3, 4, 4, dtype=torch.float64))
        return net.train(training)

    assert_trains_as_in_eager(build, backend, "aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_inductor_trains_as_eager(backend: Any) -> None:
    torch._dynamo.reset()

    def build(**options: Any) -> nn.Module:
        net = nn.Sequential(nn.ConvTranspose2d(3, 4, 4, 2, 1), nn.Flatten(), nn.Linear(256, 2)).double()
        return spectral_norm_(net, order="legacy", **options)

    assert_trains_as_in_eager(build, backend, "inductor")


@pytest.mark.parametrize("mode", MODES)
def test_registered_ops_pass_opcheck(mode: Mode) -> None:
    weights, us, vs, dims = ([*values] for values in inputs((3, 4, 2), dim=1, layers=2))
    leaves = [w.clone().requires_grad_() for w in weights]
    uv, sigmas, outs = forward_op(weights, us, vs, dims, "torch", 1e-12, 1, mode)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")  # the padding of uv is not initialized
    torch.library.opcheck(forward_op, (leaves, us, vs, dims, "torch", 1e-12, 1, mode), test_utils=checks)
    torch.library.opcheck(power_iteration_op, (weights, us, vs, dims, "torch", 1e-12, 1))
    torch.library.opcheck(backward_op, (outs or [sigmas], weights, uv, sigmas, dims, "torch", mode))


def test_a_compiled_pass_is_one_op_and_one_copy() -> None:
    graphs: list[list[str]] = []

    def record_graph(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    net = spectral_norm_(network(), backend="fused")
    compiled = torch.compile(net, fullgraph=True, backend=aot_autograd(fw_compiler=record_graph))
    compiled(torch.randn(2, 3, 4, 4)).sum().backward()
    names = ("genbench", "_foreach_copy")
    counts = [[sum(name in target for target in targets) for name in names] for targets in graphs]
    assert counts == [[1, 1], [1, 0]]  # forward, backward


def test_layers_compiled_separately_start_separate_passes() -> None:
    torch._dynamo.reset()
    net = spectral_norm_(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)), n_iter=50)
    first, second = (torch.compile(layer, fullgraph=True, backend="aot_eager") for layer in net)
    for _ in range(2):
        first(torch.randn(3, 6))
        with torch.no_grad():
            net[1].parametrizations.weight.original.copy_(3 * torch.eye(4, 5))
        torch.testing.assert_close(second(torch.eye(5)) - net[1].bias, torch.eye(5, 4))
    net[0](torch.randn(3, 6)).sum().backward()  # eager does not use values left over from a graph


# ------------------------------------------------------------------------------------------ costs and errors


def discriminator() -> nn.Sequential:
    """Return the discriminator of DCGAN (2016) for 64 x 64 pixels."""
    widths = (3, 64, 128, 256, 512)
    layers = [nn.Conv2d(a, b, 4, 2, 1, bias=False) for a, b in pairwise(widths)]
    return nn.Sequential(*layers, nn.Conv2d(512, 1, 4, bias=False))


@pytest.mark.parametrize(
    ("options", "launches", "passes"),
    [
        ({}, (3, 2), (3.30, 4.01)),
        ({"order": "legacy"}, (3, 2), (3.10, 4.01)),
        ({"mode": "sigma"}, (4, 2), (1.30, 1.01)),
        ({"n_iter": 3}, (7, 2), (5.85, 4.02)),
    ],
)
def test_launches_and_bytes_match_the_docstring(
    options: Any, launches: tuple[int, int], passes: tuple[float, float]
) -> None:
    net = discriminator()
    cost = explain(spectral_norm_, net, **options)
    assert cost.backward is not None
    assert (cost.forward.launches, cost.backward.launches) == launches
    size = sum(p.numel() * 4 for p in net.parameters())
    assert cost.forward.bytes <= passes[0] * size
    assert cost.backward.bytes <= passes[1] * size
    assert (cost.op, cost.backend) == ("spectral_norm", "reference")
    assert cost.reference_forward.launches > 20


@jit
def read_row(table, layer, out):  # type: ignore[no-untyped-def]
    tl.store(out, kernels._height(table, layer))
    tl.store(out + 1, kernels._width(table, layer))
    tl.store(out + 2, kernels._inner(table, layer))
    tl.store(out + 3, kernels._u_start(table, layer))
    tl.store(out + 4, kernels._v_start(table, layer))
    tl.store(out + 5, kernels._parts_start(table, layer))
    tl.store(out + 6, kernels._first_block(table, layer))
    tl.store(out + 7, kernels._aligned(table, layer))
    tl.store(out + 8, kernels._first_chunk(table, layer))
    tl.store(out + 9, kernels._chunks(table, layer))


def test_kernels_read_the_columns_that_the_plan_writes() -> None:
    columns = ("height", "width", "inner", "u_start", "v_start", "parts_start", "first_block", "aligned", "first_chunk")
    assert LayerRow._fields == (*columns, "chunks")
    table, row = torch.arange(30, dtype=torch.int32), torch.zeros(10, dtype=torch.int32)
    launch(read_row, (1,), table, 2, row)
    assert row.tolist() == list(range(20, 30))


@pytest.mark.parametrize("example", list(OP.examples("cpu")), ids=lambda e: e.name)
def test_examples_run(example: Any) -> None:
    with torch.no_grad():
        assert all(o.isfinite().all() for o in OP.fused(*example.args, **example.options))
    forward, backward = trace(OP.fused, *next(e for e in OP.examples("meta") if e.name == example.name).args)
    assert len(forward) <= 7
    assert len(backward) <= 2


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: spectral_norm_(nn.ReLU()), "ReLU has no parameter `weight`"),
        (lambda: spectral_norm_(nn.BatchNorm2d(3)), r"BatchNorm2d must be.*\(3,\)"),
        (lambda: spectral_norm_([]), "one or more distinct layers"),
        (lambda: spectral_norm_(spectral_norm_(nn.Linear(2, 2))), "only once"),
        (lambda: spectral_norm_(spectral_norm_(nn.Linear(2, 2), order="legacy")), "only once"),
        (lambda: spectral_norm_(nn.Linear(2, 2), order="other"), "order must be.*'other'"),
        (lambda: spectral_norm_(nn.Linear(2, 2), mode="other"), "mode.*'other'"),
        (lambda: spectral_norm_(nn.Embedding(2, 2), mode="sigma"), "Embedding"),
        (lambda: spectral_norm_(nn.Linear(2, 2), n_iter=0), "n_iter"),
        (lambda: spectral_norm_(nn.Linear(2, 2), backend="other"), "backend"),
        (lambda: spectral_norm_(nn.LazyLinear(2)), "shape is not known yet"),
    ],
)
def test_errors_name_the_invalid_arguments(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_an_embedding_can_be_normalized() -> None:
    layer = spectral_norm_(nn.Embedding(6, 3), n_iter=100)
    layer(torch.zeros(1, dtype=torch.long))
    assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1, abs=1e-5)
