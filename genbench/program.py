"""The process of the command line: Ctrl-C, SIGTERM and SIGHUP end it with exit code 130, whenever they come."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

CODE = 130
SIGNALS = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])
DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)

_came = False


def is_program(module: str) -> bool:
    """Return whether `module`, by its __name__, is the program that runs, and not imported by another."""
    return module == "__main__" or os.path.basename(sys.argv[0]) == "genbench"


def leave_at_once() -> None:
    """Let these signals end this process at once, while nothing is under way; one that is ignored (nohup) stays so."""
    for each in SIGNALS:
        if signal.getsignal(each) in DEFAULTS:
            signal.signal(each, _leave)


def _leave(*_: object) -> NoReturn:
    os._exit(CODE)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt inside when one of these signals comes; a second one ends the process at once.

    Some of Python's callbacks swallow exceptions: an interrupt that was lost in one is raised at the next `check`.
    """
    global _came
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.getsignal(each) for each in SIGNALS}
    outermost = _interrupt not in before.values()
    _came = _came and not outermost
    for each, handler in before.items():
        if handler in (*DEFAULTS, _leave):
            signal.signal(each, _interrupt)
    try:
        yield
        check()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _interrupt(*_: object) -> NoReturn:
    global _came
    if _came:
        _leave()
    _came = True
    raise KeyboardInterrupt


def check() -> None:
    """Raise KeyboardInterrupt if one of the signals has come."""
    if _came and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def _report_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Print what Python could not raise, but for an interrupt, which `check` raises later."""
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)


_exit_code: int | None = None


def leave_quickly(code: int) -> int:
    """Return `code`, with which this process ends without taking torch's modules apart, which lasts a second."""
    global _exit_code
    _exit_code = code
    return code


def _end() -> None:
    if _exit_code is not None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(_exit_code)


def begin() -> None:
    """Make this process ready, before all that takes long to import: its signals, and its end after all others'."""
    leave_at_once()
    sys.unraisablehook = _report_unraisable
    atexit.register(_end)
