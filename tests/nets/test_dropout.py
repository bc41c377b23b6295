"""Dropout preserves the mean, drops the requested fraction, and is reproducible from a seed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genbench.nets.dropout import Dropout, dropout, keep_mask


@pytest.mark.parametrize("p", [0.05, 0.2, 0.5, 0.95])
def test_fraction_of_dropped_entries(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1001, 999)
    y = dropout(x, p)
    fraction, error = (y == 0).double().mean().item(), (p * (1 - p) / x.numel()) ** 0.5
    assert abs(fraction - p) < 4 * error + 2**-17
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / (1 - p)))


def test_entries_are_dropped_independently() -> None:
    torch.manual_seed(0)
    m = keep_mask(torch.empty(50_000, 8), 0.3).double()
    torch.testing.assert_close(torch.cov(m.T), 0.21 * torch.eye(8).double(), rtol=0, atol=5 * 0.21 / 50_000**0.5)


def test_gradient_passes_through_remaining_entries() -> None:
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    y = dropout(x, 0.4)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope * x, y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_edge_cases(dtype: torch.dtype) -> None:
    x = torch.randn(3, 1, 5).to(dtype)
    assert dropout(x, 0.5).dtype is dtype
    assert dropout(x, 0.0) is x
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 1.0).count_nonzero() == 0
    assert dropout(x[:0], 0.5).shape == (0, 1, 5)
    torch.manual_seed(0)
    first = Dropout(0.5)(x)
    torch.manual_seed(0)
    assert torch.equal(first, Dropout(0.5)(x))


def test_it_compiles_without_graph_breaks() -> None:
    net = torch.compile(nn.Sequential(nn.Linear(4, 4), Dropout(0.5)), fullgraph=True, backend="eager")
    assert net(torch.randn(16, 4)).eq(0).any()
