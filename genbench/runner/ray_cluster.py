"""Connecting to Ray: an existing cluster, or one started for the life of this process."""

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

from genbench.console import suppress_stderr
from genbench.errors import UsageError
from genbench.runner.isolation import error_line
from genbench.runner.resources import Node

OBJECT_STORE_BYTES = 128 * 2**20  # records are small, and /dev/shm may be, too
RAY_ENV = {  # of a cluster that is started here, unless the user sets them
    "RAY_USAGE_STATS_ENABLED": "0",
    # By default Ray stops workers that have been idle for a second when every core is taken. That keeps a core busy for
    # two seconds, just when the first exclusive run measures its speed.
    "RAY_idle_worker_killing_time_threshold_ms": str(7 * 24 * 3600 * 1000),
}


def connect(address: str | None = None, cpus: int | None = None) -> None:
    """Join the cluster at `address`, or start one on this machine, unless Ray is running already.

    A started cluster listens on every network interface and requires a token, which Ray creates in
    ``~/.ray/auth_token``. A cluster that requires a token gets the user's own.

    Args:
        address: "auto", "host:port", or "ray://host:port", which needs ``ray[client]``.
        cpus: cores of a started cluster; all by default.

    Raises:
        UsageError: Ray is not installed, no cluster answers at that address, it refuses the token, or none can start.
    """
    for name, value in RAY_ENV.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ModuleNotFoundError:
        raise UsageError("the package 'ray' is not installed; install it or use --executor process") from None
    if ray.is_initialized():
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    where: dict[str, Any] = {"address": address}
    if address is None:
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # workers import what this process can import
        where = {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "num_cpus": cpus,
        }
    try:
        _check_reachable(address)
        _enable_token(address)
        with same_signals():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)
    except SystemExit:  # from Ray's handler of SIGTERM, set during ray.init
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


def _check_reachable(address: str | None) -> None:
    """Raise OSError unless a gRPC server answers at ``host:port``; Ray would retry for minutes."""
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
        raise OSError("the server at this address is not a Ray cluster")


def _enable_token(address: str | None) -> None:
    """Use the user's token if the cluster at `address` requires one, as Ray does by itself for "auto".

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
            with suppress_stderr():
                GcsClient(address=gcs)
            return
        except AuthenticationError:
            if attempt == "with the token" or not maybe_enable_token_auth_if_token_available(warn_if_disabled=False):
                break
    raise RuntimeError(
        "the cluster requires a token, and yours is another one or missing; copy its ~/.ray/auth_token here, or"
        " set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
    )


def disconnect() -> None:
    """Leave the cluster, or stop the one that was started; running tasks of this process are killed."""
    if ray := sys.modules.get("ray"):
        with same_signals(signal.SIG_IGN):
            ray.shutdown()


def nodes() -> list[Node]:
    """Return the resources of every live node, busy or not."""
    import ray

    alive_or_dead: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in alive_or_dead if node["Alive"]]


@contextmanager
def same_signals(meanwhile: signal.Handlers | None = None) -> Iterator[None]:
    """Restore the handlers of SIGINT and SIGTERM afterwards: Ray sets its own."""
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
