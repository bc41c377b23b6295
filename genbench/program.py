"""Signals of the program: Ctrl-C, SIGTERM and SIGHUP end it with exit code 130 at any time."""

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

_received = False


def is_program(module: str) -> bool:
    """Return whether `module`, a __name__, is the program itself and not imported by another."""
    return module == "__main__" or os.path.basename(sys.argv[0]) == "genbench"


def exit_on_signals() -> None:
    """Exit immediately on these signals while no command is running; ignored signals (nohup) stay ignored."""
    for each in SIGNALS:
        if signal.getsignal(each) in DEFAULTS:
            signal.signal(each, _exit_now)


def _exit_now(*_: object) -> NoReturn:
    os._exit(CODE)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt inside on one of these signals; a second signal exits immediately.

    Some callbacks of Python swallow exceptions: an interrupt lost in one is raised by the next `check`.
    """
    global _received
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.getsignal(each) for each in SIGNALS}
    outermost = _interrupt not in before.values()
    _received = _received and not outermost
    for each, handler in before.items():
        if handler in (*DEFAULTS, _exit_now):
            signal.signal(each, _interrupt)
    try:
        yield
        check()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _interrupt(*_: object) -> NoReturn:
    global _received
    if _received:
        _exit_now()
    _received = True
    raise KeyboardInterrupt


def check() -> None:
    """Raise KeyboardInterrupt if a signal was received."""
    if _received and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def _report_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Print an exception that Python cannot raise, except an interrupt, which `check` raises later."""
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)


_exit_code: int | None = None


def exit_quickly(code: int) -> int:
    """Return `code`; the process will exit with it without tearing down torch's modules, which takes a second."""
    global _exit_code
    _exit_code = code
    return code


def _flush_and_exit() -> None:
    if _exit_code is not None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(_exit_code)


def set_up() -> None:
    """Set up signal handlers and the exit of the process; call it before slow imports."""
    exit_on_signals()
    sys.unraisablehook = _report_unraisable
    atexit.register(_flush_and_exit)
