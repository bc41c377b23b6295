"""The compiled kernels on a GPU: values and gradients against float64, CUDA graphs, torch.compile, large sizes.

tests/kernels checks the same properties in Triton's interpreter on any CPU; these tests check the machine code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import genbench_kernels
import pytest
import torch
from genbench_kernels.op import INTERPRETED, Example, Op, ops
from genbench_kernels.tolerance import excess
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from bench.cases import Case, build, cases
from bench.timing import without_collection

OPS = ops()
DRAWS = 8
EXAMPLES = [(name, example.name) for name, op in OPS.items() for example in op.examples("meta")]
for_each_example = pytest.mark.parametrize(("op", "name"), EXAMPLES, ids=["-".join(each) for each in EXAMPLES])
CASES = [case for case in cases(genbench_kernels, backend="fused", tiny=True) if "reparameterize" not in case.name]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@pytest.fixture(autouse=True)
def _on_a_gpu_or_interpreted(device: torch.device) -> None:
    if device.type == "cpu" and not INTERPRETED:
        pytest.skip("kernels run on a CPU only with TRITON_INTERPRET=1")


def example(op: str, name: str, device: torch.device, seed: int = 0) -> Arguments:
    """Return arguments and options of an op's example, random with a seed."""
    torch.manual_seed(seed)
    match: Example = next(e for e in OPS[op].examples(device.type) if e.name == name)
    return match.args, match.options


def fresh(value: Any, dtype: torch.dtype | None = None) -> Any:
    """Return a copy of arguments as new leaves with the same strides, floating point in `dtype` if given."""

    def copy(v: Any) -> Any:
        if isinstance(v, torch.dtype) and v.is_floating_point:
            return dtype or v
        if not isinstance(v, Tensor):
            return v
        target_dtype = dtype if dtype and v.is_floating_point() else v.dtype
        result = v.detach().to(target_dtype, copy=True)
        if 0 not in v.stride():
            result = torch.empty_strided(v.shape, v.stride(), dtype=target_dtype, device=v.device).copy_(result)
        return result.requires_grad_(v.requires_grad)

    return tree_map(copy, value)


def outcome(
    form: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any], gs: list[Tensor] | None = None
) -> list[Tensor | None]:
    """Return results and gradients of a call for the cotangents `gs`, by default `cotangents(results)`."""
    results = [t for t in tree_leaves(form(*args, **options)) if isinstance(t, Tensor)]
    leaves = [t for t in tree_leaves((args, options)) if isinstance(t, Tensor) and t.requires_grad]
    pairs = [(t, g) for t, g in zip(results, gs or cotangents(results), strict=True) if t.requires_grad]
    if not pairs:
        return [*results]
    outputs, gs = [t for t, _ in pairs], [g for _, g in pairs]
    return [*results, *torch.autograd.grad(outputs, leaves, gs, allow_unused=True)]


def cotangents(results: list[Tensor]) -> list[Tensor]:
    """Return fixed random tensors like the results, with the same values in every dtype."""
    torch.manual_seed(1)
    return [torch.randn(t.shape, device=t.device).bfloat16().to(t.dtype) for t in results]


def assert_within_tolerance(ours: list[Tensor | None], eager: list[Tensor | None], exact: list[Tensor | None]) -> None:
    """Assert the tolerance for each result and gradient (1e-12 if our dtype is float64)."""
    for a, b, c in zip(ours, eager, exact, strict=True):
        if a is None or b is None or c is None:
            assert a is b is c is None
        elif a.dtype == torch.float64:
            torch.testing.assert_close(a, c, rtol=1e-12, atol=1e-12)
        else:
            assert excess(a, b, c) <= 1


@for_each_example
def test_values_and_gradients_agree_with_float64(op: str, name: str, device: torch.device) -> None:
    draws = [example(op, name, device, seed) for seed in range(DRAWS)]
    forms = (OPS[op].fused, OPS[op].reference)
    ours, eager = (stack([outcome(form, *fresh(arguments)) for arguments in draws]) for form in forms)
    exact = stack([outcome(OPS[op].reference, *fresh(arguments, torch.float64)) for arguments in draws])
    assert_within_tolerance(ours, eager, exact)


def stack(outcomes: list[list[Tensor | None]]) -> list[Tensor | None]:
    """Return each result for all draws, so that eager's largest error is that of several draws.

    In a single draw eager may have no error by chance: sigma of a layer is just one number.
    """
    return [None if each[0] is None else torch.stack(each) for each in zip(*outcomes, strict=True)]


@for_each_example
def test_results_are_bitwise_reproducible(op: str, name: str, device: torch.device) -> None:
    first, second = (outcome(OPS[op].fused, *fresh(example(op, name, device))) for _ in range(2))
    assert_bitwise_equal(first, second)


