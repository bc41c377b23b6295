"""Where runs are performed: in this process, or as tasks of Ray. Whatever happens, a run ends in a record."""

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
from genbench.runner.resources import Node, this_machine, unmet, with_cores, with_twice_the_memory
from genbench.suite import Run

Records = Generator[Record, None, None]


class Executor(Protocol):
    """Performs `runs` and yields their records as they come; it takes a run only when it can start one.

    With `exclusive`, one run at a time, and each with all the cores of its machine.
    """

    def __call__(self, perform: Perform, runs: Iterable[Run], *, exclusive: bool = False) -> Records: ...


# ------------------------------------------------------------------------------------------- in this process


def in_process(perform: Perform, runs: Iterable[Run], *, exclusive: bool = False) -> Records:
    """Yield the record of each run, performed here one after the other; Ray is not needed."""
    for run in runs:
        here = [this_machine(gpus=run.resources.gpus > 0)]
        if why := unmet(run.resources, here):
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
class Try:
    """One try at a run: Ray tells of a task that died only that it did, so its history is kept here.

    Attributes:
        key: under which the worker notes that it has begun.
        began: time.monotonic() at which that was seen.
        lost: time.monotonic() since which no node can grant it.
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
    """Yield the records of `runs`, each a task of Ray Core, as they come.

    Retries are counted here and never by Ray: a worker or node that dies is worth two more tries, which go on from
    the checkpoint, a machine out of memory one with twice the memory, an exception none. Ray starts with the
    first run, stays up for the next call, and is left if this one ends early.

    Args:
        address: of a cluster to join ("auto", "host:port"; "ray://..." needs ``ray[client]``), on whose nodes this
            package must be importable (installed there, or brought by ``ray job submit --working-dir``). By
            default a cluster of this machine alone is started.
        cpus: cores of the cluster that is started; all by default.
        grace: seconds after its timeout in which a run may end itself, and for which one waits for a node to come
            back when none is left that could perform it; then it is ended by force.
    """
    queue, flying = iter(runs), dict[Any, Try]()
    last: Run | None = None
    try:
        while True:
            while _room(last, flying, exclusive) and (last := next(queue, None)):
                connect(address, cpus)
                yield from _begin(perform, Try(last, exclusive), flying)
            if not flying:
                return
            for ref in _finished(flying):
                outcome = _outcome(ref, flying.pop(ref))
                yield from [outcome] if isinstance(outcome, Record) else _begin(perform, outcome, flying)
            yield from _ended(flying, grace)
    except BaseException:
        disconnect()
        raise


def _room(like: Run | None, flying: Mapping[Any, Try], exclusive: bool) -> bool:
    """Return whether one more run `like` the last one could start at once."""
    if not flying or like is None or exclusive:
        return not flying
    asked = [one.run.resources for one in flying.values()] + [like.resources]
    there = {key: sum(node.get(key, 0) for node in nodes()) for key in ("CPU", "GPU")}
    return sum(r.cpus for r in asked) <= there["CPU"] and sum(r.gpus for r in asked) <= there["GPU"]


def _finished(flying: Mapping[Any, Try]) -> list[Any]:
    """Return the tasks that are over, after a second at most; Ctrl-C is seen only between two waits."""
    import ray

    for _ in range(5):
        check()
        if done := ray.wait(list(flying), timeout=0.2)[0]:
            return list(done)
    return []


def _ended(flying: dict[Any, Try], grace: float) -> list[Record]:
    """End by force what will not end by itself, and return its records."""
    import ray

    there, records = nodes(), []
    for ref, one in list(flying.items()):
        if ending := _hopeless(one, there, grace):
            ray.cancel(ref, force=True)
            records.append(failed(flying.pop(ref).run, *ending, one.number))
    return records


def _hopeless(one: Try, there: Sequence[Node], grace: float) -> tuple[Status, str] | None:
    """Return status and error if `one` has outlived its timeout, not counting its time in a queue, or its nodes."""
    from ray.experimental.internal_kv import _internal_kv_exists

    now, limit = time.monotonic(), one.run.resources.timeout
    why = unmet(one.run.resources, there)
    one.lost = (one.lost or now) if why else None
    if one.lost and now - one.lost > grace:
        return "crashed", f"no node is left for it: {why}"
    if limit and one.began is None and _internal_kv_exists(one.key):
        one.began = now
    if limit and one.began and now - one.began > limit + grace:
        return "timeout", f"had not ended by itself {grace:g} s after its timeout of {limit:g} s"
    return None


def _outcome(ref: Any, one: Try) -> Record | Try:
    """Return the record of a task that is over, or the next try."""
    import ray

    try:
        record: Record = ray.get(ref)
    except ray.exceptions.RayError as error:
        if isinstance(cause := getattr(error, "cause", None), StorageError):
            raise cause from None
        status, worth = _verdict(error)
        if one.number >= worth:
            return failed(one.run, status, _said(error), one.number)
        again = with_twice_the_memory(one.run, nodes()) if status == "host_oom" else one.run
        return Try(again, one.exclusive, one.number + 1)
    return record.model_copy(update={"attempts": record.attempts + one.number - 1})


def _verdict(error: Exception) -> tuple[Status, int]:
    """Return the status that `error` comes to, and how many tries a run with it is worth."""
    from ray import exceptions as ray

    match error:
        case ray.OutOfMemoryError():
            return "host_oom", 2
        case ray.TaskUnschedulableError():
            return "unschedulable", 1
        case ray.RayTaskError() | ray.RuntimeEnvSetupError():
            return "error", 1
    return "crashed", ATTEMPTS  # WorkerCrashedError, NodeDiedError, ObjectLostError and what else befalls a machine


def _said(error: Exception) -> str:
    error = getattr(error, "cause", None) or error
    return f"{type(error).__name__}: {error}"


def _begin(perform: Perform, one: Try, flying: dict[Any, Try]) -> list[Record]:
    """Hand `one` to Ray, which would wait for ever where no node can grant it: then return the record that says so.

    A worker that has once looked for GPUs keeps what it saw, so a run on a GPU gets a process of its own kind,
    and leaves it and its memory behind.
    """
    import ray

    there = nodes()
    if why := unmet(one.run.resources, there):
        first = one.number == 1
        return [failed(one.run, "unschedulable" if first else "crashed", why, max(1, one.number - 1))]
    run = with_cores(one.run, there) if one.exclusive else one.run
    options: dict[str, Any] = {"num_cpus": run.resources.cpus, "num_gpus": run.resources.gpus}
    if run.resources.memory:
        options["memory"] = run.resources.memory
    if run.resources.gpus:
        options |= {"max_calls": 1, "runtime_env": {"env_vars": {"GENBENCH_GPU": "1"}}}
    task = ray.remote(max_retries=0, retry_exceptions=False, **options)(_performed)
    flying[task.remote(perform, run, one.key)] = one
    return []


def _performed(perform: Perform, run: Run, key: str) -> Record:
    """Return the record of `run`; in the worker, which is shown the cores and GPUs asked for and no more."""
    from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put

    die_with_parent(os.getppid())
    os.environ["OMP_NUM_THREADS"] = str(max(1, int(run.resources.cpus)))
    if not run.resources.gpus:  # Ray hides GPUs from those that ask for some of them only
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if not run.resources.timeout:
        return perform(run)
    _internal_kv_put(key, b"")
    try:
        return perform(run)
    finally:
        _internal_kv_del(key)
