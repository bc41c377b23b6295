"""A run in a process of its own: forked from a server that has imported torch, and that has run nothing.

Whatever a run does to its process (seeds, default dtype, working directory, patches, signal handlers) ends with it, and
whatever befalls it (a crash, an exit, a loop without end) is seen from outside and becomes a record.
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
ATTEMPTS = 3  # of a run whose process is killed: each continues from the last checkpoint
LEAST_GRACE, MOST_GRACE = 5.0, 30.0  # seconds after its timeout in which a run may end by itself
PRELOAD = ("genbench.runner.worker", "torch._dynamo")  # which an optimizer imports when it first takes a step
PRELOADED = {  # what a run has imported of these, the server imports before the next run
    *("genbench", "genbench_kernels", "torch", "torchvision", "torchdiffeq", "torch_fidelity", "triton", "fsspec"),
    *("numpy", "scipy", "sklearn", "joblib", "pandas", "matplotlib", "PIL", "ot", "pydantic", "sympy"),
    *sys.stdlib_module_names,
}


@dataclass(frozen=True)
class Isolated:
    """Performs each run in a new child process, with the working directory, sys.path and environment of its caller.

    Attributes:
        perform: what performs it, pickled: the caller need not import torch.
        log: file to which the child's output is appended; by default it goes where the caller's goes.
    """

    perform: bytes
    log: str | None = None

    def __call__(self, run: Run) -> Record:
        """Return the record of `run`, of status "crashed" or "timeout" if its process could not make one.

        Raises:
            StorageError: `perform` has raised it.
        """
        limit = run.resources.timeout
        most = limit + min(max(limit, LEAST_GRACE), MOST_GRACE) if limit else None
        job = Job(self.perform, pickle.dumps(run), self.log, most, os.getcwd(), list(sys.path), dict(os.environ))
        for attempt in range(1, ATTEMPTS + 1):
            answer = _submit(job)
            if not answer.killed or attempt == ATTEMPTS:
                break
        match _unpickle(answer.content):
            case Record(id=run.id) as record:
                return record.model_copy(update={"attempts": attempt})
            case StorageError() as error:
                raise error
        return failed(run, *answer.verdict(limit), attempt)


def isolate(perform: Perform, log: str | None = None) -> Isolated:
    """Return a performer that gives each run of `perform`, which can be pickled, a process of its own."""
    return Isolated(pickle.dumps(perform), log)


def failed(run: Run, status: Status, error: object, attempts: int = 1) -> Record:
    """Return the record of a `run` that could not make one itself."""
    from genbench.runner.worker import execution

    return Record(run=run, execution=execution(), status=status, error=error_line(error), attempts=attempts)


def error_line(error: object) -> str:
    """Return what `error` says, after its type if it is an exception, in one line of at most 500 characters."""
    try:
        text = str(error)
    except Exception:
        text = "(its message cannot be printed)"
    return " ".join(
        one_line(f"{type(error).__name__}: {text}" if isinstance(error, BaseException) else text, 500).split()
    )


# ---------------------------------------------------------------------------------- between caller and server


class Job(NamedTuple):
    """What a server is asked to do: `perform` on `run`, both pickled, within `limit` seconds, and where."""

    perform: bytes
    run: bytes
    log: str | None
    limit: float | None
    folder: str
    path: list[str]
    environ: dict[str, str]


class Answer(NamedTuple):
    """What became of a job: what the child wrote, its exit code (-N: signal N killed it), whether it took too long."""

    content: bytes = b""
    code: int | None = None  # None: the server is gone
    late: bool = False

    @property
    def killed(self) -> bool:
        """Whether the process was killed and not by its timeout: another attempt may succeed."""
        return not self.late and (self.code is None or self.code < 0)

    def verdict(self, limit: float | None) -> tuple[Status, str]:
        """Return status and error of a job without a record."""
        if self.late:
            return "timeout", f"its process was killed: it was still running well after its timeout of {limit:g} s"
        if self.code is None:
            return "crashed", "its process and the server that started it were killed"
        if self.code >= 0:
            return "crashed", f"its process exited with code {self.code} and left no record"
        name = signal.Signals(-self.code).name if -self.code in set(signal.Signals) else f"signal {-self.code}"
        hint = "; if not by hand, the system did so for want of memory" if -self.code == signal.SIGKILL else ""
        return "crashed", f"its process was killed by {name}{hint}"


def _unpickle(content: bytes) -> object:
    """Return what a child wrote, None if that was cut short or is nothing of the kind."""
    try:
        return pickle.loads(content)
    except Exception:
        return None


class Server:
    """A process that forks a child for each job, one at a time; it ends, with its child, when its caller does."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        path = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "0")}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", "from genbench.runner.isolation import serve; serve()"],
                stdin=theirs.fileno(),
                env=os.environ | path,
                process_group=0,  # Ctrl-C in a terminal is for the caller
            )
        self.connection = Connection(ours.detach())

    def close(self) -> None:
        """End it and its child."""
        self.connection.close()
        try:
            self.process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            self.process.kill()  # the child dies with it
            self.process.wait()


