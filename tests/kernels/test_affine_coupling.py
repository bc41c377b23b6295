"""Affine coupling: the kernels, run by Triton's interpreter, against float64, and identities of couplings."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Any

import pytest
import torch
from genbench_kernels import affine_coupling, explain
from genbench_kernels.affine_coupling import OP, SCALES, Scale, _backward_op, _forward_op, analytic, fused
from genbench_kernels.op import trace
from genbench_kernels.tolerance import excess
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import jacrev, vmap


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


ROWS = {1: 64, 7: 16, 100: 8, 5000: 2}  # size of a row -> rows; a row of 5000 takes several tiles


def inputs(
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    *,
    gain: bool = False,
    mask: tuple[int, ...] | None = None,
) -> dict[str, Any]:
    """Return random x and params for `shape`, with a gain and a mask (of the given shape) on request."""
    torch.manual_seed(seed)
    params = torch.randn(shape[0], 2 * shape[1], *shape[2:]) / 2
    args = {"x": torch.randn(shape).to(dtype), "params": params.to(dtype)}
    if gain:
        args["gain"] = torch.randn(shape[1]).to(dtype)
    if mask is not None:
        args["mask"] = (torch.rand(mask) < 0.5).to(dtype)
    return args


def run(args: dict[str, Any], dtype: torch.dtype | None = None, draws: int = 1, **options: Any) -> tuple[Tensor, ...]:
    """Return y, logdet and the gradients of x, params and gain for a fixed random cotangent, computed in `dtype`.

    The batch consists of `draws` independent draws, with the same cotangent for each.
    """
    leaves = {k: (v if dtype is None else v.to(dtype)).detach().requires_grad_(k != "mask") for k, v in args.items()}
    y, logdet = affine_coupling(**leaves, **options)
    torch.manual_seed(0)
    single = [torch.randn(len(v) // draws, *v.shape[1:]).bfloat16() for v in (y, logdet)]  # the same in every dtype
    gy, gl = (torch.cat(draws * [v]) for v in single)
    trained = [v for v in leaves.values() if v.requires_grad]
    return y, logdet, *torch.autograd.grad((y, logdet), trained, (gy.to(y), gl.to(logdet)))


def assert_within_tolerance(*args: Any, draws: int = 8, arguments: dict[str, Any], **options: Any) -> None:
    """Assert the tolerance of values and gradients over several draws; eager's error in a single one is luck."""
    samples = [inputs(*args, seed=seed, **arguments) for seed in range(draws)]
    if not arguments.get("gain"):  # its gradient is a sum over the batch; without it, all draws fit in one batch
        samples, options["draws"] = [{k: torch.cat([sample[k] for sample in samples]) for k in samples[0]}], draws
    forms = ({"backend": "fused"}, {"backend": "reference"}, {"backend": "reference", "dtype": torch.float64})
    ours, eager, exact = ([run(sample, **form, **options) for sample in samples] for form in forms)
    pooled = (map(torch.cat, zip(*form, strict=True)) for form in (ours, eager, exact))
    assert max(excess(*triple) for triple in zip(*pooled, strict=True)) <= 1


@pytest.mark.parametrize("size", ROWS)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("inverse", [False, True])
def test_values_and_gradients_agree_with_float64(size: int, scale: Scale, inverse: bool) -> None:
    assert_within_tolerance((ROWS[size], size), arguments={"gain": scale == "tanh"}, scale=scale, inverse=inverse)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inverse", [False, True])
def test_half_precision_adds_only_rounding_errors(dtype: torch.dtype, inverse: bool) -> None:
    assert_within_tolerance((8, 6, 5, 4), dtype, arguments={"gain": True}, scale="tanh", inverse=inverse)


