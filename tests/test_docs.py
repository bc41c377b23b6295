"""The documentation: its examples work, its commands parse, the errors it quotes are real, its links lead somewhere."""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import click
import genbench_kernels
import numpy as np
import pytest
from genbench_kernels.op import triton

from genbench.command_line import commands, main
from genbench.commands.run import parse_seeds, parse_settings
from genbench.errors import UsageError
from genbench.records.record import Record
from genbench.records.store import Store
from genbench.registry import find, names
from genbench.runner.worker import perform
from genbench.suite import ROOT, Optimizer, Resources, Run, Settings, Suite, read_suite
from genbench.validation.datasets import load_dataset

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXTENDING = ["adding-a-model", "adding-a-dataset", "adding-a-metric", "adding-a-suite"]
each_page = pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])


class Block(NamedTuple):
    """A fenced block of a page; `file` is the name that the text before it gives it ("save this as `x.py`")."""

    language: str
    file: str | None
    text: str


def read(name: str) -> str:
    """Return the text of a page of docs/."""
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def blocks_of(text: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    prose, *rest = re.split(r"^```(.*)$", text, flags=re.MULTILINE)
    blocks = []
    for language, code, after in zip(rest[::4], rest[1::4], rest[3::4], strict=True):
        files = re.findall(r"\bas\s+`([\w./]+\.(?:py|yaml))`", prose)
        blocks.append(Block(language, Path(files[-1]).name if files else None, code.lstrip("\n")))
        prose = after
    return blocks


def without_code(text: str) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


# ------------------------------------------------------------------------------------------------ examples


@pytest.fixture
def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], list[str]]]:
    """Return a function that saves the files of a page in the current folder, a new one, and returns their names."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def save(page: str) -> list[str]:
        files = {block.file: block.text for block in blocks_of(read(page)) if block.file}
        for name, text in files.items():
            Path(name).write_text(text, encoding="utf-8")
        importlib.invalidate_caches()
        return list(files)

    yield save
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def imported(files: list[str]) -> list[ModuleType]:
    """Return the modules that are among `files`."""
    return [importlib.import_module(name.removesuffix(".py")) for name in files if name.endswith(".py")]


def call_tests(module: ModuleType) -> int:
    """Call the tests of a module, with each value of a parameter, and return how many there are."""
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    for test in tests:
        marks = [mark.args for mark in getattr(test, "pytestmark", ())]
        for call in [{name: value} for name, values in marks for value in values] or [{}]:
            test(**call)
    return len(tests)


def short(run: Run) -> Run:
    """Return `run` with two training steps, and without measurements of speed."""
    metrics = tuple(name for name in run.metrics if not find("metrics", name).exclusive)
    return Run(**run.model_dump() | {"steps": min(run.steps, 2), "checks": 1, "metrics": metrics})


@pytest.mark.parametrize("page", EXTENDING)
def test_every_example_works(page: str, follow: Callable[[str], list[str]], tmp_path: Path) -> None:
    files = follow(page)
    assert all(block.file for block in blocks_of(read(page)) if block.language == "python"), "a block has no file"
    tested = [call_tests(module) for module in imported(files) if module.__name__.startswith("test_")]
    assert all(tested)
    assert bool(tested) is (page != "adding-a-suite")
    suites = [name for name in files if name.endswith(".yaml")]
    assert suites
    for suite in suites:
        rows = {run.name: run for run in reversed(read_suite(Path(suite)).runs())}  # on the first data set
        for run in rows.values():
            record = perform(short(run), work=str(tmp_path / "work"))
            assert record.status == "ok", f"{suite}: {run}: {record.error}"
            assert record.measurements


def test_the_data_set_in_a_file(follow: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    follow("adding-a-dataset")
    monkeypatch.setenv("GENBENCH_DATA", str(Path.cwd()))
    with pytest.raises(UsageError, match="is missing; put it there"):
        find("datasets", "table:table").fetch()
    np.save("table.npy", np.random.default_rng(0).normal(size=(50, 3)))
    data = load_dataset("table:table")
    assert [len(x) for x in (data.train, data.validation, data.test)] == [40, 5, 5]


def test_the_metric_of_an_extra_method(follow: Callable[[str], list[str]], tmp_path: Path) -> None:
    follow("adding-a-metric")
    run = Run(
        suite="s", name="n", model="autoencoders.pca:PCA", data="digits", steps=0, metrics=("code_size:code_size",)
    )
    assert perform(run, work=str(tmp_path)).measurements["code_size"].value == 16
    other = run.model_copy(update={"model": "autoregressive.made:MADE"})
    assert perform(other, work=str(tmp_path)).not_applicable == ("code_size:code_size",)


@pytest.mark.skipif(triton is None, reason="needs triton")
def test_the_kernel(follow: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """All in one test: torch registers an op once in a process."""
    follow("adding-a-kernel")
    monkeypatch.setattr(genbench_kernels, "__path__", [*genbench_kernels.__path__, str(Path.cwd())])
    assert call_tests(importlib.import_module("test_gated_tanh")) == 4
    blocks = blocks_of(read("adding-a-kernel"))
    code, output = next((a, b) for a, b in itertools.pairwise(blocks) if "explain(" in a.text)
    with contextlib.redirect_stdout(printed := io.StringIO()):
        exec(code.text, {})
    assert printed.getvalue() == output.text
    sys.modules.pop("genbench_kernels.gated_tanh")


def test_the_data_frame(follow: Callable[[str], list[str]]) -> None:
    follow("adding-a-model")
    store = Store(Path("runs"))
    store.prepare()
    (run,) = read_suite(Path("variants.yaml")).runs("Pixels", [0])
    store.write(perform(short(run), work=str(store.work)))
    (code,) = (block.text for block in blocks_of(read("commands")) if block.language == "python")
    exec(code, variables := {})
    assert set(variables["frame"].measurement) == {"nats", "bpd"}


# -------------------------------------------------------------------------------------------------- errors


def quoted_errors(page: str) -> list[str]:
    """Return the messages in the tables of errors of a page."""
    section = read(page).partition("## Errors you may meet")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(.+?)` \|", section, re.MULTILINE)


def check_errors(page: str, messages: list[str]) -> None:
    """Assert that each message is quoted on the page, and that each quoted one is among them; … stands for any text."""
    patterns = {text: re.compile(".*".join(map(re.escape, text.split("…")))) for text in quoted_errors(page)}
    unquoted = [message for message in messages if not any(p.fullmatch(message) for p in patterns.values())]
    unreal = [text for text, pattern in patterns.items() if not any(map(pattern.fullmatch, messages))]
    assert not unquoted, f"docs/{page}.md does not quote: {unquoted}"
    assert not unreal, f"docs/{page}.md quotes what genbench does not say: {unreal}"


def usage_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the error of a command line."""
    capsys.readouterr()
    assert main(arguments) == 2
    return capsys.readouterr().err.strip().removeprefix("genbench: ")


