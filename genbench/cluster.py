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

from genbench.resources import Node
from genbench.run import UsageError

STORE = 128 * 2**20  # bytes for objects; records are small, and /dev/shm may be
WISHES = {  # of a cluster that is started here, where the user has none
    "RAY_USAGE_STATS_ENABLED": "0",
    # When every core is taken Ray ends the workers that have been idle for a second, and an end keeps a core busy for
    # two more: those in which the first run that has the machine to itself measures its speed.
    "RAY_idle_worker_killing_time_threshold_ms": str(7 * 24 * 3600 * 1000),
}


def connect(address: str | None = None, cpus: int | None = None) -> None:
    """Join the cluster at `address`, or start one of this machine alone, unless Ray is up already.

    Args:
        address: "auto", "host:port", or "ray://host:port", which needs ``ray[client]``.
        cpus: cores that a started cluster offers; all by default.

    Raises:
        UsageError: there is no Ray, or no cluster at that address.
    """
    for name, value in WISHES.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ModuleNotFoundError:
        raise UsageError("the package 'ray' is not installed; --executor process does without it") from None
    if ray.is_initialized():
        return
    where: dict[str, Any] = {"address": address}
    if address is None:
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # workers find what this process does
        where = {"address": "local", "include_dashboard": False, "object_store_memory": STORE, "num_cpus": cpus}
    try:
        _knock(address)
        with same_signals():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)
    except (OSError, ValueError, ImportError) as error:
        if address is None:
            raise
        said = str(error).strip().partition("\n")[0]
        raise UsageError(f"--address {address!r}: no Ray cluster was joined: {said}") from None


def _knock(address: str | None) -> None:
    """Raise OSError if nobody listens at ``host:port``, which Ray would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


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
