"""The kernels on a GPU, compiled: values and gradients against float64 there, CUDA graphs, torch.compile, large sizes.

The same claims are checked on any CPU by tests/kernels, interpreted; here it is the machine code that answers.
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
each_example = pytest.mark.parametrize(("op", "name"), EXAMPLES, ids=["-".join(each) for each in EXAMPLES])
CASES = [case for case in cases(genbench_kernels, backend="fused", tiny=True) if "reparameterize" not in case.name]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@pytest.fixture(autouse=True)
def _on_a_gpu_or_interpreted(device: torch.device) -> None:
    if device.type == "cpu" and not INTERPRETED:
        pytest.skip("kernels run on a CPU only with TRITON_INTERPRET=1")


def example(op: str, name: str, device: torch.device, seed: int = 0) -> Arguments:
    """Return arguments and options of an op's example, drawn with a seed."""
    torch.manual_seed(seed)
    found: Example = next(e for e in OPS[op].examples(device.type) if e.name == name)
    return found.args, found.options


def fresh(value: Any, dtype: torch.dtype | None = None) -> Any:
    """Return a copy of arguments as leaves of their own (strides kept), what is floating point in `dtype` if given."""

    def copied(v: Any) -> Any:
        if isinstance(v, torch.dtype) and v.is_floating_point:
            return dtype or v
        if not isinstance(v, Tensor):
            return v
        to = dtype if dtype and v.is_floating_point() else v.dtype
        copy = v.detach().to(to, copy=True)
        if 0 not in v.stride():
            copy = torch.empty_strided(v.shape, v.stride(), dtype=to, device=v.device).copy_(copy)
        return copy.requires_grad_(v.requires_grad)

    return tree_map(copied, value)


def outcome(
    form: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any], given: list[Tensor] | None = None
) -> list[Tensor | None]:
    """Return results and gradients of a call under `given` cotangents, by default those of `cotangents`."""
    results = [t for t in tree_leaves(form(*args, **options)) if isinstance(t, Tensor)]
    wanted = [t for t in tree_leaves((args, options)) if isinstance(t, Tensor) and t.requires_grad]
    pairs = [(t, g) for t, g in zip(results, given or cotangents(results), strict=True) if t.requires_grad]
    if not pairs:
        return [*results]
    grown, gs = [t for t, _ in pairs], [g for _, g in pairs]
    return [*results, *torch.autograd.grad(grown, wanted, gs, allow_unused=True)]


def cotangents(results: list[Tensor]) -> list[Tensor]:
    """Return fixed random tensors like the results: the same numbers in every dtype."""
    torch.manual_seed(1)
    return [torch.randn(t.shape, device=t.device).bfloat16().to(t.dtype) for t in results]


def agree(ours: list[Tensor | None], eager: list[Tensor | None], exact: list[Tensor | None]) -> None:
    """Assert the tolerance rule for each result and gradient (1e-12 where float64 itself is computed)."""
    for mine, theirs, truth in zip(ours, eager, exact, strict=True):
        if mine is None or theirs is None or truth is None:
            assert mine is theirs is truth is None
        elif mine.dtype == torch.float64:
            torch.testing.assert_close(mine, truth, rtol=1e-12, atol=1e-12)
        else:
            assert excess(mine, theirs, truth) <= 1


@each_example
def test_values_and_gradients_agree_with_float64(op: str, name: str, device: torch.device) -> None:
    drawn = [example(op, name, device, seed) for seed in range(DRAWS)]
    forms = (OPS[op].fused, OPS[op].reference)
    ours, eager = (stacked([outcome(form, *fresh(arguments)) for arguments in drawn]) for form in forms)
    agree(ours, eager, stacked([outcome(forms[1], *fresh(arguments, torch.float64)) for arguments in drawn]))


def stacked(outcomes: list[list[Tensor | None]]) -> list[Tensor | None]:
    """Return each result over all draws: eager's own error is its largest over them, as of one it may be none by luck.

    (A layer's sigma is one number: where eager rounds it the right way, hardly anything else would be right.)
    """
    return [None if each[0] is None else torch.stack(each) for each in zip(*outcomes, strict=True)]