LAYOUTS: dict[str, Any] = {
    "plain": lambda t: t,
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "half of the channels": lambda t: torch.cat((t, t), 1)[:, : t.shape[1]],
    "every other channel": lambda t: t.repeat_interleave(2, 1)[:, ::2],
    "half, channels_last": lambda t: torch.cat((t, t), 1).contiguous(memory_format=torch.channels_last)[
        :, t.shape[1] :
    ],
    "every other row": lambda t: t.repeat_interleave(2, 0)[::2],
}


@pytest.mark.parametrize("layout", ["chunk", "interleave"])
@pytest.mark.parametrize("memory", LAYOUTS)
def test_strides_change_nothing_and_need_no_copy(layout: Any, memory: str) -> None:
    plain = inputs((3, 8, 4, 4))
    strided = {k: LAYOUTS[memory](v) for k, v in plain.items()}
    for ours, reference in zip(
        run(strided, backend="fused", layout=layout), run(plain, backend="reference", layout=layout), strict=True
    ):
        torch.testing.assert_close(ours, reference)
    meta = [v.to("meta").as_strided(v.shape, v.stride()) for v in strided.values()]
    forward, _ = trace(fused, *meta, None, None, layout, "exp", False, torch.float32)
    assert {launch.name for launch in forward} <= {"forward_kernel", "sum"}


@pytest.mark.parametrize("mask", [(1, 1, 6, 4), (8, 1, 1), (3, 8, 6, 4), (6, 1), (4,), (3, 1, 6, 1)])
def test_masks_broadcast(mask: tuple[int, ...]) -> None:
    assert_within_tolerance((3, 8, 6, 4), arguments={"gain": True, "mask": mask}, scale="tanh")


@pytest.mark.parametrize("shape", [(), (1,), (4, 1)])
def test_the_gain_is_a_scalar_or_one_per_channel(shape: tuple[int, ...]) -> None:
    args = inputs((2, 4, 3), torch.float64) | {"gain": torch.rand(shape, dtype=torch.float64)}
    for ours, reference in zip(
        run(args, scale="tanh", backend="fused"), run(args, scale="tanh", backend="reference"), strict=True
    ):
        torch.testing.assert_close(ours, reference)
    args["gain"].requires_grad_()
    form = partial(affine_coupling, args["x"], args["params"], scale="tanh", backend="fused")
    assert torch.autograd.gradgradcheck(lambda gain: form(gain=gain), args["gain"])


def test_unmasked_elements_do_not_change() -> None:
    x, params = torch.randn(2, 3, 4, 4), torch.randn(2, 6, 4, 4)
    mask = (torch.arange(16).view(4, 4) % 2).bool()
    y, _ = affine_coupling(x, params, mask=mask, backend="fused")
    assert torch.equal(y[..., ~mask], x[..., ~mask])
    assert not (y[..., mask] == x[..., mask]).any()
    _, logdet = affine_coupling(x, params, mask=torch.zeros(4, 4), backend="fused", scale="sigmoid")
    assert torch.equal(logdet, torch.zeros(2))


shapes = st.tuples(st.integers(0, 3), st.integers(1, 5)) | st.tuples(*[st.integers(1, 4)] * 4)


@given(
    shapes, st.sampled_from(SCALES), st.sampled_from(["chunk", "interleave"]), st.permutations(range(4)), st.booleans()
)
@settings(max_examples=60, derandomize=True, deadline=None)
def test_shapes_and_memory_orders(shape: Any, scale: Scale, layout: Any, order: list[int], inverse: bool) -> None:
    plain = inputs(shape, torch.float64, gain=scale == "tanh")
    order = [d for d in order if d < len(shape)]
    inverse_order = sorted(range(len(shape)), key=order.__getitem__)
    permuted = {k: v if k == "gain" else v.permute(order).contiguous().permute(inverse_order) for k, v in plain.items()}
    options = {"scale": scale, "layout": layout, "inverse": inverse}
    for ours, exact in zip(
        run(permuted, backend="fused", **options), run(plain, backend="reference", **options), strict=True
    ):
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)


