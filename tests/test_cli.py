"""The command line: what it answers, what it refuses, and with which exit code."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import genbench
from genbench import RUNS
from genbench.command_line import commands, main
from genbench.commands.run import parse_seeds
from genbench.errors import UsageError
from genbench.records.record import Record
from genbench.records.store import Store
from genbench.suite import ROOT, Run, suite_paths

SUITE = """
suite: tiny
title: Tiny
defaults: {steps: 5, batch: 16, checks: 1, seeds: [0, 1]}
data: [toys:moons]
metrics: [likelihood, samples]
models: {Linear: flows.linear:Linear, NICE: {model: flows.nice:NICE, options: {couplings: 2, hidden: [8]}}}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE)
    return path


def fresh(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in an interpreter of its own, in the project's folder."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=120
    )


def test_a_suite_from_file_to_files(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results"
    call = ["run", str(tiny), "--executor", "process", "--results", str(out)]
    assert main(call) == 0
    shown = capsys.readouterr().out
    assert "Linear" in shown
    assert "NICE" in shown
    written = [line.removeprefix("wrote ").partition(": ")[0] for line in shown.splitlines() if "wrote " in line]
    assert {Path(path).name for path in written} == {"LEADERBOARD.md", "leaderboard.html", "leaderboard.csv", "plots"}
    assert all(Path(path).stat().st_size > 0 for path in written)
    records = Store(out).records()
    assert {r.status for r in records} == {"ok"}
    assert len(records) == 4
    assert main(call) == 0, "a second call finds everything done"
    assert len(Store(out).records()) == 4

    frame = genbench.results(out)
    assert set(frame["name"]) == {"Linear", "NICE"}
    assert {"nats", "excess_nats"} <= set(frame["measurement"])

    run = records[0].id
    assert main(["show", run[:8], "--results", str(out)]) == 0
    assert main(["sample", run, "-n", "9", "--out", str(tmp_path / "s.png"), "--results", str(out)]) == 0
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    for suffix, start in (
        ("jpg", b"\xff\xd8\xff"),
        ("JPEG", b"\xff\xd8\xff"),
        ("webp", b"RIFF"),
        ("bmp", b"BM"),
        ("tif", b"II"),
    ):
        assert main(["sample", run, "-n", "1", "--out", str(tmp_path / f"s.{suffix}"), "--results", str(out)]) == 0
        assert (tmp_path / f"s.{suffix}").read_bytes().startswith(start)
    assert main(["verify", run, "--results", str(out)]) == 0
    assert main(["compare", str(out), str(out), "--fail-on", "regress"]) == 0
    assert main(["report", "tiny", "--results", str(out), "--out", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report" / "LEADERBOARD.md").is_file()
    assert main(["report", "--results", str(out), "--plots", "1", "--svg"]) == 0
    plots = {path.name for path in (out / "plots").iterdir()}
    assert plots == {f"tiny-v1-toys-moons.{name}" for name in ("intervals.png", "intervals.svg", "samples.png")}


PUBLISHED = """
published:
  Paper: {source: "Some paper (2017), table 1", values: {nats: {toys:moons: 0.5}}}
"""


def test_a_suite_by_path_shows_what_papers_report_wherever_its_file_has_gone(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r"
    call = ["run", str(tiny), "--executor", "process", "--results", str(out), "--seeds", "0"]
    assert main(call) == 0
    assert "published" not in capsys.readouterr().out
    tiny.write_text(SUITE + PUBLISHED)
    assert main(call) == 0, "nothing is trained, and the file is read anew"
    assert (out / "tiny" / "suite-v1.yaml").read_bytes() == tiny.read_bytes()
    tiny.unlink()
    capsys.readouterr()
    assert main(["report", "--results", str(out)]) == 0
    assert "Paper, published" in capsys.readouterr().out
    text = (out / "LEADERBOARD.md").read_text()
    assert "## Tiny\n" in text
    assert "*Paper, published*" in text
    assert "Some paper (2017), table 1" in (out / "leaderboard.html").read_text()
    assert {record.run.name for record in Store(out).records()} == {"Linear", "NICE"}


def test_what_else_stands_in_the_folder_is_no_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("peers", "plots", ".work"):
        (tmp_path / name).mkdir()
    (tmp_path / "peers" / "flows-speed.json").write_text("{}")
    assert main(["report", "peers", "--results", str(tmp_path)]) == 2
    assert "no records of a suite 'peers'" in capsys.readouterr().err
    assert Store(tmp_path).records() == []
    assert Store(tmp_path).damaged == []


def test_a_run_that_fails_is_exit_1_and_a_row(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["run", str(tiny), "--executor", "process", "--results", str(tmp_path / "r"), "--seeds", "0"]
    assert main([*call, "--timeout", "1e-9"]) == 1
    assert "timeout" in capsys.readouterr().out
    assert main(call) == 1, "it is not tried again unasked"
    assert main([*call, "--retry-failed"]) == 0


def test_pictures_drawn_behind_a_url_are_brought_to_the_report(tiny: Path, tmp_path: Path) -> None:
    out, work = tmp_path / "r", f"file://{tmp_path}/work"
    assert main(["run", str(tiny), "--executor", "process", "--results", str(out), "--work", work]) == 0
    names = {name for record in Store(out).records() for name in record.files.values()}
    assert names
    assert all((out / ".work" / name).is_file() for name in names)


def test_missing_gpus_are_unschedulable_immediately(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    code = main(["run", str(tiny), "--executor", "process", "--results", str(out), "--gpus-per-run", "64"])
    assert code == 1
    assert {r.status for r in Store(out).records()} == {"unschedulable"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["rnu"], "unknown command 'rnu'; did you mean 'run'?"),
        (["run"], "SUITE"),
        (["run", "smok"], "unknown suite 'smok'; did you mean 'smoke'?"),
        (["run", ""], "unknown suite ''"),
        (["run", "smoke", "--sed", "1"], "unknown option '--sed'; did you mean '--seeds'?"),
        (["run", "smoke", "--seeds", "4-1"], "--seeds '4-1' is not like"),
        (["run", "smoke", "--set", "stpes=3"], "--set: unknown key 'stpes'; did you mean 'steps'?"),
        (["run", "smoke", "--set", "steps=-3"], "steps: input should be greater than or equal to 0, got -3"),
        (["run", "smoke", "--set", "steps"], "--set 'steps' is not key=value"),
        (["run", "smoke", "--set", "optimizer.lr=fast"], "optimizer.lr: input should be a valid number"),
        (["run", "smoke", "--set", "options.foo=3"], "unknown option 'foo'"),
        (["run", "smoke", "--set", "options=3"], "options: input should be a valid dictionary"),
        (["run", "smoke", "--set", "optimizer=3"], "optimizer"),
        (["run", "smoke", "--set", "optimizer=3", "--set", "lr=1"], "optimizer"),
        (["run", "smoke", "--set", "steps=yes"], "--set: steps: 'yes' means true or false"),
        (["run", "smoke", "--set", "steps=1_000"], "--set: steps: '1_000' means different integers"),
        (["run", "smoke", "--set", "steps=true"], "--set: steps: input should be a valid integer, got True"),
        (["run", "smoke", "--set", "steps="], "--set: steps: input should be a valid integer, got None"),
        (["run", "smoke", "--set", "steps=1\n---\n2"], "--set: line 2: a second document begins"),
        (["run", "smoke", "--set", "steps=" + "9" * 5000], "(5002 characters) is beyond the range of 64-bit"),
        (["run", "smoke", "--set", "steps=" + "[" * 100_000], "--set: lists and mappings stand more than 50 deep"),
        (["run", "smoke", "--set", "lr=["], "--set: is not YAML: did not find expected node content"),
        (["run", "smoke", "--set", "lr=2024-02-30"], "--set: lr: '2024-02-30' means a date"),
        (["run", "smoke", "--set", "lr={a: 1, a: 2}"], "--set: lr.a: the key is given twice"),
        (
            ["run", "smoke", "--set", "lr=!!python/name:os.system x"],
            "--set: lr: the tag !!python/name:os.system is not",
        ),
        (["run", "smoke", "--set", "lr=\udcff"], "--set: line 1: the character U+DCFF is not allowed"),
        (
            ["run", "smoke", "--set", "lr=1", "--set", "optimizer.lr=2"],
            "--set: lr and optimizer.lr are the same setting",
        ),
        (["run", "smoke", "--set", "=3"], "--set '=3' is not key=value"),
        (["run", "smoke", "--set", ""], "--set '' is not key=value"),
        (["run", "smoke", "--set", "options..x=3"], "--set 'options..x=3' is not key=value"),
        (["run", "smoke", "--set", "a.b.c=3"], "--set: unknown key 'a'"),
        (
            ["run", "smoke", "--set", "steps.x.y=3"],
            "--set: steps: input should be a valid integer, got {'x': {'y': 3}}",
        ),
        (["run", "smoke", "--set", "x." * 3000 + "y=3"], "is not key=value"),
        (["run", "smoke", "--set", "options.x=..."], "--set: is not YAML"),
        (
            ["run", "smoke", "--set", "checks=1000000000000"],
            "--set: checks: input should be less than or equal to 100000",
        ),
        (["run", "smoke", "--set", "seeds=3"], "--set: unknown key 'seeds'"),
        (
            ["run", "smoke", "--set", "options.hidden=wide", "--only", "NICE"],
            "option 'hidden': input should be a valid array, got 'wide'",
        ),
        (["run", "smoke", "--seeds", ""], "--seeds '' is not like"),
        (["run", "smoke", "--seeds", "0-1000000000"], "--seeds '0-1000000000' are more than 10000 seeds"),
        (["run", "smoke", "--seeds", "0-9223372036854775807"], "are more than 10000 seeds"),
        (["run", "smoke", "--seeds", "9223372036854775808"], "seeds below 2^63"),
        (["run", "smoke", "--seeds", "9" * 5000], "seeds below 2^63"),
        (["run", "smoke", "--seeds", "\u0663"], "is not like 0-4"),
        (["run", "./missing.yaml"], "missing.yaml: cannot be read: No such file"),
        (["run", "nosuch/x.yaml"], "nosuch/x.yaml: cannot be read: No such file"),
        (["run", "/tmp"], "/tmp: is a folder, not a suite's file"),
        (["run", "/dev/null"], "/dev/null: is not a regular file"),
        (["run", "smoke", "more"], "unexpected extra argument (more)"),
        (["run", "smoke", "--results", ""], "--results: the name of a folder is empty"),
        (["run", "smoke", "--checkpoint-every", "-1"], "--checkpoint-every: '-1' is not a number of seconds"),
        (["run", "smoke", "--checkpoint-every", "nan"], "--checkpoint-every: 'nan' is not a number of seconds"),
        (["run", "smoke", "--timeout", "inf"], "--timeout: timeout: input should be a finite number"),
        (["run", "smoke", "--gpus-per-run", "-1"], "--gpus-per-run: gpus: input should be greater than or equal to 0"),
        (["run", "smoke", "--only", ""], "--only '' matches no row"),
        (["run", "smoke", "--only", "RealNVQ"], "--only 'RealNVQ' matches no row"),
        (["run", "smoke", "--executor", "rya"], "--executor: 'rya' is not one of"),
        (["run", "smoke", "--timeout", "-1"], "timeout: input should be greater than 0"),
        (["run", "smoke", "--results", "/dev/null/results"], "is not writable"),
        (["show", "zzz", "--results", "/nowhere"], "is no run"),
        (["report", "--results", "/nowhere"], "there are no records"),
        (["report", "flows", "--results", "/nowhere"], "no records of a suite 'flows'"),
        (["compare", "/nowhere", "/nowhere"], "there is no results folder /nowhere"),
        (["list", "model"], "'model' is not one of"),
        (["show", "", "--results", "/nowhere"], "the start of a run's id is empty"),
        (["verify", "", "--results", "/nowhere"], "the start of a run's id is empty"),
        (["sample", "", "--out", "x.png"], "the start of a run's id is empty"),
        (["sample", "x", "--out", "x.png", "-n", "0"], "-n: '0' is not a whole number from 1 to 10000"),
        (["sample", "x", "--out", "x.png", "-n", "-3"], "-n: '-3' is not a whole number from 1 to 10000"),
        (["sample", "x", "--out", "x.png", "-n", "9" * 5000], "-n: '9999"),
        (["sample", "x", "--out", "x.png", "-n", "10_0"], "-n: '10_0' is not a whole number"),
        (["sample", "x", "--out", "x.png", "--seed", "-1"], "--seed: '-1' is not a whole number from 0"),
        (
            ["sample", "x", "--out", "x.pdf"],
            "--out x.pdf: the suffix must be one of .png, .jpg",
        ),
        (["sample", "x", "--out", "x"], "--out x: the suffix must be"),
        (["sample", "x", "--out", ""], "is a folder"),
        (["sample", "x", "--out", "nope/x.png"], "--out nope/x.png: the folder nope does not exist"),
        (["sample", "x", "--out", "/dev/null/x.png"], "the folder /dev/null does not exist"),
        (["report", "--plots", "-1"], "--plots: '-1' is not a whole number from 0"),
        (["sho", "x"], "unknown command 'sho'; did you mean 'show'?"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("genbench: ")
    assert "\n" not in message
    assert expected in message


def test_a_folder_is_no_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.png").mkdir()
    assert main(["sample", "x", "--out", str(tmp_path / "x.png")]) == 2
    assert "is a folder; name a file in it" in capsys.readouterr().err
    assert main(["sample", "x", "--out", str(tmp_path)]) == 2
    assert "is a folder; name a file in it" in capsys.readouterr().err


def test_a_folder_that_has_been_deleted_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["list", "models"]) == 0
    assert main(["run", "smoke", "--dry-run"]) == 0
    assert main(["run", "x.yaml", "--dry-run"]) == 2
    assert "x.yaml: cannot be read: No such file or directory" in capsys.readouterr().err


def test_a_start_of_several_ids_names_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, ids = Store(tmp_path), []
    for seed in range(40):
        run = Run(suite="s", name="n", model="flows.nice:NICE", data="toys:moons", seed=seed)
        store.write(Record(run=run, execution=f"2026-{seed}", status="error", error="x"))
        ids.append(run.id)
    first = max("0123456789abcdef", key=lambda digit: sum(id.startswith(digit) for id in ids))
    several = sorted(id for id in ids if id.startswith(first))
    assert main(["show", first, "--results", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert f"is the start of {len(several)} runs: {', '.join(several[:5])}" in message
    assert main(["show", several[0].upper(), "--results", str(tmp_path)]) == 0, "capitals are the same digits"


@pytest.mark.parametrize("name", ["../up", ".hidden", "plots"])
def test_a_suite_of_a_bad_name_trains_nothing(tiny: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.write_text(SUITE.replace("suite: tiny", f"suite: {name}"))
    out = tiny.parent / "deep" / "results"
    assert main(["run", str(tiny), "--executor", "process", "--results", str(out)]) == 2
    assert "suite: the name" in capsys.readouterr().err
    assert {path.name for path in tiny.parent.rglob("*")} == {"tiny.yaml"}


def test_suites_whose_names_differ_in_case_only_are_refused(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r" / "Tiny").mkdir(parents=True)
    assert main(["run", str(tiny), "--executor", "process", "--results", str(tmp_path / "r")]) == 2
    assert "'tiny' differs from 'Tiny' in case only" in capsys.readouterr().err


def test_broken_suites_are_listed_as_invalid(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "suites").mkdir()
    broken = {"a": b"\xff", "b": b"suite: [", "c": b"suite: ../up", "d": b"a: " + b"[" * 100_000, "e": b""}
    for name, content in broken.items():
        (tmp_path / "suites" / f"{name}.yaml").write_bytes(content)
    (tmp_path / "suites" / "f.yaml").mkdir()
    os.mkfifo(tmp_path / "suites" / "g.yaml")
    monkeypatch.chdir(tmp_path)
    assert main(["list", "suites"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(suite_paths())
    for name in "abcdefg":
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert f"invalid: {tmp_path / 'suites' / name}.yaml: " in line


def test_a_module_that_prints_on_import_leaves_the_output_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prints_on_import.py").write_text(
        "from genbench.models.flows.linear import Linear\nprint('hello')\nclass Mine(Linear): pass\n"
    )
    (tmp_path / "own.yaml").write_text(SUITE.partition("models:")[0] + "models: {Mine: 'prints_on_import:Mine'}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["run", str(tmp_path / "own.yaml"), "--dry-run"]) == 0
    done = capsys.readouterr()
    assert len(done.out.splitlines()) == 2
    assert "hello" not in done.out
    assert done.err == "hello\n"


def test_a_dry_run_names_runs_and_trains_nothing(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(tiny), "--dry-run", "--results", str(tmp_path / "r")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("text", "expected"), [("0-2", [0, 1, 2]), ("3", [3]), ("0,2,5-6", [0, 2, 5, 6]), ("1,1", [1])]
)
def test_seeds(text: str, expected: list[int]) -> None:
    assert parse_seeds(text) == expected


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "2-1", "1,,2"])
def test_what_is_no_list_of_seeds(text: str) -> None:
    with pytest.raises(UsageError):
        parse_seeds(text)


def completions(words: str) -> list[str]:
    """Return what a shell offers for an unfinished command line."""
    from click.shell_completion import BashComplete

    *complete, incomplete = words.split(" ")
    completer = BashComplete(commands, {}, "genbench", "_GENBENCH_COMPLETE")
    return [item.value for item in completer.get_completions(complete, incomplete)]


def test_a_shell_completes_commands_suites_and_runs(tmp_path: Path) -> None:
    run = Run(suite="s", name="n", model="flows.nice:NICE", data="toys:moons")
    Store(tmp_path).write(Record(run=run, execution="2026", status="ok"))
    assert completions("re") == ["report"]
    assert completions("run flows-m") == ["flows-mnist-gpu", "flows-mnist-short", "flows-mnist"]
    assert completions(f"show --results {tmp_path} {run.id[:2]}") == [run.id]
    assert completions(f"report --results {tmp_path} ") == ["s"]
    assert completions("list mod") == ["models"]


def test_the_version_and_help_are_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"genbench {genbench.__version__}\n"
    for call in (["--help"], ["run", "--help"]):
        assert main(call) == 0
        assert "Usage: genbench" in capsys.readouterr().out


@pytest.mark.alone
def test_list_imports_nothing_heavy_and_answers_in_a_second() -> None:
    seconds = []
    for _ in range(3):  # the quickest counts: a busy machine is not what this is about
        began = time.monotonic()
        done = fresh(
            "import sys; from genbench.command_line import main; main(['list']);"
            "assert not {'torch', 'ray', 'pandas', 'matplotlib', 'sklearn'} & set(sys.modules)"
        )
        seconds.append(time.monotonic() - began)
        assert done.returncode == 0, done.stderr
    for word in ("suites:", "smoke", "flows.realnvp:RealNVP", "toys:moons", "digits", "likelihood", "affine_coupling"):
        assert word in done.stdout
    assert min(seconds) < 1


def test_doctor_lists_the_machine_and_what_is_not_writable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--results", str(tmp_path / "r")]) == 0
    assert "is writable" in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    assert main(["doctor", "--results", str(tmp_path / "file" / "r")]) == 1
    assert "problem" in capsys.readouterr().out


def test_doctor_names_damaged_records_and_data_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "r" / "s" / "[red]" / "x.json"
    bad.parent.mkdir(parents=True)
    bad.write_text("{")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GENBENCH_DATA", str(tmp_path / "file"))
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["doctor", "--results", str(tmp_path / "r")]) == 1
    printed = capsys.readouterr().out
    assert f"{bad}: damaged: Invalid JSON" in printed
    assert f"{tmp_path / 'file'} cannot be read: Not a directory" in printed


def test_what_is_missing_and_not_needed_is_not_imported(tiny: Path, tmp_path: Path) -> None:
    done = fresh(
        "import sys;"
        "sys.modules.update(dict.fromkeys(['ray', 'torch_fidelity', 'torchvision', 'sklearn']));"
        "from genbench.command_line import main;"
        f"sys.exit(main(['run', {str(tiny)!r}, '--executor', 'process', '--results', {str(tmp_path / 'r')!r}]))"
    )
    assert done.returncode == 0, done.stderr


def test_without_ray_the_ray_executor_says_what_to_do(tiny: Path, tmp_path: Path) -> None:
    done = fresh(
        "import sys; sys.modules['ray'] = None;"
        "from genbench.command_line import main;"
        f"sys.exit(main(['run', {str(tiny)!r}, '--results', {str(tmp_path / 'r')!r}]))"
    )
    assert done.returncode == 2
    assert "--executor process" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("executor", ["process", "ray"])
def test_a_model_of_ones_own_in_the_folder_joins_a_suite(tmp_path: Path, executor: str) -> None:
    text = (ROOT / "genbench" / "models" / "flows" / "linear.py").read_text()
    (tmp_path / "mymodels.py").write_text(text.replace("class Linear", "class Mine").replace('["Linear"]', '["Mine"]'))
    (tmp_path / "own.yaml").write_text(SUITE.partition("models:")[0] + "models: {Mine: mymodels:Mine}\n")
    call = [str(Path(sys.executable).with_name("genbench")), "run", "own.yaml", "--executor", executor]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert {r.status for r in Store(tmp_path / RUNS).records()} == {"ok"}


def test_a_damaged_record_is_named_and_not_deleted(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r"
    assert main(["run", str(tiny), "--executor", "process", "--results", str(out)]) == 0
    damaged = next((out / "tiny").glob("*/*.json"))
    damaged.write_text("{")
    assert main(["report", "--results", str(out)]) == 0
    assert f"{damaged}: skipped, damaged" in capsys.readouterr().err
    assert damaged.read_text() == "{"
