"""The registry: plug-ins that cannot be imported or are not of their kind are one line with the cause."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

import pytest

from genbench.errors import UsageError
from genbench.registry import find, names


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return what writes the module `plugin_<n>` and names it."""
    monkeypatch.syspath_prepend(tmp_path)
    count = 0

    def write(text: str) -> str:
        nonlocal count
        count += 1
        name = f"plugin_{os.path.basename(tmp_path)}_{count}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield write
    for name in [name for name in sys.modules if name.startswith("plugin_")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("class A: pass\nx = torch\n", "cannot be imported: NameError: name 'torch' is not defined (*.py, line 2)"),
        ("import math\nmath.nope\n", "cannot be imported: AttributeError: module 'math' has no attribute 'nope' (*"),
        ("def (:\n", "cannot be imported: SyntaxError: *(*.py, line 1)"),
        ("import sys\nsys.exit(3)\n", "exits while it is imported: SystemExit(3)"),
        ("raise SystemExit\n", "exits while it is imported: SystemExit(None)"),
        ("raise ValueError('a\\n\\nb\\x1b[31m')\n", "cannot be imported: ValueError: a b\\x1b[31m (*"),
        ("raise ImportError('no\\nway')\n", "cannot be imported: ImportError: no way (*"),
        ("class E(BaseException): pass\nraise E('x')\n", "cannot be imported: *E: x (*"),
        ("raise GeneratorExit\n", "cannot be imported: GeneratorExit (*"),
        ("class E(Exception):\n def __str__(self): raise E\nraise E\n", "imported: *E: <exception str() failed> ("),
        ("x = 1\0\n", "cannot be imported: SyntaxError: source code *null bytes"),
        ("from . import x\n", "cannot be imported: ImportError: attempted relative import*"),
        ("def f(): f()\nf()\n", "cannot be imported: RecursionError: *"),
        ("x = 1 / 0\n", "cannot be imported: ZeroDivisionError: division by zero (*"),
        ("assert False\n", "cannot be imported: AssertionError (*"),
        ("import not_there_at_all\n", "needs the package 'not_there_at_all': pip install not_there_at_all"),
        ("import json.not_there\n", "cannot be imported: ModuleNotFoundError: No module named 'json.not_there' (*"),
        ("raise ModuleNotFoundError('mine')\n", "cannot be imported: ModuleNotFoundError: mine (*"),
        ("from json import nope\n", "cannot be imported: ImportError: cannot import name 'nope' from 'json' (*"),
        ("x = '\xe9'.encode('ascii')\n", "cannot be imported: UnicodeEncodeError: *"),
        ("def __getattr__(name): raise RuntimeError(name)\n", "cannot be imported: RuntimeError: A (*"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["models", "datasets", "metrics"])
def test_a_module_that_fails_to_import_is_named_with_the_cause(plugin, kind: str, text: str, expected: str) -> None:
    name = plugin(text)
    with pytest.raises(UsageError) as error:
        find(kind, f"{name}:A")
    message, at = str(error.value), 0
    assert message.startswith(f"'{name}:A'")
    for part in expected.split("*"):
        at = message.index(part, at)


def test_a_circular_import_is_named(plugin, tmp_path: Path) -> None:
    name = plugin("")
    (tmp_path / f"{name}.py").write_text(f"from {name} import A\n")
    with pytest.raises(UsageError, match=f"cannot be imported: ImportError: .*partially initialized module '{name}'"):
        find("models", f"{name}:A")


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("models", "3", "is not a model: it is of type int, which cannot be called"),
        ("models", "None", "is not a model: it is of type NoneType"),
        ("models", "__import__('torch').nn.Linear", "is the class Linear, which does not extend genbench.model.Model"),
        ("models", "lambda: 3", "is not a model: .*cannot be called with a Space: too many positional"),
        ("models", "__import__('math')", "is not a model: it is of type module"),
        ("datasets", "3", "is not a dataset: it is of type int, which cannot be called"),
        ("datasets", "lambda x: x", "is not a dataset: .*cannot be called without arguments: missing a required"),
        ("datasets", "__import__('genbench').dataset.Dataset", "is the class Dataset, which cannot be called without"),
        ("metrics", "lambda e: {}", "is not a metric: it is of type function, where a genbench.evaluation.Metric is"),
        ("metrics", "__import__('genbench').evaluation.Metric", "is not a metric: it is of type type|the class Metric"),
    ],
)  # fmt: skip
def test_an_object_of_another_kind_is_refused(plugin, kind: str, value: str, expected: str) -> None:
    name = plugin(f"import genbench.dataset, genbench.evaluation\nA = {value}\n")
    with pytest.raises(UsageError, match=expected):
        find(kind, f"{name}:A")


