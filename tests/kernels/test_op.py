"""The contract of ops: which form a call takes, what `trace` counts, and the tolerance."""

from __future__ import annotations

import pytest
import torch
from genbench_kernels.op import choose, ops, trace
from genbench_kernels.tolerance import excess, ulp


def test_ops_are_the_modules_and_packages_that_define_one() -> None:
    assert {"affine_coupling", "spectral_norm"} <= set(ops())
    assert not {"elementary", "frame"} & set(ops())


def test_auto_is_the_reference_on_a_cpu_and_fused_is_interpreted_on_request() -> None:
    x = torch.zeros(1)
    assert choose("auto", x, None)[0] == "reference"
    assert choose("reference", None, x) == ("reference", "requested")
    assert choose("fused", x) == ("fused", "requested; interpreted")


def test_a_trace_counts_only_operations_that_move_data() -> None:
    x = torch.zeros(4, 8, device="meta", requires_grad=True)
    forward, backward = trace(lambda x: (x.view(8, 4).t() + 1.0).exp(), x)
    assert [(launch.name, launch.bytes) for launch in forward] == [("add", 256), ("exp", 256)]
    assert [(launch.name, launch.bytes) for launch in backward] == [("mul", 384)]


def test_a_trace_counts_broadcast_elements_and_repeated_tensors_once() -> None:
    x = torch.zeros(4, 1, device="meta").expand(4, 8)
    assert trace(lambda x: x * x, x)[0][0].bytes == 4 * 4 + 4 * 32


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_an_ulp_is_the_distance_to_the_next_number(dtype: torch.dtype) -> None:
    x = torch.tensor([1.0, 1.5, 3.0, 0.1, 1000.0], dtype=dtype)
    bits = {8: torch.int64, 4: torch.int32, 2: torch.int16}[dtype.itemsize]
    following = (x.view(bits) + 1).view(dtype)
    assert torch.equal(ulp(x.double(), dtype), following.double() - x.double())


def test_the_tolerance_is_one_ulp_or_twice_the_error_of_eager() -> None:
    exact = torch.tensor([1.0, 2.0], dtype=torch.float64)
    eager, one_off = exact.float(), torch.nextafter(exact.float(), torch.tensor(9.0))
    assert excess(one_off, eager, exact) == 1
    assert excess(one_off + 1e-6, eager, exact) > 1
    assert excess(one_off + 1e-6, eager + 1e-6, exact) <= 1
    assert excess(torch.tensor([1.0, float("nan")]), eager, exact) == float("inf")
    assert excess(torch.tensor([1.0, float("inf")]), eager, torch.tensor([1.0, float("inf")]).double()) == 0
    with pytest.raises(ValueError, match="float64"):
        excess(one_off, eager, eager)