_idle: list[Server] = []


def start() -> None:
    """Start a server ahead of the first run, so that it imports torch meanwhile."""
    if not _idle:
        _idle.append(Server())


@atexit.register
def _close() -> None:
    while _idle:
        _idle.pop().close()


def _submit(job: Job) -> Answer:
    """Return what became of `job`; another one may be under way in another thread."""
    server = _idle.pop() if _idle else Server()
    try:
        server.connection.send(job)
        while not server.connection.poll(1.0):
            check()
        answer: Answer = server.connection.recv()
    except (EOFError, ConnectionError):
        server.close()
        return Answer()
    except BaseException:
        server.close()
        raise
    _idle.append(server)
    return answer


# -------------------------------------------------------------------------------------------- in the server


def serve() -> NoReturn:
    """Fork a child for each job of the caller, who is at the other end of standard input, until the caller is gone."""
    caller = Connection(os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    modules: Sequence[str] = PRELOAD
    with suppress(EOFError, ConnectionError):
        while True:
            for name in modules:
                with suppress(Exception):  # the child says what is missing
                    importlib.import_module(name)
            job: Job = caller.recv()
            answer, modules = _fork_child(job, caller, woken)
            caller.send(answer)
    os._exit(0)


def _fork_child(job: Job, caller: Connection, woken: int) -> tuple[Answer, list[str]]:
    """Return what became of `job` in a child, and what the child imported.

    Raises:
        EOFError: the caller is gone.
    """
    began, late, answer, server = time.monotonic(), False, _unnamed_file(), os.getpid()
    if (pid := os.fork()) == 0:
        caller.close()
        _child(job, answer, server)
    with suppress(OSError):  # the child does so, too: whoever is first
        os.setpgid(pid, pid)
    try:
        while not (done := os.waitpid(pid, os.WNOHANG))[0]:
            left = None if job.limit is None else began + job.limit - time.monotonic()
            if late := left is not None and left <= 0:
                os.killpg(pid, signal.SIGKILL)
                done = os.waitpid(pid, 0)
                break
            ready = wait([caller, woken], left)
            if caller in ready:
                raise EOFError
            if woken in ready:
                os.read(woken, 4096)
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # what the run has started and left
    content = os.pread(answer, os.fstat(answer).st_size, 0)
    os.close(answer)
    match _unpickle(content):
        case (list(modules), bytes(content)):
            return Answer(content, os.waitstatus_to_exitcode(done[1]), late), modules
    return Answer(b"", os.waitstatus_to_exitcode(done[1]), late), []


def _unnamed_file() -> int:
    """Return a new file that only who holds its descriptor sees; in memory where the system can."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("answer")
    file, name = tempfile.mkstemp()
    os.unlink(name)
    return file


def _child(job: Job, answer: int, server: int) -> NoReturn:
    """Do `job`, write its record to `answer` and exit; nothing escapes."""
    code = 1
    try:
        os.setpgid(0, 0)
        die_with_parent(server)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        before = set(sys.modules)
        content = pickle.dumps(_performed(job))
        new = [name for name in sorted(set(sys.modules) - before) if name.partition(".")[0] in PRELOADED]
        os.pwrite(answer, pickle.dumps((new, content)), 0)
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        code = 0
    finally:
        os._exit(code)


def _performed(job: Job) -> Record | StorageError:
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
    except BaseException as error:  # also what a model raises that ends a process
        return failed(run, "error", error)


def die_with_parent(parent: int) -> None:
    """Have the system kill this process once its `parent` is gone: nobody would want what it does."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
