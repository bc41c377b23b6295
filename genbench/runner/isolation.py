"""Runs each in a process of its own, forked from a server that has imported torch and executed nothing else.

Changes that a run makes to its process (seeds, default dtype, working directory, patches, signal handlers) end with it.
If it crashes, exits or hangs, the parent notices and writes the record.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import NamedTuple, NoReturn

from genbench.errors import one_line
from genbench.program import check
from genbench.records.artifacts import StorageError
from genbench.records.record import Record, Status
from genbench.suite import Run

Perform = Callable[[Run], Record]
ATTEMPTS = 3  # at a run whose process is killed; each resumes from the last checkpoint
LEAST_GRACE, MOST_GRACE = 5.0, 30.0  # seconds that a run has to end by itself after its timeout
PRELOAD = ("genbench.runner.worker", "torch._dynamo")  # imported by an optimizer at its first step
PRELOADED = {  # packages that the server imports, too, once a run has imported them
    *("genbench", "genbench_kernels", "torch", "torchvision", "torchdiffeq", "torch_fidelity", "triton", "fsspec"),
    *("numpy", "scipy", "sklearn", "joblib", "pandas", "matplotlib", "PIL", "ot", "pydantic", "sympy"),
    *sys.stdlib_module_names,
}


@dataclass(frozen=True)
class IsolatedPerform:
    """Performs each run in a new child process, with the working directory, sys.path and environment of its caller.

    Attributes:
        perform: the function, pickled, so that the caller need not import torch.
        log: file to append the output of the child to; by default that of the caller is used.
    """

    perform: bytes
    log: str | None = None

    def __call__(self, run: Run) -> Record:
        """Return the record of `run`, of status "crashed" or "timeout" if its process could not return one.

        Raises:
            StorageError: raised by `perform`.
        """
        limit = run.resources.timeout
        kill_after = limit + min(max(limit, LEAST_GRACE), MOST_GRACE) if limit else None
        job = Job(self.perform, pickle.dumps(run), self.log, kill_after, os.getcwd(), list(sys.path), dict(os.environ))
        for attempt in range(1, ATTEMPTS + 1):
            result = _submit(job)
            if not result.killed or attempt == ATTEMPTS:
                break
        match _unpickle(result.content):
            case Record(id=run.id) as record:
                return record.model_copy(update={"attempts": attempt})
            case StorageError() as error:
                raise error
        return failed(run, *result.status_and_error(limit), attempt)


def isolate(perform: Perform, log: str | None = None) -> IsolatedPerform:
    """Return a function that calls `perform`, which must be picklable, in a new process for each run."""
    return IsolatedPerform(pickle.dumps(perform), log)


def failed(run: Run, status: Status, error: object, attempts: int = 1) -> Record:
    """Return the record of a `run` that ended without one."""
    from genbench.runner.worker import new_execution_name

    return Record(run=run, execution=new_execution_name(), status=status, error=error_line(error), attempts=attempts)


def error_line(error: object) -> str:
    """Return the message of `error`, after its type if it is an exception, in one line of at most 500 characters."""
    try:
        text = str(error)
    except Exception:
        text = "(its message cannot be printed)"
    return " ".join(
        one_line(f"{type(error).__name__}: {text}" if isinstance(error, BaseException) else text, 500).split()
    )


# ---------------------------------------------------------------------------------- between caller and server


class Job(NamedTuple):
    """A request to the server: call `perform` with `run`, both pickled, within `limit` seconds, in this environment."""

    perform: bytes
    run: bytes
    log: str | None
    limit: float | None
    folder: str
    path: list[str]
    environ: dict[str, str]


class Result(NamedTuple):
    """The result of a job: output of the child, exit code (-N: killed by signal N), whether it timed out."""

    content: bytes = b""
    code: int | None = None  # None: the server is gone
    timed_out: bool = False

    @property
    def killed(self) -> bool:
        """Whether the process was killed, other than for its timeout: another attempt may succeed."""
        return not self.timed_out and (self.code is None or self.code < 0)

    def status_and_error(self, limit: float | None) -> tuple[Status, str]:
        """Return status and error of a job without a record."""
        if self.timed_out:
            return "timeout", f"its process was killed: it was still running long after its timeout of {limit:g} s"
        if self.code is None:
            return "crashed", "its process and the server that started it were killed"
        if self.code >= 0:
            return "crashed", f"its process exited with code {self.code} and left no record"
        name = signal.Signals(-self.code).name if -self.code in set(signal.Signals) else f"signal {-self.code}"
        hint = "; if nobody did so by hand, the system was out of memory" if -self.code == signal.SIGKILL else ""
        return "crashed", f"its process was killed by {name}{hint}"


def _unpickle(content: bytes) -> object:
    """Return the unpickled output of a child, None if it is incomplete."""
    try:
        return pickle.loads(content)
    except Exception:
        return None


class Server:
    """A process that forks a child for each job, one at a time; it ends, with its child, when the caller ends."""

    def __init__(self) -> None:
        own_end, child_end = socket.socketpair()
        path = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "0")}
        with child_end:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", "from genbench.runner.isolation import serve; serve()"],
                stdin=child_end.fileno(),
                env=os.environ | path,
                process_group=0,  # Ctrl-C in a terminal goes to the caller only
            )
        self.connection = Connection(own_end.detach())

    def close(self) -> None:
        """Stop the process and its child."""
        self.connection.close()
        try:
            self.process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            self.process.kill()  # the child dies with it
            self.process.wait()


_idle: list[Server] = []


def start() -> None:
    """Start a server before the first run, so that it imports torch in the meantime."""
    if not _idle:
        _idle.append(Server())


@atexit.register
def _close() -> None:
    while _idle:
        _idle.pop().close()


def _submit(job: Job) -> Result:
    """Return the result of `job`; thread-safe."""
    server = _idle.pop() if _idle else Server()
    try:
        server.connection.send(job)
        while not server.connection.poll(1.0):
            check()
        result: Result = server.connection.recv()
    except (EOFError, ConnectionError):
        server.close()
        return Result()
    except BaseException:
        server.close()
        raise
    _idle.append(server)
    return result


# -------------------------------------------------------------------------------------------- in the server


def serve() -> NoReturn:
    """Fork a child for each job from the caller, at the other end of standard input, until the caller exits."""
    caller = Connection(os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    modules: Sequence[str] = PRELOAD
    with suppress(EOFError, ConnectionError):
        while True:
            for name in modules:
                with suppress(Exception):  # the child reports missing modules
                    importlib.import_module(name)
            job: Job = caller.recv()
            result, modules = _fork_child(job, caller, wake_read)
            caller.send(result)
    os._exit(0)


def _fork_child(job: Job, caller: Connection, wake_read: int) -> tuple[Result, list[str]]:
    """Return the result of `job` in a child, and the modules that the child imported.

    Raises:
        EOFError: the caller has exited.
    """
    began, timed_out, result, server = time.monotonic(), False, _unnamed_file(), os.getpid()
    if (pid := os.fork()) == 0:
        caller.close()
        _child(job, result, server)
    with suppress(OSError):  # the child does it, too; whichever comes first
        os.setpgid(pid, pid)
    try:
        while not (done := os.waitpid(pid, os.WNOHANG))[0]:
            left = None if job.limit is None else began + job.limit - time.monotonic()
            if timed_out := left is not None and left <= 0:
                os.killpg(pid, signal.SIGKILL)
                done = os.waitpid(pid, 0)
                break
            ready = wait([caller, wake_read], left)
            if caller in ready:
                raise EOFError
            if wake_read in ready:
                os.read(wake_read, 4096)
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # processes that the run has left behind
    content = os.pread(result, os.fstat(result).st_size, 0)
    os.close(result)
    match _unpickle(content):
        case (list(modules), bytes(content)):
            return Result(content, os.waitstatus_to_exitcode(done[1]), timed_out), modules
    return Result(b"", os.waitstatus_to_exitcode(done[1]), timed_out), []


def _unnamed_file() -> int:
    """Return the descriptor of a new unnamed file, in memory where the system supports it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("answer")
    file, name = tempfile.mkstemp()
    os.unlink(name)
    return file


def _child(job: Job, result: int, server: int) -> NoReturn:
    """Do `job`, write its record to `result` and exit, whatever is raised."""
    code = 1
    try:
        os.setpgid(0, 0)
        die_with_parent(server)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        before = set(sys.modules)
        content = pickle.dumps(_perform(job))
        new = [name for name in sorted(set(sys.modules) - before) if name.partition(".")[0] in PRELOADED]
        os.pwrite(result, pickle.dumps((new, content)), 0)
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        code = 0
    finally:
        os._exit(code)


def _perform(job: Job) -> Record | StorageError:
    run: Run = pickle.loads(job.run)
    try:
        if job.log:
            log = os.open(job.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            os.dup2(log, 1)
            os.dup2(log, 2)
        os.environ.clear()
        os.environ.update(job.environ)
        os.chdir(job.folder)
        sys.path[:] = job.path
        perform: Perform = pickle.loads(job.perform)
        return perform(run)
    except StorageError as error:
        return error
    except BaseException as error:  # also SystemExit from a model
        return failed(run, "error", error)


def die_with_parent(parent: int) -> None:
    """Let the system kill this process when its `parent` exits."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
