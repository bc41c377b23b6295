"""Digests of the code that decides a run: of all of it, of nothing else, and of what is missing never in silence."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import genbench
from genbench.records import sources as sources
from genbench.records.sources import (
    MEASURING,
    NEUTRAL,
    changed,
    external_sources,
    own_digest,
    source_fingerprint,
    user_files,
)
from genbench.suite import Run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path with files of a user, none of which can be imported: they are only read."""
    files = {
        "mine.py": "import torch, beside\nfrom kit.parts import wheel\nfrom genbench.model import Model\n1/0",
        "beside.py": "def late():\n    import later\n",
        "later.py": "import beside, nowhere\n",
        "unused.py": "",
        "kit/__init__.py": "",
        "kit/parts/__init__.py": "from . import bolt\nfrom .. import tools\n",
        "kit/parts/wheel.py": "from .bolt import *\n",
        "kit/parts/bolt.py": "import importlib\nimportlib.import_module('dynamic')\n",
        "kit/parts/unused.py": "",
        "kit/tools.py": "not python\n",
        "dynamic.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


FILES = {
    *("mine.py", "beside.py", "later.py", "dynamic.py", "kit/__init__.py", "kit/tools.py"),
    *("kit/parts/__init__.py", "kit/parts/wheel.py", "kit/parts/bolt.py"),
}


def test_a_module_and_all_that_it_imports_of_the_users_count_and_nothing_is_executed(folder: Path) -> None:
    files = user_files("mine")
    assert files == {name: folder / name for name in FILES}
    assert not {"mine", "beside", "kit"} & set(sys.modules)
    assert set(user_files("kit.parts.wheel")) == {name for name in FILES if name.startswith("kit")} | {"dynamic.py"}


def test_each_file_counts_by_its_content(folder: Path) -> None:
    before = sources.sources_of("models", "mine:Model")
    assert before is not None
    for name in FILES:
        path = folder / name
        text = path.read_text()
        path.write_text(f"{text}#")
        now = sources.sources_of("models", "mine:Model")
        assert now is not None
        assert changed(before, now) == [name]
        path.write_text(text)
    (folder / "unused.py").write_text("#")
    assert sources.sources_of("models", "mine:Model") == before


def test_files_that_come_and_go_are_named() -> None:
    assert changed("a.py 1, b.py 2", "a.py 1, c.py 2") == ["b.py", "c.py"]
    assert changed("plugin 1.2", "plugin 1.3") == ["plugin"]
    assert changed("plugin 1.2", "plugin.py 12ab") == ["plugin", "plugin.py"]


def test_of_an_installed_package_the_version_counts_and_of_genbench_nothing() -> None:
    from importlib.metadata import version

    assert sources.sources_of("models", "yaml.nodes:Node") == f"PyYAML {version('PyYAML')}"
    assert sources.sources_of("models", "flows.nice:NICE") is None
    assert sources.sources_of("datasets", "toys:moons") is None


def test_a_run_has_the_sources_of_model_data_and_metrics(folder: Path) -> None:
    (folder / "measure.py").write_text("import beside\n")
    run = Run(suite="s", name="n", model="mine:A", data="toys:moons", metrics=("likelihood", "measure:m"))
    assert {key: text.count(".py ") for key, text in external_sources(run).items()} == {
        "model mine:A": len(FILES),
        "metric measure:m": 3,
    }


def test_a_trained_model_depends_on_the_users_files_for_model_and_data_not_for_metrics(folder: Path) -> None:
    (folder / "data.py").write_text("import kit\n")
    (folder / "measure.py").write_text("")
    run = Run(suite="s", name="n", model="mine:A", data="data:d", metrics=("measure:m",))
    before = source_fingerprint(run)
    (folder / "measure.py").write_text("#")
    assert source_fingerprint(run) == before
    for name in ("mine.py", "kit/parts/bolt.py", "data.py"):
        (folder / name).write_text(f"{(folder / name).read_text()}\n#")
        assert source_fingerprint(run) != before
        before = source_fingerprint(run)


# ----------------------------------------------------------------------------------------------- genbench's own


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the names of genbench's source files, and of its kernels', which `own_digest` takes for them."""
    package, kernels = (Path(folder) for folder in sources._own_folders())
    for name, folder in (("genbench", package), ("kernels", kernels)):
        for path in folder.rglob("*.py"):
            copied = tmp_path / name / path.relative_to(folder)
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_text(path.name)
    folders = (str(tmp_path / "genbench"), str(tmp_path / "kernels"))
    monkeypatch.setattr(sources, "_own_folders", lambda: folders)
    monkeypatch.setattr(sources, "own_digest", sources.own_digest.__wrapped__)
    return tmp_path


DECIDING = [
    "train.py",
    "dataset.py",
    "model.py",
    "perform.py",
    "models/flows/nice.py",
    "nets/mlp.py",
    "datasets/toys.py",
]


@pytest.mark.parametrize("name", ["../kernels/op.py", "metrics/fidelity.py", "evaluation.py", *DECIDING])
def test_what_decides_numbers_counts(name: str, copy: Path) -> None:
    both: Callable[[], list[str]] = lambda: [sources.own_digest(), sources.own_digest(training=True)]  # noqa: E731
    path, before = copy / "genbench" / name, both()
    path.write_text("changed")
    training = name not in MEASURING and not name.startswith("metrics")
    assert [a != b for a, b in zip(before, both(), strict=True)] == [True, training]
    path.rename(path.with_name("renamed.py"))
    assert sources.own_digest() not in (before[0], "")


def test_a_trained_model_depends_on_what_trains_in_genbench_and_not_on_what_measures(copy: Path) -> None:
    run = Run(suite="s", name="n", model="flows.nice:NICE", data="toys:moons")
    before = source_fingerprint(run)
    (copy / "genbench" / "evaluation.py").write_text("changed")
    assert source_fingerprint(run) == before
    (copy / "genbench" / "train.py").write_text("changed")
    assert source_fingerprint(run) != before


def test_a_new_module_counts_and_what_decides_nothing_does_not(copy: Path) -> None:
    before = sources.own_digest()
    (copy / "genbench" / "report" / "text.py").write_text("changed")
    (copy / "genbench" / "runner" / "driver.py").write_text("changed")
    assert sources.own_digest() == before
    (copy / "genbench" / "novel.py").write_text("")
    assert sources.own_digest() != before


@pytest.mark.parametrize("name", [*NEUTRAL, *MEASURING])
def test_a_listed_file_that_is_missing_is_an_error(name: str, copy: Path) -> None:
    path = copy / "genbench" / name
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError, match=f"{path.name} is missing; genbench/records/sources.py lists it"):
        sources.own_digest(training=True)


def test_all_that_is_listed_exists() -> None:
    assert all((Path(genbench.__file__).parent / name).exists() for name in (*NEUTRAL, *MEASURING))
    assert len(own_digest()) == 16