def test_a_name_that_a_module_lacks_has_a_nearest_one(plugin) -> None:
    name = plugin("class RealNVP: pass\n")
    with pytest.raises(UsageError, match=f"the module {name} has no 'RealNVQ'; did you mean 'RealNVP'"):
        find("models", f"{name}:RealNVQ")


@pytest.mark.parametrize(
    "name",
    ["", ":", ":A", "a:", "..", "../up", ".hidden", "..a:B", "a..b", "a:b:c", "a b", "a\nb", "a/b", "ü.x", "x" * 9999],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["models", "datasets", "metrics"])
def test_what_is_no_name_is_unknown(kind: str, name: str) -> None:
    with pytest.raises(UsageError, match=f"^unknown {kind[:-1]}"):
        find(kind, name)


@pytest.mark.parametrize("kind", ["models", "datasets", "metrics"])
def test_a_module_that_does_not_exist_is_named(kind: str) -> None:
    with pytest.raises(UsageError, match=r"^unknown .* 'zzzz:Q': there is no module 'zzzz' in genbench"):
        find(kind, "zzzz:Q")


def test_an_import_neither_prints_nor_moves(plugin, capsys: pytest.CaptureFixture[str]) -> None:
    name = plugin("import os\nprint('hello')\nos.chdir('/')\ndef A(): return 3\n")
    before = Path.cwd()
    assert find("datasets", f"{name}:A")() == 3
    assert capsys.readouterr() == ("", "hello\n")
    assert Path.cwd() == before


def test_an_entry_point_that_fails_is_named_with_the_cause(plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = plugin("def make(): return 3\n"), plugin("x = torch\n")
    entries = [
        importlib.metadata.EntryPoint("my data", f"{good}:make", "genbench.datasets"),
        importlib.metadata.EntryPoint("broken", f"{bad}:make", "genbench.datasets"),
        importlib.metadata.EntryPoint("lacks", f"{good}:nothing", "genbench.datasets"),
    ]
    monkeypatch.setattr(
        importlib.metadata,
        "entry_points",
        lambda group, name=None: [e for e in entries if e.group == group and name in (None, e.name)],
    )
    assert find("datasets", "my data")() == 3
    with pytest.raises(UsageError, match=f"'broken': {bad}:make cannot be imported: NameError: name 'torch'"):
        find("datasets", "broken")
    with pytest.raises(UsageError, match=f"'lacks': {good}:nothing cannot be imported: AttributeError"):
        find("datasets", "lacks")


def test_a_file_of_the_package_that_cannot_be_read_is_listed_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_text

    def broken(path: Path, **how: str) -> str:
        return "__all__ = [\n" if path.name == "nice.py" else read(path, **how)

    monkeypatch.setattr(Path, "read_text", broken)
    names.cache_clear()
    try:
        listed = names("models")
    finally:
        names.cache_clear()
    assert listed["flows.nice"].startswith("cannot be read: SyntaxError")
    assert "flows.realnvp:RealNVP" in listed, "the others are listed all the same"
