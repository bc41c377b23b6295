"""Performs one run: loads data, builds and trains the model, measures; returns a `Record`, whatever happens."""

from __future__ import annotations

import io
import math
import secrets
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from genbench import __version__
from genbench.dataset import Dataset
from genbench.evaluation import Evaluation
from genbench.model import Diverged, Model
from genbench.notices import collecting
from genbench.records.artifacts import StorageError, Work
from genbench.records.environment import environment, host
from genbench.records.record import Measurement, Record, Status
from genbench.records.sources import external_sources, own_digest, source_fingerprint
from genbench.registry import find
from genbench.runner.isolation import error_line
from genbench.runner.staleness import files_digest
from genbench.strict_model import first_error
from genbench.suite import Run
from genbench.train import ForeignCheckpoint, TrainState, make_parameters_dense, reseed, train, train_state, unpack
from genbench.validation.datasets import check_density, load_dataset
from genbench.validation.measurements import check_files, check_measurements, check_names_unused
from genbench.validation.models import (
    check_log_prob,
    check_model,
    check_reloaded,
    check_samples,
    check_state,
    materialize,
    state_of,
)


def new_execution_name() -> str:
    """Return a name for one execution that sorts by time: UTC time, host, random."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}-{host()}-{secrets.token_hex(3)}"


def perform(run: Run, *, work: str, checkpoint_every: float = 30.0) -> Record:
    """Return the record of `run`: its model trained, or loaded from `work` if trained already, and measured.

    An error in a run becomes the status of its record, with a one-line message; the traceback is in
    ``<work>/<run.id>/error.txt``. Only a work folder that cannot be read or written is not an outcome of the run and
    gives no record.

    Args:
        work: path or fsspec URL of checkpoints, trained models and pictures.
        checkpoint_every: seconds between two checkpoints.

    Raises:
        StorageError: a file in `work` cannot be read or written.
    """
    began, folder = time.monotonic(), Work(work)
    fields: dict[str, Any] = {"timings": {}}
    status: Status = "ok"
    with collecting() as notes:
        try:
            _perform(run, folder, checkpoint_every, fields)
        except (StorageError, KeyboardInterrupt):
            raise
        except BaseException as error:  # SystemExit, too: a model must not end the process of its run
            status = _status(error)
            fields["error"] = _line(error)
            folder.save(f"{run.id}/error.txt", traceback.format_exc().encode(errors="replace"))
    fields["timings"]["total"] = time.monotonic() - began
    return Record(run=run, execution=new_execution_name(), status=status, notes=tuple(notes), **fields)


def _line(error: BaseException) -> str:
    match error:
        case BaseExceptionGroup():  # of metrics, each named there
            return error_line(error.message)
        case ValidationError():  # of a measurement
            return error_line(f"{error.title}: {first_error(error)}")
    return error_line(error)


def _status(error: BaseException) -> Status:
    match error:
        case BaseExceptionGroup():
            statuses = [_status(each) for each in error.exceptions]
            return "diverged" if "diverged" in statuses else statuses[0]
        case Diverged():
            return "diverged"
        case TimeoutError():
            return "timeout"
        case torch.cuda.OutOfMemoryError():
            return "cuda_oom"
        case MemoryError():
            return "host_oom"
        case RuntimeError() if "can't allocate memory" in str(error):  # torch's CPU allocator
            return "host_oom"
    return "error"


def _perform(run: Run, work: Work, checkpoint_every: float, record: dict[str, Any]) -> None:
    deadline = time.monotonic() + (run.resources.timeout or math.inf)
    device = prepare_device(run)
    record["environment"] = environment(device)
    record["code"] = code_of(run)
    reseed("data", run.data)  # not the run's seed: a data set's own draws are the same for every run
    with record_time(record, "data"):
        dataset = load_dataset(run.data)
        record["data_sha256"] = dataset.sha256
    with record_time(record, "train"):
        model, progress = train_or_load(run, dataset, work, device, checkpoint_every, deadline)
        record["curve"], record["selected_step"] = tuple(progress.curve), progress.selected_step
    with record_time(record, "evaluate"):
        measure_all(Evaluation(model, dataset, run, progress.snapshots), work, record, deadline)


def code_of(run: Run) -> dict[str, str | bool | None]:
    """Return the versions and digests of sources and files that show later whether the record is out of date."""
    code = {"genbench": __version__, "sources": own_digest(), **external_sources(run)}
    if files := files_digest(run.data):
        code[f"files {run.data}"] = files
    return dict(code)


def data_digest(run: Run) -> Record:
    """Return a record with only the current SHA-256 of the data of `run`."""
    reseed("data", run.data)
    return Record(run=run, execution=new_execution_name(), status="ok", data_sha256=load_dataset(run.data).sha256)


@contextmanager
def record_time(record: dict[str, Any], name: str) -> Iterator[None]:
    """Add the seconds spent inside to `record`."""
    began = time.monotonic()
    try:
        yield
    finally:
        record["timings"][name] = time.monotonic() - began


def prepare_device(run: Run) -> torch.device:
    """Return the device of `run`, after setting torch's number of threads and precision of matrix products."""
    torch.set_num_threads(max(1, int(run.resources.cpus)))
    torch.set_float32_matmul_precision("high" if run.precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = run.precision == "tf32"
    if run.resources.gpus and not torch.cuda.is_available():
        raise RuntimeError(
            "the run requests a GPU and this process sees none; check CUDA_VISIBLE_DEVICES and `genbench doctor`"
        )
    return torch.device("cuda" if run.resources.gpus else "cpu")


def build_model(run: Run, dataset: Dataset, device: torch.device) -> Model:
    """Return the untrained model of `run`, its weights drawn from its seed."""
    reseed(run.seed, "weights")
    model = check_model(run.model, find("models", run.model)(dataset.space, **run.options))
    if model.likelihood is not None:
        check_density(run.data, dataset)
    materialize(model, dataset.train[: run.batch])
    make_parameters_dense(model)  # so that a loaded model computes with the strides of a trained one
    return model.to(device)


def train_or_load(
    run: Run, dataset: Dataset, work: Work, device: torch.device, checkpoint_every: float, deadline: float
) -> tuple[Model, TrainState]:
    """Return the trained model of `run` in evaluation mode, and its training state.

    It is loaded if `work` contains it, trained by the same code on the same data; otherwise it is trained and saved.
    """
    name, model = f"{run.id}/model.pt", build_model(run, dataset, device)
    code = f"{source_fingerprint(run)}-{dataset.sha256[:16]}"
    packed = work.load(name)
    try:
        if (progress := _load_model(packed, code, model)) is not None:
            return model.eval(), progress
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # any content, and a user's own load_state_dict
        work.set_aside(name, error_line(error))
        model = build_model(run, dataset, device)
    training = partial(train, dataset=dataset, run=run, work=work, code=code, checkpoint_every=checkpoint_every)
    try:
        progress = training(model, deadline=deadline)
    except ForeignCheckpoint as error:
        work.set_aside(f"{run.id}/checkpoint.pt", str(error))
        model = build_model(run, dataset, device)
        progress = training(model, deadline=deadline)
    reseed(run.seed, "finish")
    state = state_of(model)
    model.fit_closed_form(dataset.train.to(device))
    check_state(model, state)
    packed, reloaded = _pack(code, model, progress), build_model(run, dataset, device)
    _load_model(packed, code, reloaded)
    check_reloaded(model, *(probe_outputs(m.eval(), dataset, run.seed) for m in (model, model, reloaded)))
    work.save(name, packed)
    work.remove(f"{run.id}/checkpoint.pt")
    return model.eval(), progress


@torch.no_grad()
def probe_outputs(model: Model, dataset: Dataset, seed: int) -> Tensor | None:
    """Return log p of a few test points, (B,), or a few samples of a model without a likelihood; None if that fails.

    Equal models give equal outputs: draws are seeded. A failure here is reported by the metrics.
    """
    reseed(seed, "answer")
    with suppress(Exception):
        return _outputs(model, dataset)
    return None


def _outputs(model: Model, dataset: Dataset) -> Tensor | None:
    if model.likelihood is not None:
        x = dataset.test[:8].to(next((t.device for t in model.state_dict().values()), torch.device("cpu")))
        return check_log_prob(model, model.log_prob(x), x)
    if model.generative:
        return check_samples(model, model.sample(2), 2, dataset.space)
    return None


def _load_model(packed: bytes | None, code: str, model: Model) -> TrainState | None:
    """Load a trained model into `model` and return its training state; None if `packed` is of other code."""
    state = unpack(packed, code)
    if state is None:
        return None
    model.load_state_dict(state["model"])
    return train_state(state["state"])


def _pack(code: str, model: Model, progress: TrainState) -> bytes:
    saved = {name: getattr(progress, name) for name in ("step", "seconds", "selected_step", "snapshots")}
    saved["curve"] = [asdict(point) for point in progress.curve]
    file = io.BytesIO()
    torch.save({"code": code, "model": model.state_dict(), "state": saved}, file)
    return file.getvalue()


def measure_all(evaluation: Evaluation, work: Work, record: dict[str, Any], deadline: float) -> None:
    """Add the metrics of the run to `record`, each with draws of its own; a failure does not affect the others.

    Raises:
        BaseExceptionGroup: the errors of metrics that failed, with a line that names them.
        TimeoutError: `deadline` has passed.
    """
    run, owners = evaluation.run, dict[str, str]()
    record["measurements"], failures = {}, dict[str, BaseException]()
    for name in run.metrics:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no time was left for the metric {name!r}")
        try:
            measurements, drawn = take_metric(name, evaluation, owners)
            files = {file: work.put(content, PurePosixPath(file).suffix) for file, content in drawn.items()}
        except StorageError:
            raise
        except (Exception, SystemExit) as error:
            failures[name] = error
            continue
        owners |= dict.fromkeys((*measurements, *drawn), name)
        record["measurements"] |= measurements
        record["files"] = record.get("files", {}) | files
        record["completed"] = (*record.get("completed", ()), name)
        if not measurements and not files:
            record["not_applicable"] = (*record.get("not_applicable", ()), name)
    if failures:
        message = "; ".join(f"{name}: {_line(error)}" for name, error in failures.items())
        raise BaseExceptionGroup(message, list(failures.values()))


def take_metric(
    name: str, evaluation: Evaluation, owners: dict[str, str]
) -> tuple[dict[str, Measurement], dict[str, bytes]]:
    """Return the checked measurements and files of the metric `name`; `owners`: the metric of each name used so far."""
    reseed(evaluation.run.seed, name)
    evaluation.files.clear()
    measurements = check_measurements(find("metrics", name).measure(evaluation))
    check_files(evaluation.files)
    check_names_unused({**measurements, **evaluation.files}, owners)
    return measurements, dict(evaluation.files)
