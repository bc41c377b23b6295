"""Executors: runs in this process or as tasks of Ray. Whatever happens, every run ends in a record."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from genbench.program import check
from genbench.records.artifacts import StorageError
from genbench.records.record import Record, Status
from genbench.runner.isolation import ATTEMPTS, Perform, die_with_parent, failed
from genbench.runner.ray_cluster import connect, disconnect, nodes
from genbench.runner.resources import Node, this_machine, why_infeasible, with_cores, with_twice_the_memory
from genbench.suite import Run

Records = Generator[Record, None, None]


class Executor(Protocol):
    """Performs `runs` and yields their records as they finish; it takes the next run only when it can start it.

    With `exclusive`, one run at a time, with all cores of its machine.
    """

    def __call__(self, perform: Perform, runs: Iterable[Run], *, exclusive: bool = False) -> Records: ...


# ------------------------------------------------------------------------------------------- in this process


def in_process(perform: Perform, runs: Iterable[Run], *, exclusive: bool = False) -> Records:
    """Yield the record of each run, performed in this process one after the other, without Ray."""
    for run in runs:
        here = [this_machine(gpus=run.resources.gpus > 0)]
        if why := why_infeasible(run.resources, here):
            yield failed(run, "unschedulable", why)
        else:
            yield _guarded(perform, with_cores(run, here) if exclusive else run)


def _guarded(perform: Perform, run: Run) -> Record:
    try:
        return perform(run)
    except StorageError:
        raise
    except Exception as error:
        return failed(run, "error", error)


# ----------------------------------------------------------------------------------------------------- on Ray


@dataclass
class Attempt:
    """An attempt at a run. Of a task that died Ray reports no more than that, so the history is tracked here.

    Attributes:
        key: with which the worker reports to Ray that it has started.
        began: time.monotonic() when that was seen.
        lost: time.monotonic() since when no node has had the resources.
    """

    run: Run
    exclusive: bool = False
    number: int = 1
    key: str = field(default_factory=lambda: f"genbench/{secrets.token_hex(8)}")
    began: float | None = None
    lost: float | None = None


def on_ray(
    perform: Perform,
    runs: Iterable[Run],
    *,
    exclusive: bool = False,
    address: str | None = None,
    cpus: int | None = None,
    grace: float = 30.0,
) -> Records:
    """Yield the records of `runs`, each a task of Ray Core, as they finish.

    Retries are counted here, never by Ray: two more attempts, resuming from the checkpoint, if a worker or node dies;
    one, with twice the memory, if a machine is out of memory; none after an exception. Ray starts with the first run,
    stays up for the next call, and is disconnected if this one ends early.

    Args:
        address: of a cluster to join ("auto", "host:port"; "ray://..." needs ``ray[client]``), on whose nodes this
            package must be importable (installed there, or brought by ``ray job submit --working-dir``). By
            default a cluster of this machine alone is started.
        cpus: cores of the cluster that is started; all by default.
        grace: seconds that a run has to end by itself after its timeout, and that a lost node has to come back, before
            the run is cancelled.
    """
    queue, in_flight = iter(runs), dict[Any, Attempt]()
    last: Run | None = None
    try:
        while True:
            while _has_capacity(last, in_flight, exclusive) and (last := next(queue, None)):
                connect(address, cpus)
                yield from _submit(perform, Attempt(last, exclusive), in_flight)
            if not in_flight:
                return
            for ref in _finished(in_flight):
                outcome = _outcome(ref, in_flight.pop(ref))
                yield from [outcome] if isinstance(outcome, Record) else _submit(perform, outcome, in_flight)
            yield from _cancel_expired(in_flight, grace)
    except BaseException:
        disconnect()
        raise


def _has_capacity(next_run: Run | None, in_flight: Mapping[Any, Attempt], exclusive: bool) -> bool:
    """Return whether another run with the resources of `next_run` could start now."""
    if not in_flight or next_run is None or exclusive:
        return not in_flight
    requested = [attempt.run.resources for attempt in in_flight.values()] + [next_run.resources]
    available = {key: sum(node.get(key, 0) for node in nodes()) for key in ("CPU", "GPU")}
    return sum(r.cpus for r in requested) <= available["CPU"] and sum(r.gpus for r in requested) <= available["GPU"]


def _finished(in_flight: Mapping[Any, Attempt]) -> list[Any]:
    """Return the finished tasks, after at most a second; Ctrl-C is noticed between two waits."""
    import ray

    for _ in range(5):
        check()
        if done := ray.wait(list(in_flight), timeout=0.2)[0]:
            return list(done)
    return []


def _cancel_expired(in_flight: dict[Any, Attempt], grace: float) -> list[Record]:
    """Cancel the tasks that will not end by themselves, and return their records."""
    import ray

    available, records = nodes(), []
    for ref, attempt in list(in_flight.items()):
        if ending := _expired(attempt, available, grace):
            ray.cancel(ref, force=True)
            records.append(failed(in_flight.pop(ref).run, *ending, attempt.number))
    return records


def _expired(attempt: Attempt, available: Sequence[Node], grace: float) -> tuple[Status, str] | None:
    """Return status and error if `attempt` exceeds its timeout, its time in the queue aside, or has lost its nodes."""
    from ray.experimental.internal_kv import _internal_kv_exists

    now, limit = time.monotonic(), attempt.run.resources.timeout
    why = why_infeasible(attempt.run.resources, available)
    attempt.lost = (attempt.lost or now) if why else None
    if attempt.lost and now - attempt.lost > grace:
        return "crashed", f"no remaining node has the resources: {why}"
    if limit and attempt.began is None and _internal_kv_exists(attempt.key):
        attempt.began = now
    if limit and attempt.began and now - attempt.began > limit + grace:
        return "timeout", f"still running {grace:g} s after its timeout of {limit:g} s"
    return None


def _outcome(ref: Any, attempt: Attempt) -> Record | Attempt:
    """Return the record of a finished task, or the next attempt."""
    import ray

    try:
        record: Record = ray.get(ref)
    except ray.exceptions.RayError as error:
        if isinstance(cause := getattr(error, "cause", None), StorageError):
            raise cause from None
        status, attempts = _verdict(error)
        if attempt.number >= attempts:
            return failed(attempt.run, status, _describe(error), attempt.number)
        again = with_twice_the_memory(attempt.run, nodes()) if status == "host_oom" else attempt.run
        return Attempt(again, attempt.exclusive, attempt.number + 1)
    return record.model_copy(update={"attempts": record.attempts + attempt.number - 1})


def _verdict(error: Exception) -> tuple[Status, int]:
    """Return the status that `error` means, and how many attempts a run gets with it."""
    from ray import exceptions as ray

    match error:
        case ray.OutOfMemoryError():
            return "host_oom", 2
        case ray.TaskUnschedulableError():
            return "unschedulable", 1
        case ray.RayTaskError() | ray.RuntimeEnvSetupError():
            return "error", 1
    return "crashed", ATTEMPTS  # WorkerCrashedError, NodeDiedError, ObjectLostError and other faults of a machine


def _describe(error: Exception) -> str:
    error = getattr(error, "cause", None) or error
    return f"{type(error).__name__}: {error}"


def _submit(perform: Perform, attempt: Attempt, in_flight: dict[Any, Attempt]) -> list[Record]:
    """Submit `attempt` to Ray; return its record if no node has the resources, for which Ray would wait forever.

    A run on a GPU gets a worker process of its own: one that has initialized CUDA keeps its memory and its view of the
    GPUs.
    """
    import ray

    available = nodes()
    if why := why_infeasible(attempt.run.resources, available):
        first = attempt.number == 1
        return [failed(attempt.run, "unschedulable" if first else "crashed", why, max(1, attempt.number - 1))]
    run = with_cores(attempt.run, available) if attempt.exclusive else attempt.run
    options: dict[str, Any] = {"num_cpus": run.resources.cpus, "num_gpus": run.resources.gpus}
    if run.resources.memory:
        options["memory"] = run.resources.memory
    if run.resources.gpus:
        options |= {"max_calls": 1, "runtime_env": {"env_vars": {"GENBENCH_GPU": "1"}}}
    task = ray.remote(max_retries=0, retry_exceptions=False, **options)(_perform)
    in_flight[task.remote(perform, run, attempt.key)] = attempt
    return []


def _perform(perform: Perform, run: Run, key: str) -> Record:
    """Return the record of `run`, in the worker; it sees the requested cores and GPUs only."""
    from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put

    die_with_parent(os.getppid())
    os.environ["OMP_NUM_THREADS"] = str(max(1, int(run.resources.cpus)))
    if not run.resources.gpus:  # without a request, Ray does not hide the GPUs
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if not run.resources.timeout:
        return perform(run)
    _internal_kv_put(key, b"")
    try:
        return perform(run)
    finally:
        _internal_kv_del(key)
