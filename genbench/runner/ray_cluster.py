"""The Ray cluster that runs are performed on: joined, or started for as long as this process lives."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from genbench.errors import UsageError
from genbench.runner.isolation import error_line
from genbench.runner.resources import Node

STORE = 128 * 2**20  # bytes for objects; records are small, and /dev/shm may be
WISHES = {  # of a cluster that is started here, where the user has none
    "RAY_USAGE_STATS_ENABLED": "0",
    # When every core is taken Ray ends the workers that have been idle for a second, and an end keeps a core busy for
    # two more: those in which the first run that has the machine to itself measures its speed.
    "RAY_idle_worker_killing_time_threshold_ms": str(7 * 24 * 3600 * 1000),
}


def connect(address: str | None = None, cpus: int | None = None) -> None:
    """Join the cluster at `address`, or start one of this machine alone, unless Ray is up already.

    A cluster that is started listens on every network of the machine, and serves only who has its token: Ray makes one
    in ``~/.ray/auth_token``. To a cluster that asks for a token, the one that this user has is shown.

    Args:
        address: "auto", "host:port", or "ray://host:port", which needs ``ray[client]``.
        cpus: cores that a started cluster offers; all by default.

    Raises:
        UsageError: there is no Ray, no cluster at that address, none that takes the token, or none could be started.
    """
    for name, value in WISHES.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ModuleNotFoundError:
        raise UsageError("the package 'ray' is not installed; --executor process does without it") from None
    if ray.is_initialized():
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    where: dict[str, Any] = {"address": address}
    if address is None:
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # workers find what this process does
        where = {"address": "local", "include_dashboard": False, "object_store_memory": STORE, "num_cpus": cpus}
    try:
        _knock(address)
        _show_token(address)
        with same_signals():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)
    except SystemExit:  # Ray's own handler of SIGTERM, which it sets before it is done
        raise KeyboardInterrupt from None
    except Exception as error:
        with suppress(Exception):
            disconnect()
        reason = error_line(str(error).strip().partition("\n")[0] or error)
        if address is None:
            again = "try again, or run without Ray: --executor process"
            raise UsageError(f"no Ray cluster could be started on this machine: {reason}; {again}") from None
        raise UsageError(f"--address {address!r}: no Ray cluster was joined: {reason}") from None


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)  # of HTTP/2, with no settings


def _knock(address: str | None) -> None:
    """Raise OSError unless a server of gRPC answers at ``host:port``, which Ray would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    with socket.create_connection((host.strip("[]"), int(port)), timeout=10) as connection:
        connection.sendall(PREFACE)
        try:
            answer = connection.recv(4)
        except TimeoutError:
            answer = b""
    if answer[3:] != b"\x04":  # a server's settings come first
        raise OSError("what listens there is not a Ray cluster")


def _show_token(address: str | None) -> None:
    """Have Ray show the user's token where the cluster at `address` asks for one, as it does by itself for "auto".

    Raises:
        RuntimeError: the cluster refuses the token, or there is none.
    """
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
    from ray._private.services import canonicalize_bootstrap_address
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError

    if address is None or "://" in address or not (gcs := canonicalize_bootstrap_address(address)):
        return
    for attempt in ("as it is", "with the token"):
        try:
            with no_stderr():
                GcsClient(address=gcs)
            return
        except AuthenticationError:
            if attempt == "with the token" or not maybe_enable_token_auth_if_token_available(warn_if_disabled=False):
                break
    raise RuntimeError(
        "the cluster asks for its token, and this user has another one or none; copy its ~/.ray/auth_token here, or"
        " set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
    )


@contextmanager
def no_stderr() -> Iterator[None]:
    """Drop what libraries in C++ write to stderr inside: errors come as exceptions, too."""
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


def disconnect() -> None:
    """Leave the cluster, or stop the one that was started; what still runs for this process is killed."""
    if ray := sys.modules.get("ray"):
        with same_signals(signal.SIG_IGN):
            ray.shutdown()


def nodes() -> list[Node]:
    """Return what each node that is alive has to give, busy or not."""
    import ray

    known: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in known if node["Alive"]]


@contextmanager
def same_signals(meanwhile: signal.Handlers | None = None) -> Iterator[None]:
    """Give SIGINT and SIGTERM back to their handlers afterwards: Ray takes SIGTERM for itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    for name in before:
        if meanwhile is not None:
            signal.signal(name, meanwhile)
    try:
        yield
    finally:
        for name, handler in before.items():
            with suppress(TypeError):  # a handler that was not set from Python cannot be set from it
                signal.signal(name, handler)