def edited(name: str, capsys: pytest.CaptureFixture[str], *edits: tuple[str, str]) -> list[str]:
    """Return the error of a suite's file after each edit (old, new)."""
    text, errors = Path(name).read_text(encoding="utf-8"), []
    for old, new in edits:
        assert old in text
        Path(name).write_text(text.replace(old, new, 1), encoding="utf-8")
        errors.append(usage_error(capsys, "run", name, "--dry-run"))
    Path(name).write_text(text, encoding="utf-8")
    return errors


def run_error(folder: Path, bad: str, **settings: Any) -> str:
    """Return the error of a short run with the module bad.py, whose text is `bad`."""
    sys.modules.pop("bad", None)
    Path("bad.py").write_text(bad, encoding="utf-8")
    importlib.invalidate_caches()
    base = {"model": "flows.linear:Linear", "data": "toys:eight_gaussians", "metrics": ("likelihood",)}
    record: Record = perform(
        Run(**{"suite": "s", "name": "n", "steps": 2, "batch": 64, "checks": 1} | base | settings),
        work=str(folder / "work" / str(abs(hash(bad)))),
    )
    assert record.status == "error", (bad, record.status)
    return record.error or ""


BAD_MODELS = (
    "def log_prob(self, x): return super().log_prob(x).mean()",
    "def loss(self, x): return -self.log_prob(x)",
    "def loss(self, x): return -self.log_prob(x).mean().detach()",
    "def sample(self, n): return super().sample(n)[0]",
    "sample = Model.sample",
    "def loss(self, x): self.extra = nn.Parameter(torch.zeros(2)); return super().loss(x)",
    "def fit_closed_form(self, x): self.shift = 9.0\n    def log_prob(self, x):"
    " return super().log_prob(x - getattr(self, 'shift', 0))",
    "likelihood = 'lower bound'",
)


