"""The elementary functions of kernels, run by Triton's interpreter, against float64: errors in ulps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from genbench_kernels import elementary
from genbench_kernels.op import jit, launch, tl
from genbench_kernels.tolerance import ulp
from torch import Tensor
from torch.nn.functional import logsigmoid

N = 1 << 15


@jit
def kernel(x, y, NAME: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i)
    if NAME == "exp":
        w = elementary.exp(v)
    elif NAME == "log1p":
        w = elementary.log1p_of_fraction(v)
    elif NAME == "log_sigmoid":
        w = elementary.log_sigmoid(v)
    elif NAME == "sigmoid":
        w = elementary.sigmoid(v)
    elif NAME == "sqrt":
        w = elementary.sqrt(v)
    else:
        w = elementary.tanh(v)
    tl.store(y + i, w)


EXACT: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "log1p": torch.log1p,
    "log_sigmoid": logsigmoid,
    "sigmoid": torch.sigmoid,
    "sqrt": torch.sqrt,
    "tanh": torch.tanh,
}
MAX_ERROR = {
    "exp": 0.75,
    "log1p": 1.25,
    "log_sigmoid": 2.0,
    "sigmoid": 2.0,
    "sqrt": 0.5,
    "tanh": 1.5,
}  # ulps; torch's own are 0.5 to 2.2
POSITIVE = ("log1p", "sqrt")


def computed(name: str, x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    launch(kernel, (1,), x, y, NAME=name, N=len(x))
    return y


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("bound", [1e-3, 1.0, 87.0])
def test_float32_is_accurate_to_two_ulps(name: str, bound: float) -> None:
    x = torch.linspace(0 if name in POSITIVE else -bound, min(bound, 1.0) if name == "log1p" else bound, N)
    exact = EXACT[name](x.double())
    assert ((computed(name, x).double() - exact).abs() / ulp(exact, torch.float32)).max() <= MAX_ERROR[name]


@pytest.mark.parametrize("name", EXACT)
def test_float64_is_accurate_to_a_few_ulps(name: str) -> None:
    x = torch.linspace(0 if name in POSITIVE else -30, 1 if name == "log1p" else 30, N, dtype=torch.float64)
    torch.testing.assert_close(computed(name, x), EXACT[name](x), rtol=1e-15, atol=0)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
@pytest.mark.parametrize("name", ["exp", "log_sigmoid", "sigmoid", "tanh"])
def test_nan_infinities_and_extreme_values(name: str) -> None:
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([nan, inf, -inf, 0.0, 88.7, -86.0, 200.0, -200.0])
    torch.testing.assert_close(computed(name, x), EXACT[name](x), equal_nan=True)
