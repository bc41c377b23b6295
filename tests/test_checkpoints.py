"""Checkpoints and trained models that are damaged or of another run are set aside, and the run gives the same bits."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genbench.records.artifacts import Work
from genbench.records.record import Record
from genbench.runner.worker import perform
from genbench.suite import Run
from tests.faulty import a_run, weights

State = dict[str, Any]


def run_at(folder: Path, **options: object) -> Run:
    return a_run(optimizer={"ema": 0.9}, options={"folder": str(folder), **options})


@pytest.fixture
def undisturbed(tmp_path: Path) -> Record:
    """The record of the run, never stopped."""
    (tmp_path / "fault").touch()
    record = perform(run_at(tmp_path, fault="raise", at=15), work=str(tmp_path / "undisturbed"))
    (tmp_path / "fault").unlink()
    assert record.status == "ok"
    return record


@pytest.fixture
def stopped(tmp_path: Path) -> Run:
    """A run that stopped after step 14 and left a checkpoint of it."""
    run = run_at(tmp_path, fault="raise", at=15)
    assert perform(run, work=str(tmp_path / "work"), checkpoint_every=0.0).status == "error"
    return run


def change(work: Work, name: str, edit: Callable[[State], object]) -> None:
    """Save the state that `edit` makes of what is saved under `name`, well-formed."""
    packed = work.load(name)
    assert packed is not None
    state, file = torch.load(io.BytesIO(packed), weights_only=True), io.BytesIO()
    edited = edit(state)
    torch.save(state if edited is None else edited, file)
    work.save(name, file.getvalue())


def other_shapes(state: State) -> None:
    state["model"]["mu"] = torch.zeros(5)


def missing_key(state: State) -> None:
    del state["model"]["mu"]


def no_optimizers(state: State) -> None:
    state["optimizers"] = []


def moments_of_other_shape(state: State) -> None:
    for moments in state["optimizers"][0]["state"].values():
        moments["exp_avg"] = torch.zeros(7)


def more_parameters(state: State) -> None:
    state["optimizers"][0]["param_groups"][0]["params"] = [0, 1, 2]


def averages_of_other_shape(state: State) -> None:
    state["ema"] = [torch.zeros(3)]


def beyond_the_end(state: State) -> None:
    state["state"]["step"] = 41


def unknown_progress(state: State) -> None:
    state["state"]["luck"] = 1


def selected_of_other_shape(state: State) -> None:
    state["state"]["selected"] = {name: torch.zeros(5) for name in state["model"]}


def another_object(state: State) -> object:
    return [1, 2]


EDITS = [
    other_shapes,
    missing_key,
    no_optimizers,
    moments_of_other_shape,
    more_parameters,
    averages_of_other_shape,
    beyond_the_end,
    unknown_progress,
    selected_of_other_shape,
    another_object,
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_a_checkpoint_of_another_model_is_set_aside(
    edit: Callable[[State], object], undisturbed: Record, stopped: Run, tmp_path: Path
) -> None:
    folder, name = tmp_path / "work", f"{stopped.id}/checkpoint.pt"
    change(Work(folder), name, edit)
    record = perform(stopped, work=str(folder))
    (note,) = record.notes
    assert note.startswith(f"{folder / name} is damaged: ")
    assert (folder / f"{name}.damaged").exists()
    assert (record.status, record.measurements) == ("ok", undisturbed.measurements)
    assert weights(folder, stopped) == weights(tmp_path / "undisturbed", stopped)
    assert (tmp_path / "steps").read_text().count("\n") == 40 + 15 + 40, "it began anew"


@pytest.mark.parametrize("damage", [lambda b: b[:100], lambda b: b"", lambda b: b[:-1], lambda b: b"\0" * len(b)])
def test_a_damaged_checkpoint_is_set_aside(
    damage: Callable[[bytes], bytes], undisturbed: Record, stopped: Run, tmp_path: Path
) -> None:
    path = tmp_path / "work" / stopped.id / "checkpoint.pt"
    path.write_bytes(damage(path.read_bytes()))
    record = perform(stopped, work=str(tmp_path / "work"))
    assert (record.status, record.measurements) == ("ok", undisturbed.measurements)
    assert [str(path) in note for note in record.notes] == [True]


def test_a_checkpoint_of_another_run_is_not_resumed(undisturbed: Record, stopped: Run, tmp_path: Path) -> None:
    other = Run.model_validate(stopped.model_dump() | {"seed": 7})
    shutil.copytree(tmp_path / "work" / stopped.id, tmp_path / "work" / other.id)
    (note,) = perform(other, work=str(tmp_path / "work")).notes
    assert f"{other.id}/checkpoint.pt is damaged: its content does not match its SHA-256" in note


def test_a_good_checkpoint_is_gone_on_with(undisturbed: Record, stopped: Run, tmp_path: Path) -> None:
    record = perform(stopped, work=str(tmp_path / "work"))
    assert (record.status, record.measurements, record.notes) == ("ok", undisturbed.measurements, ())
    assert (tmp_path / "steps").read_text().count("\n") == 40 + 15 + 26


@pytest.mark.parametrize("edit", [other_shapes, missing_key, unknown_progress, another_object])
def test_a_trained_model_of_another_kind_is_trained_again(
    edit: Callable[[State], object], undisturbed: Record, tmp_path: Path
) -> None:
    folder, run = tmp_path / "undisturbed", undisturbed.run
    good = weights(folder, run)
    change(Work(folder), f"{run.id}/model.pt", edit)
    (tmp_path / "fault").touch()
    record = perform(run, work=str(folder))
    assert [f"{run.id}/model.pt is damaged" in note for note in record.notes] == [True]
    assert (record.status, record.measurements) == ("ok", undisturbed.measurements)
    assert weights(folder, run) == good


def test_the_learning_curve_survives_a_crash_between_training_and_the_record(
    undisturbed: Record, tmp_path: Path
) -> None:
    """The record is lost; the model is not trained again, and what a second call measures has the curve."""
    record = perform(undisturbed.run, work=str(tmp_path / "undisturbed"))
    assert (tmp_path / "steps").read_text().count("\n") == 40
    assert len(record.curve) == 4
    assert (record.curve, record.selected_step) == (undisturbed.curve, undisturbed.selected_step)


def test_a_folder_called_error_txt_does_not_hide_the_error(tmp_path: Path) -> None:
    run = run_at(tmp_path, fault="raise", at=1)
    (tmp_path / "work" / run.id / "error.txt").mkdir(parents=True)
    record = perform(run, work=str(tmp_path / "work"))
    assert (record.status, record.error) == ("error", "ValueError: befallen as asked")
    assert [f"{run.id}/error.txt is damaged: it is a folder" in note for note in record.notes] == [True]
    assert "befallen" in (tmp_path / "work" / run.id / "error.txt").read_text()