@each_example
def test_again_is_the_same_to_the_bit(op: str, name: str, device: torch.device) -> None:
    first, second = (outcome(OPS[op].fused, *fresh(example(op, name, device))) for _ in range(2))
    same(first, second)


def same(first: list[Tensor | None], second: list[Tensor | None]) -> None:
    """Assert equality to the bit, NaN being equal to NaN."""
    for one, other in zip(first, second, strict=True):
        if one is None or other is None:
            assert one is other is None
        else:
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@each_example
def test_a_graph_replays_with_new_inputs(op: str, name: str, device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("CUDA graphs need a GPU")
    contract, static, after = OPS[op], fresh(example(op, name, device, 0)), example(op, name, device, 1)
    expected = outcome(contract.fused, *fresh(after))
    graph, filled = captured(contract, static)
    for to, value in zip(tree_leaves(static), tree_leaves(after), strict=True):
        if isinstance(to, Tensor):
            to.detach().copy_(value.detach())
    graph.replay()
    torch.cuda.synchronize()
    same(filled, expected)


def captured(contract: Op, static: Arguments) -> tuple[torch.cuda.CUDAGraph, list[Tensor | None]]:
    """Return a graph of forward and backward on static arguments, and the tensors that its replay fills.

    No graph of autograd's from before may live on: it knows another stream, for which a capture would have to wait.
    """
    given, stream = cotangents(results_of(contract, static)), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            outcome(contract.fused, *static, given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with without_collection(), torch.cuda.graph(graph):
        filled = outcome(contract.fused, *static, given)
    return graph, filled


def results_of(contract: Op, arguments: Arguments) -> list[Tensor]:
    """Return the results of a call, which autograd knows nothing of."""
    with torch.no_grad():
        return [t for t in tree_leaves(contract.fused(*arguments[0], **arguments[1])) if isinstance(t, Tensor)]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_compiled_and_graphed_calls_are_the_eager_one(case: Case, device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("Inductor compiles for the GPU here")
    eager, compiled, graphed = (build(case, name, device, 1) for name in ("ours", "ours, compiled", "ours, graph"))
    if "spectral" not in case.name:  # each call of it moves u and v on
        for calls in (eager, compiled):
            calls.forward(0)
        for one, other in zip(eager.results[0], compiled.results[0], strict=True):
            torch.testing.assert_close(one, other)
        replayed: Any = graphed
        replayed.forward(0)
        torch.cuda.synchronize()
        for one, other in zip(eager.results[0], replayed.captured[0][2][0], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
    for calls in (eager, compiled, graphed):
        for _ in range(3):
            calls.both(0)
    torch.cuda.synchronize()


def test_compiled_spectral_norm_walks_with_the_eager_one(device: torch.device) -> None:
    if device.type != "cuda" or "spectral_norm" not in OPS:
        pytest.skip("needs a GPU and the op")
    case = next(case for case in CASES if "spectral" in case.name)
    eager, compiled = (build(case, name, device, 1) for name in ("ours", "ours, compiled"))
    for _ in range(3):
        for calls in (eager, compiled):
            calls.forward(0)
        for one, other in zip(eager.results[0], compiled.results[0], strict=True):
            torch.testing.assert_close(one, other)


def test_compiled_samples_are_those_of_their_key(device: torch.device) -> None:
    if device.type != "cuda" or "reparameterize" not in OPS:
        pytest.skip("needs a GPU and the op")
    from genbench_kernels import reparameterize

    mu, logvar = torch.randn(64, 32, device=device), torch.randn(64, 32, device=device)
    key = torch.tensor([7], device=device)
    compiled = torch.compile(reparameterize, fullgraph=True)
    for one, other in zip(reparameterize(mu, logvar, key), compiled(mu, logvar, key), strict=True):
        torch.testing.assert_close(one, other)


def test_coupling_past_two_thousand_million_elements(device: torch.device) -> None:
    B, D = 2**18 + 3, 2**13  # offsets beyond 32 bits; a row depends on itself alone
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
    agree(ours, eager, outcome(form("reference"), *fresh(arguments, torch.float64)))


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
    agree(ours, eager, outcome(form("reference"), *fresh(arguments, torch.float64)))