def test_errors_of_models(
    follow: Callable[[str], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    follow("adding-a-model")
    row = "gaussian:Gaussian"
    words = ("gaussian:Gausian", "gaussian", "gausian:Gaussian", "gaussian:nn")
    words += ("{model: gaussian:Gaussian, options: {sale: 2}}", "{model: gaussian:Gaussian, options: {scale: big}}")
    messages = edited("first.yaml", capsys, *((row, word) for word in words))
    start = "import torch\nfrom torch import nn\nfrom gaussian import Gaussian, Model\nclass Bad(Gaussian):\n    "
    settings: dict[str, Any] = {"model": "bad:Bad", "metrics": ("likelihood", "samples")}
    messages += [run_error(tmp_path, start + body, **settings) for body in BAD_MODELS]
    messages.append(run_error(tmp_path, f"{start}pass", **settings | {"data": "digits"}))
    check_errors("adding-a-model", messages)


BAD_DATA = (
    "def bad(): return open('no.npy')",
    "def bad(): return bars().train",
    "def bad(): return replace(bars(), train=bars().train.float())",
    "def bad(): return replace(bars(), train=bars().train + 2)",
    "def bad(): return replace(bars(), train=bars().train[:, 0])",
    "def bad(): return replace(bars(), test=bars().test.numpy())",
    "def bad(): return replace(plane, train=torch.where(torch.arange(8).view(4, 2) == 7, torch.nan, plane.train))",
    "def bad(): return replace(bars(), labels=bars().labels[:2])",
    "def bad(): return replace(bars(), log_prob=lambda x: torch.full((len(x),), -torch.inf))",
    "def bad(): return replace(plane, train=plane.train * torch.tensor([1.0, 0.0]))",
)


def test_errors_of_data_sets(
    follow: Callable[[str], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    follow("adding-a-dataset")
    messages = edited("second.yaml", capsys, ("bars:bars", "bars:bar"), ("bars:bars", "bars:draw"))
    start = "import torch\nfrom dataclasses import replace\nfrom bars import Dataset, Space, bars\n"
    start += "plane = Dataset(Space((2,)), *[torch.rand(4, 2) for _ in range(3)])\n"
    messages += [run_error(tmp_path, start + body, data="bad:bad") for body in BAD_DATA]
    check_errors("adding-a-dataset", messages)


BAD_METRICS = (
    "{'nats': one}",
    "0.3",
    "{'gap': 0.3}",
    "{'gap': Measurement(value=float('nan'), unit='', impl='bad 1')}",
    "{'gap': Measurement(value=1, unit='')}",
    "e.files.update({'a/b.png': b''}) or {}",
    "1 / 0",
)


def test_errors_of_metrics(
    follow: Callable[[str], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    follow("adding-a-metric")
    start = "from genbench.evaluation import Measurement, Metric\none = Measurement(value=1, unit='', impl='bad 1')\n"
    Path("bad.py").write_text(f"{start}bad = Metric(lambda e: {{'nats': one}}, names=('nats',))\n")
    row = "moments:moments"
    messages = edited("third.yaml", capsys, (row, "moments:measure"), (row, "bad:bad"))
    for body in BAD_METRICS:
        text = f"{start}bad = Metric(lambda e: {body})\n"
        messages.append(run_error(tmp_path, text, metrics=("likelihood", "bad:bad")))
    check_errors("adding-a-metric", messages)


def test_errors_of_suites(follow: Callable[[str], list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    follow("adding-a-suite")
    edits = [
        ("models:", "modells:"),
        ("steps:", "step:"),
        ("steps: 300", "steps: 300 steps"),
        ("lr: 1e-3", "lr: 1e-3, optimizer: {lr: 1}"),
        ("data: [toys", "suite: x\ndata: [toys"),
        ("norm: batch", "nrm: batch"),
        ("options: {norm: batch}, per_data: {digits: {lr: 5e-4}}", "options: {}"),
        ("ActNorm: flows.realnvp:RealNVP", "ActNorm: {model: flows.realnvp:RealNVP, data: digit}"),
        ("suite: mine", "suite: on"),
    ]
    messages = edited("mine.yaml", capsys, *edits)
    messages.append(usage_error(capsys, "run", "mine.yaml", "--only", "ActNrom", "--dry-run"))
    check_errors("adding-a-suite", messages)


def test_the_ids_of_a_dry_run(follow: Callable[[str], list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    follow("adding-a-suite")
    assert main(["run", "mine.yaml", "--dry-run"]) == 0
    printed = capsys.readouterr().out.splitlines()
    (shown,) = (block.text.splitlines() for block in blocks_of(read("adding-a-suite")) if "/ seed 0" in block.text)
    assert shown[:2] == printed[:2]


# ------------------------------------------------------------------------------------------------ commands


def command_lines(text: str) -> Iterator[list[str]]:
    """Yield the words of every command of a page: lines of shell blocks, and `genbench ...` in its text."""
    for block in blocks_of(text):
        if block.language == "sh":
            for line in block.text.splitlines():
                yield shlex.split(line, comments=True)
    for span in re.findall(r"`((?:\.venv/bin/)?genbench [^`]+)`", without_code(text)):
        yield shlex.split(re.sub(r"\s*\[.*?\]", "", span))


def parse(name: str, *arguments: str) -> dict[str, Any]:
    """Return the parameters of a command of genbench; whatever does not parse is an error of Click."""
    command = commands.get_command(click.Context(commands), name)
    assert command is not None, f"there is no command {name!r}"
    params = command.make_context(name, list(arguments)).params
    if name == "run":
        parse_settings(params["settings"], params["gpus_per_run"], params["timeout"])
        parse_seeds(params["seeds"] or "0")
    return params


def targets() -> set[str]:
    """Return the targets of the Makefile."""
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def check_command(words: list[str]) -> None:
    """Assert that a command of genbench or make is one that exists, with options that exist."""
    words = words[words.index("--") + 1 :] if "--" in words else words
    program, *arguments = [*itertools.dropwhile(lambda word: re.match(r"\w+=", word), words), ""]
    arguments = arguments[:-1]
    if program.endswith("genbench") and arguments[1:]:
        check_suite(parse(*arguments).get("suite"))
    elif program.endswith("genbench"):
        assert arguments[0] in {"--help", "--version", *commands.list_commands(click.Context(commands))}
    elif program == "make":
        variables = dict(word.split("=", 1) for word in arguments if "=" in word)
        called = {word for word in arguments if "=" not in word}
        assert called <= targets(), called
        check_suite(variables.get("SUITE"))
        if "bench" in called:
            parse("run", variables.get("SUITE", "smoke"), *shlex.split(variables.get("ARGS", "")))


def check_suite(name: str | None) -> None:
    """Assert that a suite exists; those of the pages, and placeholders, do."""
    own = {block.file for page in EXTENDING for block in blocks_of(read(page))}
    known = {*(path.stem for path in (ROOT / "suites").glob("*.yaml")), *own, "SUITE", "name", "mine", None}
    assert name in known or name == "path/to/mine.yaml", name


@each_page
def test_commands_parse(page: Path) -> None:
    for words in command_lines(page.read_text(encoding="utf-8")):
        try:
            check_command(words)
        except (click.ClickException, UsageError) as error:
            pytest.fail(f"{page.name}: {shlex.join(words)}: {error}")


def test_every_command_is_described() -> None:
    described = read("commands")
    for name in commands.list_commands(click.Context(commands)):
        assert f"| `genbench {name}" in described


# --------------------------------------------------------------------------------------- links and tables


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        if target.startswith(("http://", "https://")):
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        assert file.is_relative_to(ROOT)
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), f"{page.name}: {target}"


@each_page
def test_tables_have_even_rows(page: Path) -> None:
    lines = without_code(page.read_text(encoding="utf-8")).splitlines()
    for i, rule in enumerate(lines):
        if re.fullmatch(r"(\|-+)+\|", rule):
            rows = [lines[i - 1], *itertools.takewhile(lambda line: line.startswith("|"), lines[i:])]
            assert {cells(row) for row in rows} == {rule.count("|")}, rows


def cells(row: str) -> int:
    """Return the number of | in a row of a table that are not escaped."""
    return len(re.findall(r"(?<!\\)\|", row))


# ------------------------------------------------------------------------------------------ completeness


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{page.name})" in readme, page.name


def test_every_suite_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "suites").glob("*.yaml"):
        assert f"`{path.stem}`" in readme, path.stem


def test_every_setting_is_described_with_its_default() -> None:
    page = read("adding-a-suite")
    for kind in (Suite, Settings, Optimizer, Resources):
        for name, field in kind.model_fields.items():
            assert f"`{name}`" in page, name
            default = field.default
            if isinstance(default, int | float | str) and default != "" and kind is not Resources:
                shown = f"{default:g}" if isinstance(default, float) else default
                assert f"| `{name}` | {shown} |" in page, name


@pytest.mark.parametrize(("kind", "page"), [("metrics", "what-the-numbers-mean"), ("datasets", "data")])
def test_every_metric_and_data_set_is_described(kind: str, page: str) -> None:
    text = read(page)
    for name in names(kind):
        module, _, attribute = name.partition(":")
        assert f"`{name}`" in text or f"`{attribute or module}`" in text or f"`{module}`" in text, name