@given(shapes, st.sampled_from(SCALES), st.sampled_from(["chunk", "interleave"]))
@settings(max_examples=30, derandomize=True, deadline=None)
def test_the_inverse_recovers_the_input(shape: Any, scale: Scale, layout: Any) -> None:
    args = inputs(shape, torch.float64)
    y, logdet = affine_coupling(**args, scale=scale, layout=layout, backend="fused")
    args["x"], x = y, args["x"]
    recovered, inverse_logdet = affine_coupling(**args, scale=scale, layout=layout, inverse=True, backend="fused")
    torch.testing.assert_close(recovered, x)
    torch.testing.assert_close(inverse_logdet, -logdet)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("inverse", [False, True])
def test_logdet_matches_the_jacobian(scale: Scale, inverse: bool) -> None:
    x, params = torch.randn(1, 6, dtype=torch.float64), torch.randn(1, 12, dtype=torch.float64)
    options: dict[str, Any] = {"scale": scale, "inverse": inverse, "backend": "fused"}
    jacobian = jacrev(lambda x: affine_coupling(x, params, **options)[0])(x).reshape(6, 6)
    torch.testing.assert_close(affine_coupling(x, params, **options)[1][0], torch.linalg.slogdet(jacobian)[1])


def test_log_sigmoid_is_finite_where_sigmoid_underflows() -> None:
    params = torch.tensor([[-200.0, 0.0]]).requires_grad_()
    _, logdet = affine_coupling(torch.ones(1, 1), params, scale="sigmoid", backend="fused")
    (gradient,) = torch.autograd.grad(logdet, params)
    assert logdet.item() == -198.0
    assert gradient.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("form", [fused, _forward_op, analytic], ids=["eager", "registered", "analytic"])
@pytest.mark.parametrize(
    ("scale", "inverse"), [("tanh", False), ("sigmoid", True), ("exp", True), ("sigmoid_inv", False)]
)
def test_first_and_second_derivatives(form: Any, scale: Scale, inverse: bool) -> None:
    x, params = torch.randn(2, 1, 2, dtype=torch.float64), torch.randn(2, 2, 2, dtype=torch.float64)
    gain = torch.randn(1, dtype=torch.float64, requires_grad=True) if scale == "tanh" else None
    mask = torch.tensor([1.0, 0.0], dtype=torch.float64).view(1, 1, 2) if inverse else None
    args = x.requires_grad_(), params.requires_grad_(), gain, mask, "chunk", scale, inverse, torch.float64
    assert torch.autograd.gradcheck(form, args)
    assert torch.autograd.gradgradcheck(form, args)


def test_registered_ops_pass_opcheck() -> None:
    args = inputs((3, 4, 2), gain=True)
    x, params, gain = (v.requires_grad_() for v in args.values())
    options = gain, None, "interleave", "tanh", False, torch.float32
    torch.library.opcheck(_forward_op, (x, params, *options))
    cotangents = torch.randn(3, 4, 2), torch.randn(3)
    tensors = (t.detach() for t in (*cotangents, x, params, gain))
    torch.library.opcheck(_backward_op, (*tensors, *options[1:], [True, False, True]))


def test_compiles_without_breaks_and_once_for_all_batch_sizes() -> None:
    torch._dynamo.reset()
    graphs: list[Any] = []

    def count_graphs(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, example)

    compiled = torch.compile(affine_coupling, fullgraph=True, backend=count_graphs, dynamic=True)
    for batch in (5, 7, 9):
        args = {k: v.requires_grad_() for k, v in inputs((batch, 4, 3), gain=True).items()}
        ours = compiled(**args, scale="tanh", backend="fused")
        references = affine_coupling(**args, scale="tanh", backend="reference")
        for out, reference in zip(ours, references, strict=True):
            torch.testing.assert_close(out, reference)
        weights = list(args.values())
        for out, reference in zip(
            torch.autograd.grad(ours[0].square().sum(), weights),
            torch.autograd.grad(references[0].square().sum(), weights),
            strict=True,
        ):
            torch.testing.assert_close(out, reference)
    assert len(graphs) == 1


