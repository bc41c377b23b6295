"""Runs kernels in Triton's interpreter, so that one plain `pytest tests` checks them on any CPU, and lets a test that
is marked `alone` run while no other worker runs one."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is decorated: before any import of genbench_kernels
os.environ.setdefault("TRITON_DISABLE_LINE_INFO", "1")

import pytest

EXCLUSIVE_LOCK, SHARED_LOCK = (
    Path(__file__),
    Path(__file__).with_name("__init__.py"),
)  # any two files to lock


@pytest.fixture(autouse=True)
def _same_draws_whatever_ran_before() -> None:
    import torch

    torch.manual_seed(0)


def pytest_configure() -> None:
    """Patch Triton's language for a function of the device once: at every call it is a quarter of the tests of kernels.

    A launch has patched what its functions see; what Triton's own see else, their first call leaves patched.
    """
    with suppress(ImportError):
        from triton.runtime import interpreter

        seen: set[Callable[..., Any]] = set()

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if self.fn not in seen:
                interpreter._patch_lang(self.fn)
                seen.add(self.fn)
            try:
                return self.rewrite()(*args, **kwargs)
            except Exception as e:
                raise interpreter.InterpreterError(repr(e)) from e

        interpreter.InterpretedFunction.__call__ = call


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """A core for each worker: threads of two workers on the same cores take four times as long."""
    import torch

    torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    with ExitStack() as locks:
        with _locked(EXCLUSIVE_LOCK, fcntl.LOCK_EX):  # a test that waits for exclusive use lets no other start
            mode = fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH
            locks.enter_context(_locked(SHARED_LOCK, mode))
        return (yield)


@contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    with path.open() as file:
        fcntl.flock(file, how)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # a process that was forked meanwhile holds the file, too
