"""What tests run: a model of two numbers that fails on demand, data it fits at once, metrics, bare performers."""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genbench.dataset import Dataset, Space
from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.model import Model
from genbench.records.record import Record
from genbench.runner.worker import new_execution_name
from genbench.suite import Run

Fault = Literal["none", "killed", "hang", "nan", "raise"]
on_linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads processes from /proc")


class Gaussian(Model):
    """A Gaussian with learned mean and scale, per dimension.

    Options:
        fault: what befalls it at its step `at`, in this process: SIGKILL, sleep without end, a loss that is no number,
            an exception.
        folder: where it notes that the fault was had (a fault is had once) and, in `steps`, for every step its process
            and the parent of that.
        pause: seconds that a step lasts.
    """

    likelihood = "exact"

    def __init__(
        self, space: Space, *, fault: Fault = "none", at: int = 10, folder: str = "", pause: float = 0.0
    ) -> None:
        super().__init__(space)
        self.fault, self.at, self.folder, self.pause, self.steps = fault, at, folder, pause, 0
        self.mu, self.log_sigma = nn.Parameter(torch.randn(space.dims)), nn.Parameter(torch.zeros(space.dims))

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the Gaussian log-density, x (B, D) -> (B,) nats."""
        z = (x - self.mu) * torch.exp(-self.log_sigma)
        return (-0.5 * z**2 - self.log_sigma - 0.5 * math.log(2 * math.pi)).sum(-1)

    def sample(self, n: int) -> Tensor:
        """Return n points (n, D)."""
        return self.mu + torch.exp(self.log_sigma) * torch.randn(n, self.space.dims)

    def loss(self, x: Tensor) -> Tensor:
        """Return the loss () of slightly noisy data, so that the draws of every step matter."""
        time.sleep(self.pause)
        self.steps += 1
        if self.folder:
            with open(f"{self.folder}/steps", "a") as file:
                file.write(f"{os.getpid()}<{os.getppid()}\n")
        loss = super().loss(x + 0.1 * torch.randn_like(x))
        return self._befallen(loss) if self.steps == self.at and self.fault != "none" else loss

    def _befallen(self, loss: Tensor) -> Tensor:
        if self.folder and not _first(Path(self.folder, "fault")):
            return loss
        match self.fault:
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(3600)
            case "raise":
                raise ValueError("befallen\nas asked")
        return loss * math.nan


class Drawing(Gaussian):
    """A Gaussian whose loss depends on draws of NumPy and of Python."""

    def loss(self, x: Tensor) -> Tensor:
        """Return the loss () of data that are moved by two draws."""
        return super().loss(x + float(np.random.randn()) + random.random())


def _first(path: Path) -> bool:
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def normal() -> Dataset:
    """Return draws of a 2-D Gaussian."""
    x = 3 + 2 * torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    return Dataset(Space((2,)), x[:200], x[200:250], x[250:])


def _nats(evaluation: Evaluation) -> dict[str, Measurement]:
    value = -evaluation.log_prob.mean().item()
    return {"nats": Measurement(value=value, unit="nats", better="lower", n=50, impl="nats 1")}


def _span(evaluation: Evaluation) -> dict[str, Measurement]:
    began = time.time()
    time.sleep(0.2)
    threads, raw = torch.get_num_threads(), (began, time.time())
    return {"span": Measurement(value=float(threads), unit="threads", impl="span 1", raw=raw)}


nats = Metric(_nats)
span = Metric(_span, exclusive=True)  # when it was taken, and with how many threads


def weights(work: Path, run: Run) -> dict[str, list[float]]:
    """Return the trained weights of `run` that are kept under `work`."""
    saved = torch.load(work / run.id / "model.pt", weights_only=True)
    return {name: value.tolist() for name, value in saved["model"].items()}


def a_run(seed: int = 0, **settings: object) -> Run:
    """Return a short run of the Gaussian."""
    defaults = {"suite": "faulty", "name": "Gaussian", "steps": 40, "batch": 50, "checks": 4}
    names = {"model": "tests.faulty:Gaussian", "data": "tests.faulty:normal", "metrics": ("tests.faulty:nats",)}
    return Run.model_validate(defaults | names | {"seed": seed} | settings)


# -------------------------------------------------------------------------------------------- trivial performers


@contextmanager
def noted(folder: str, run: Run) -> Iterator[None]:
    """Leave in `folder` when the run's time inside began and ended."""
    began = time.time()
    yield
    Path(folder, f"{run.seed}-{os.getpid()}").write_text(f"{began} {time.time()}")


def sleeper(run: Run, *, folder: str) -> Record:
    """Return a record of what this process was given, after 0.3 s."""
    with noted(folder, run):
        time.sleep(0.3)
    environment = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
    return Record(run=run, execution=new_execution_name(), status="ok", environment=environment | {"pid": os.getpid()})


def meeting(run: Run, *, folder: str, size: int) -> Record:
    """Return an ok record once `size` runs are under way at the same time; raises TimeoutError if they never are."""
    Path(folder, str(run.seed)).touch()
    limit = time.monotonic() + 60
    while len(os.listdir(folder)) < size:
        if time.monotonic() > limit:
            raise TimeoutError(f"{os.listdir(folder)} alone")
        time.sleep(0.05)
    environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"), "pid": os.getpid()}
    return Record(run=run, execution=new_execution_name(), status="ok", environment=environment)


def always_killed(run: Run) -> Record:
    """Return nothing: the process is killed."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("not reached")


def without_end(run: Run) -> Record:
    """Return nothing, and mind no timeout."""
    while True:
        time.sleep(1)


def not_performing(run: Run) -> Record:
    """Return nothing: an exception that should have become a record escapes."""
    raise LookupError(f"of seed {run.seed}\nescapes")
