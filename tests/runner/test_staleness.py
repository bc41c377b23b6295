"""Records whose code or data changed are repeated, with the reason; others are not."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from genbench.records.artifacts import Work
from genbench.records.record import Record
from genbench.records.store import Store
from genbench.runner import staleness as staleness
from genbench.runner.driver import Outcome, drive
from genbench.runner.executors import in_process
from genbench.runner.progress import ProgressReporter
from genbench.runner.worker import data_digest, perform
from genbench.suite import Run

MODEL = """
from genbench.model import Model
from helping import scale
from torch import nn, tensor

class Mine(Model):
    likelihood = "exact"

    def __init__(self, space, *, fails=False):
        super().__init__(space)
        self.fails, self.mu = fails, nn.Parameter(tensor(0.0))

    def log_prob(self, x):
        if self.fails:
            raise ValueError("a mistake")
        return -(x - self.mu).square().sum(1) * scale()

    def sample(self, n):
        return self.mu + 0 * n
"""
DATA = """
import numpy, pathlib, torch
from genbench.dataset import Dataset, Space

def points():
    x = torch.from_numpy(numpy.load(pathlib.Path(__file__).with_name("points.npy")))
    return Dataset(Space((2,)), x[:20], x[20:30], x[30:])
"""
METRIC = """
from genbench.evaluation import Measurement, Metric

def measure(evaluation):
    evaluation.files["drawn.png"] = b"picture"
    return {"nats": Measurement(value=-evaluation.log_prob.mean().item(), unit="nats", impl="mine 1")}

def measure_one(evaluation):
    return {"one": Measurement(value=1.0, unit="", impl="one 1")}

nats, one = Metric(measure), Metric(measure_one)
"""
MODULES = {"modelling": MODEL, "helping": "def scale():\n    return 1.0\n", "data_of_mine": DATA, "measuring": METRIC}


class CollectedMessages(ProgressReporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class Project:
    """A folder of a user: a model that imports a neighbour, data from a file, a metric; and results."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, Store(folder / "results")
        for module, text in MODULES.items():
            self.write(module, text)
        self.points(0)

    def write(self, module: str, text: str) -> None:
        """Change the file of a module, and forget what was imported of all."""
        (self.folder / f"{module}.py").write_text(text)
        for name in MODULES:
            sys.modules.pop(name, None)
        importlib.invalidate_caches()

    def points(self, seed: int) -> None:
        """Change the data."""
        np.save(self.folder / "points.npy", np.random.default_rng(seed).normal(size=(40, 2)).astype(np.float32))

    def runs(self, **settings: object) -> list[Run]:
        fields = {"suite": "s", "name": "M", "model": "modelling:Mine", "data": "data_of_mine:points"}
        fields |= {"metrics": ("measuring:nats",), "steps": 2, "batch": 8, "checks": 1} | settings
        return [Run.model_validate(fields | {"seed": seed}) for seed in range(2)]

    def call(self, rerun: bool = False, **settings: object) -> list[str]:
        """Drive the runs and return what was said."""
        messages, runs = CollectedMessages(), self.runs(**settings)
        performing = partial(perform, work=str(self.store.work))
        self.performed = list[Run]()

        def noted(run: Run) -> Record:
            self.performed.append(run)
            return performing(run)

        def digest(run: Run) -> str | None:
            (record,) = in_process(data_digest, [run])
            return record.data_sha256

        self.outcome: Outcome = drive(
            runs, self.store, in_process, perform=noted, rerun=rerun, digest=digest, progress=messages
        )
        return messages.lines

    def trained(self) -> bytes | None:
        """Return the trained model of seed 0 as it is saved, with the digest of its code."""
        return Work(self.store.work).load(f"{self.runs()[0].id}/model.pt")

    def values(self) -> list[float | None]:
        """Return the values of seed 0, oldest first."""
        return [r.measurements["nats"].value for r in self.store.of(self.runs()[0]) if r.measurements]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    project = Project(tmp_path)
    assert project.call() == []
    assert len(project.performed) == 2
    yield project
    for name in MODULES:
        sys.modules.pop(name, None)


def test_what_has_not_changed_is_not_repeated(project: Project) -> None:
    assert project.call() == ["2 of 2 runs are done already"]
    assert project.performed == []
    (project.folder / "unrelated.py").write_text("")
    project.points(0)
    assert project.call() == ["2 of 2 runs are done already"]


def test_a_row_of_another_name_is_recorded_under_that_name(project: Project) -> None:
    project.call(name="renamed")
    assert len(project.performed) == 2
    assert [record.run.name for record in project.store.of(project.runs()[0])] == ["M", "renamed"]


def test_a_changed_model_is_trained_and_measured_again(project: Project) -> None:
    before = project.trained()
    project.write("modelling", MODEL.replace("return -(x", "return -2 * (x"))
    assert project.call() == ["repeating 2 runs: modelling.py changed since they were recorded"]
    assert (project.outcome.done, len(project.performed)) == (2, 2)
    first, second = project.values()
    assert project.trained() != before, "weights of the old code are not used"
    assert second == pytest.approx(2 * first, rel=0.01)
    assert project.call() == ["2 of 2 runs are done already"]


def test_a_module_that_the_model_imports_counts(project: Project) -> None:
    before = project.trained()
    project.write("helping", "def scale():\n    return 3.0\n")
    assert project.call() == ["repeating 2 runs: helping.py changed since they were recorded"]
    assert project.trained() != before
    assert project.values()[1] == pytest.approx(3 * project.values()[0], rel=0.01)