def test_vmap_equals_a_loop() -> None:
    x, params, gains, masks = torch.randn(5, 2, 3), torch.randn(2, 5, 6), torch.randn(5, 3), torch.rand(5, 3) < 0.5
    both = vmap(lambda x, p: affine_coupling(x, p, backend="fused"), (0, 1))(x, params)
    for i in range(5):
        single = affine_coupling(x[i], params[:, i], backend="fused")
        assert torch.equal(both[0][i], single[0])
        assert torch.equal(both[1][i], single[1])
    each = vmap(lambda x, p, g, m: affine_coupling(x, p, scale="tanh", gain=g, mask=m, backend="fused"), (0, 1, 0, 0))
    y, _ = each(x, params, gains, masks)
    one = affine_coupling(x[2], params[:, 2], scale="tanh", gain=gains[2], mask=masks[2], backend="reference")
    torch.testing.assert_close(y[2], one[0])


def test_vmap_over_masks() -> None:
    x, params, masks = torch.randn(5, 2, 3), torch.randn(5, 2, 6), torch.rand(5, 2, 3) < 0.5
    y, logdet = vmap(lambda x, p, m: affine_coupling(x, p, mask=m, backend="fused"))(x, params, masks)
    expected = affine_coupling(x[3], params[3], mask=masks[3], backend="fused")
    assert torch.equal(y[3], expected[0])
    assert torch.equal(logdet[3], expected[1])


def test_gradient_penalty_matches_the_reference() -> None:
    def penalty(backend: Any) -> Tensor:
        y, logdet = affine_coupling(**leaves, scale="sigmoid", backend=backend)
        (slope,) = torch.autograd.grad(y.square().sum() + logdet.sum(), leaves["x"], create_graph=True)
        return torch.autograd.grad(slope.square().sum(), leaves["params"])[0]

    leaves = {k: v.requires_grad_() for k, v in inputs((4, 6)).items()}
    torch.testing.assert_close(penalty("fused"), penalty("reference"))


def test_autocast_computes_in_float32() -> None:
    x, params = torch.randn(4, 6, dtype=torch.bfloat16), torch.randn(4, 12, dtype=torch.bfloat16)
    for backend in ("fused", "reference"):
        assert affine_coupling(x, params, backend=backend)[0].dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            y, logdet = affine_coupling(x, params, backend=backend)
            recovered, _ = affine_coupling(y, params, backend=backend, inverse=True)
        assert y.dtype == logdet.dtype == torch.float32
        torch.testing.assert_close(recovered, x.float())