def assert_bitwise_equal(first: list[Tensor | None], second: list[Tensor | None]) -> None:
    """Assert that all tensors are equal, with NaN equal to NaN."""
    for a, b in zip(first, second, strict=True):
        if a is None or b is None:
            assert a is b is None
        else:
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@for_each_example
def test_a_graph_replays_with_new_inputs(op: str, name: str, device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("CUDA graphs need a GPU")
    contract, static, new = OPS[op], fresh(example(op, name, device, 0)), example(op, name, device, 1)
    expected = outcome(contract.fused, *fresh(new))
    graph, outputs = capture(contract, static)
    for target, value in zip(tree_leaves(static), tree_leaves(new), strict=True):
        if isinstance(target, Tensor):
            target.detach().copy_(value.detach())
    graph.replay()
    torch.cuda.synchronize()
    assert_bitwise_equal(outputs, expected)


def capture(contract: Op, static: Arguments) -> tuple[torch.cuda.CUDAGraph, list[Tensor | None]]:
    """Return a CUDA graph of forward and backward on static arguments, and the tensors that its replay writes.

    No autograd graph may survive from before: it refers to another stream, for which a capture would have to wait.
    """
    gs, stream = cotangents(results_of(contract, static)), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            outcome(contract.fused, *static, gs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with without_collection(), torch.cuda.graph(graph):
        outputs = outcome(contract.fused, *static, gs)
    return graph, outputs


def results_of(contract: Op, arguments: Arguments) -> list[Tensor]:
    """Return the results of a call without gradients."""
    with torch.no_grad():
        return [t for t in tree_leaves(contract.fused(*arguments[0], **arguments[1])) if isinstance(t, Tensor)]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_compiled_and_graphed_calls_equal_eager_ones(case: Case, device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("Inductor compiles for the GPU here")
    eager, compiled, graphed = (build(case, name, device, 1) for name in ("ours", "ours, compiled", "ours, graph"))
    if "spectral" not in case.name:  # every call updates u and v
        for calls in (eager, compiled):
            calls.forward(0)
        for a, b in zip(eager.results[0], compiled.results[0], strict=True):
            torch.testing.assert_close(a, b)
        replayed: Any = graphed
        replayed.forward(0)
        torch.cuda.synchronize()
        for a, b in zip(eager.results[0], replayed.captured[0][2][0], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    for calls in (eager, compiled, graphed):
        for _ in range(3):
            calls.both(0)
    torch.cuda.synchronize()


def test_compiled_spectral_norm_follows_the_eager_one(device: torch.device) -> None:
    if device.type != "cuda" or "spectral_norm" not in OPS:
        pytest.skip("needs a GPU and the op")
    case = next(case for case in CASES if "spectral" in case.name)
    eager, compiled = (build(case, name, device, 1) for name in ("ours", "ours, compiled"))
    for _ in range(3):
        for calls in (eager, compiled):
            calls.forward(0)
        for a, b in zip(eager.results[0], compiled.results[0], strict=True):
            torch.testing.assert_close(a, b)


def test_compiled_samples_depend_on_the_key_only(device: torch.device) -> None:
    if device.type != "cuda" or "reparameterize" not in OPS:
        pytest.skip("needs a GPU and the op")
    from genbench_kernels import reparameterize

    mu, logvar = torch.randn(64, 32, device=device), torch.randn(64, 32, device=device)
    key = torch.tensor([7], device=device)
    compiled = torch.compile(reparameterize, fullgraph=True)
    for a, b in zip(reparameterize(mu, logvar, key), compiled(mu, logvar, key), strict=True):
        torch.testing.assert_close(a, b)


def test_coupling_of_more_than_two_billion_elements(device: torch.device) -> None:
    B, D = 2**18 + 3, 2**13  # offsets beyond 32 bits; rows are independent
    if device.type != "cuda" or torch.cuda.mem_get_info()[0] < 10 * B * D:
        pytest.skip("needs a GPU with 24 GB free")
    x = torch.randn(B, D, device=device, dtype=torch.bfloat16)
    params = torch.randn(B, 2 * D, device=device, dtype=torch.bfloat16)
    y, logdet = genbench_kernels.affine_coupling(x, params, scale="tanh")
    last = genbench_kernels.affine_coupling(x[-5:].clone(), params[-5:].clone(), scale="tanh")
    assert torch.equal(y[-5:], last[0])
    assert torch.equal(logdet[-5:], last[1])


@pytest.mark.parametrize("shape", [(64, 64, 32, 32), (3, 5, 1025), (7, 300001)], ids=str)
def test_large_couplings_agree_with_float64(shape: tuple[int, ...], device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("too large for the interpreter")
    torch.manual_seed(0)
    x, params = torch.randn(shape, device=device), torch.randn(shape[0], 2 * shape[1], *shape[2:], device=device)
    gain = torch.randn(shape[1], device=device)
    arguments: Arguments = (tuple(t.requires_grad_() for t in (x, params, gain)), {})

    def form(backend: str) -> Callable[..., Any]:
        return lambda x, p, g: genbench_kernels.affine_coupling(x, p, scale="tanh", gain=g, backend=backend)  # type: ignore[arg-type]

    eager, ours = (outcome(form(backend), *fresh(arguments)) for backend in ("reference", "fused"))
    assert_within_tolerance(ours, eager, outcome(form("reference"), *fresh(arguments, torch.float64)))


@pytest.mark.parametrize("shape", [(2048, 2048), (3, 5001)], ids=str)
def test_large_samples_agree_with_float64(shape: tuple[int, ...], device: torch.device) -> None:
    if device.type != "cuda" or "reparameterize" not in OPS:
        pytest.skip("needs a GPU and the op")
    torch.manual_seed(0)
    tensors = (torch.randn(shape, device=device).requires_grad_() for _ in range(2))
    arguments: Arguments = ((*tensors, torch.tensor([11], device=device)), {})

    def form(backend: str) -> Callable[..., Any]:
        return lambda mu, lv, key: genbench_kernels.reparameterize(mu, lv, key, backend=backend)  # type: ignore[arg-type]

    eager, ours = (outcome(form(backend), *fresh(arguments)) for backend in ("reference", "fused"))
    assert_within_tolerance(ours, eager, outcome(form("reference"), *fresh(arguments, torch.float64)))