def test_a_changed_metric_is_measured_again_with_the_same_weights(project: Project) -> None:
    before = project.trained()
    project.write("measuring", METRIC.replace("value=-", "value=7 -"))
    assert project.call() == ["measuring 2 runs again: measuring.py changed since they were recorded"]
    assert project.values()[1] == pytest.approx(7 + project.values()[0])
    assert project.trained() == before


def test_only_the_metric_that_changed_is_measured_again(project: Project) -> None:
    metrics = ("measuring:nats", "parameters")
    project.call(metrics=metrics)
    assert {run.metrics for run in project.performed} == {("parameters",)}
    project.write("measuring", f"{METRIC}#")
    project.call(metrics=metrics)
    assert {run.metrics for run in project.performed} == {("measuring:nats",)}


def test_changed_data_are_noticed_though_no_code_has_changed(project: Project) -> None:
    before = project.trained()
    project.points(1)
    reason = "the data of data_of_mine:points changed since they were recorded"
    assert project.call() == [f"repeating 2 runs: {reason}"]
    assert project.trained() != before, "weights of other data are not used"
    assert project.values()[0] != project.values()[1]
    assert project.call() == ["2 of 2 runs are done already"]


def test_data_that_are_gone_repeat_nothing(project: Project) -> None:
    (project.folder / "points.npy").unlink()
    assert project.call() == ["2 of 2 runs are done already"]


def test_going_back_to_the_code_of_an_older_record_repeats_it_too(project: Project) -> None:
    project.write("helping", "def scale():\n    return 3.0\n")
    project.call()
    project.write("helping", MODULES["helping"])
    assert project.call() == ["repeating 2 runs: helping.py changed since they were recorded"]
    a, b, c = project.values()
    assert a == c != b


def test_a_failure_is_retried_once_its_code_has_changed(project: Project) -> None:
    failing = {"options": {"fails": True}}
    project.call(**failing)
    assert [r.status for r in project.outcome.failed] == ["error", "error"]
    assert project.call(**failing)[-1] == "2 of 2 have failed before; --retry-failed repeats them"
    assert project.performed == []
    project.write("modelling", MODEL.replace('raise ValueError("a mistake")', "pass"))
    assert project.call(**failing)[0] == "repeating 2 runs: modelling.py changed since they were recorded"
    assert (project.outcome.done, project.outcome.failed) == (2, ())


def test_rerun_repeats_exactly_the_selected_runs(project: Project) -> None:
    assert project.call(rerun=True) == ["repeating 2 runs, because of --rerun"]
    assert (len(project.performed), project.outcome.done) == (2, 2)
    assert project.values()[0] == project.values()[1]
    assert project.call() == ["2 of 2 runs are done already"]


def test_a_change_of_genbench_is_reported_and_repeats_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staleness, "own_digest", lambda: "another")
    line = "genbench itself changed since 2 runs were recorded; --rerun repeats them"
    assert project.call() == [line, "2 of 2 runs are done already"]
    assert project.performed == []


def test_of_records_of_older_versions_only_a_change_of_genbench_is_known(project: Project) -> None:
    for run in project.runs():
        (record,) = project.store.of(run)
        (project.store.folder / "s" / run.id / f"{record.execution}.json").unlink()
        project.store.write(record.model_copy(update={"code": {"commit": "0" * 40}, "data_sha256": "0" * 64}))
    project.write("modelling", f"{MODEL}#")
    line = "genbench itself changed since 2 runs were recorded; --rerun repeats them"
    assert project.call() == [line, "2 of 2 runs are done already"]


def test_a_damaged_picture_is_set_aside_and_drawn_again(project: Project) -> None:
    (record, *_) = project.store.of(project.runs()[0])
    picture = project.store.work / record.files["drawn.png"]
    picture.write_bytes(b"Picture")
    messages = project.call()
    assert messages[0].startswith(f"{picture} is damaged: its content does not match the SHA-256 in its name")
    assert (len(project.performed), project.outcome.done) == (2, 2), "both seeds drew the same"
    assert picture.read_bytes() == b"picture"
    assert project.call() == ["2 of 2 runs are done already"]


def test_pictures_that_are_nowhere_as_of_published_records_are_not_drawn_again(project: Project) -> None:
    (record, *_) = project.store.of(project.runs()[0])
    (project.store.work / record.files["drawn.png"]).unlink()
    assert project.call() == ["2 of 2 runs are done already"]


def test_a_record_says_what_decided_it(project: Project) -> None:
    (record,) = project.store.of(project.runs()[0])
    assert set(record.code) >= {"genbench", "sources", "commit", "model modelling:Mine", "dataset data_of_mine:points"}
    assert str(record.code["model modelling:Mine"]).startswith("helping.py ")
    assert record.code["sources"] == staleness.own_digest()


def test_files_of_data_sets_of_genbench_are_loaded_only_if_they_look_different(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENBENCH_DATA", str(tmp_path))
    (tmp_path / "miniboone").mkdir()
    path = tmp_path / "miniboone" / "data.npy"
    np.save(path, np.zeros((20, 3)))
    run = Run(suite="s", name="n", model="flows.nice:NICE", data="tabular:MINIBOONE")
    code = {"sources": "any", "files tabular:MINIBOONE": staleness.files_digest("tabular:MINIBOONE")}
    record = Record(run=run, execution="1", status="ok", data_sha256="a" * 64, code=code)
    loaded: list[Run] = []

    def digest(run: Run) -> str:
        loaded.append(run)
        return "b" * 64

    look = partial(staleness.Staleness, earlier={"1"}, digest=digest)
    assert look().model_changes(record) == []
    assert loaded == []
    np.save(path, np.zeros((21, 3)))
    assert look().model_changes(record) == ["the data of tabular:MINIBOONE"]
    assert loaded == [run]