def test_rows_are_independent_and_reproducible() -> None:
    args = inputs((6, 100))
    y, logdet = affine_coupling(**args, scale="tanh", backend="fused")
    single = affine_coupling(**{k: v[2:3] for k, v in args.items()}, scale="tanh", backend="fused")
    assert torch.equal(single[0][0], y[2])
    assert torch.equal(single[1][0], logdet[2])
    first, second = (run(inputs((6, 100), gain=True), scale="tanh", backend="fused") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_an_empty_batch_has_empty_results_and_zero_gradients(backend: Any) -> None:
    y, logdet, gx, gparams, ggain = run(inputs((0, 3, 4), gain=True), scale="tanh", backend=backend)
    assert (y.shape, logdet.shape, gx.shape, gparams.shape) == ((0, 3, 4), (0,), (0, 3, 4), (0, 6, 4))
    assert torch.equal(ggain, torch.zeros(3))


def test_params_may_have_an_axis_of_two() -> None:
    x, params = torch.randn(2, 3, 4), torch.randn(2, 6, 4)
    for layout, unflat in (("chunk", params.view(2, 2, 3, 4)), ("interleave", params.view(2, 3, 2, 4))):
        for a, b in zip(
            affine_coupling(x, unflat, layout=layout), affine_coupling(x, params, layout=layout), strict=True
        ):
            assert torch.equal(a, b)


X, PARAMS = torch.zeros(2, 3, 4), torch.zeros(2, 6, 4)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"params": torch.zeros(2, 5, 4)}, r"\(2, 5, 4\) for \(2, 3, 4\)"),
        ({"params": torch.zeros(3, 6, 4)}, r"\(3, 6, 4\)"),
        ({"x": torch.zeros(3)}, r"\(3,\)"),
        ({"x": torch.zeros(2, 3, 4, dtype=torch.int64)}, r"torch\.int64"),
        ({"layout": "halves"}, "halves"),
        ({"scale": "softplus"}, "softplus"),
        ({"backend": "cuda"}, "cuda"),
        ({"gain": torch.zeros(3)}, "scale='tanh'"),
        ({"gain": torch.zeros(4), "scale": "tanh"}, r"\(3,\).*\(4,\)"),
        ({"mask": torch.zeros(2, 4)}, r"\(2, 4\) for \(2, 3, 4\)"),
        ({"mask": torch.zeros(4, requires_grad=True)}, "without gradient"),
        ({"params": PARAMS.to("meta")}, r"cpu.*meta"),
        ({"x": X.to("meta"), "params": PARAMS.to("meta"), "backend": "fused"}, "meta"),
    ],
)
def test_errors_name_the_invalid_arguments(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        affine_coupling(**{"x": X, "params": PARAMS, **args})


def test_launches_and_bytes_match_the_docstring() -> None:
    x = torch.randn(4, 3, 16, 16, device="meta", requires_grad=True)
    params = torch.randn(4, 6, 16, 16, device="meta", requires_grad=True)
    one_pass = x.numel() * 4
    with_gx, without_gx = (
        [(len(part), round(sum(launch.bytes for launch in part) / one_pass, 2)) for part in trace(fused, v, *rest)]
        for v in (x, x.detach())
        for rest in [(params, None, None, "chunk", "exp", False, torch.float32)]
    )
    assert with_gx == [(1, 4.0), (1, 6.0)]
    assert without_gx == [(1, 4.0), (1, 5.0)]


def test_explain_returns_form_and_costs() -> None:
    x, params = torch.randn(4, 3, 16, 16, requires_grad=True), torch.randn(4, 6, 16, 16, requires_grad=True)
    explanation = explain(affine_coupling, x, params, scale="tanh", bandwidth=1e12)
    assert explanation.backend == "reference"
    assert "cpu" in explanation.why
    assert explanation.forward.floor == pytest.approx(explanation.forward.bytes / 1e6)
    assert explanation.reference_forward.bytes > explanation.forward.bytes
    assert explanation.backward is not None
    assert explanation.reference_backward is not None
    assert explanation.reference_backward.launches > explanation.backward.launches
    assert "us" in str(explanation)


@pytest.mark.parametrize("example", list(OP.examples("cpu")), ids=lambda example: example.name)
def test_both_forms_agree_on_every_example(example: Any) -> None:
    leaves = [a for a in example.args if isinstance(a, Tensor) and a.requires_grad]
    outputs = [form(*example.args) for form in (OP.fused, OP.reference)]
    cotangents = [out.detach() for out in outputs[0]]
    fused_results, reference_results = ((*out, *torch.autograd.grad(out, leaves, cotangents)) for out in outputs)
    for a, b in zip(fused_results, reference_results, strict=True):
        tolerance = 2e-2 if a.dtype == torch.bfloat16 else 1e-3
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_works_without_triton() -> None:
    program = (
        "import sys; sys.modules['triton'] = None; import torch; from genbench_kernels import affine_coupling, explain;"
        "x, p = torch.randn(2, 3), torch.randn(2, 6); affine_coupling(x, p); print(explain(affine_coupling, x, p).why)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "triton is not installed"
