"""Runs kernels in Triton's interpreter, so that one plain `pytest tests` checks them on any CPU."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is decorated: before any import of genbench_kernels
os.environ.setdefault("TRITON_DISABLE_LINE_INFO", "1")

import pytest


@pytest.fixture(autouse=True)
def _same_draws_whatever_ran_before() -> None:
    import torch

    torch.manual_seed(0)
