"""Runs, suites and the registry: ids that stay, settings that layer, errors that name the key."""

from __future__ import annotations

import json
import os
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from genbench.dataset import Space
from genbench.errors import UsageError, error_context
from genbench.file_names import suite_name
from genbench.model import Model
from genbench.models.vaes.iwae import IWAE
from genbench.options import keywords_of, options_of
from genbench.registry import find, names
from genbench.suite import Run, merged, read_suite, suite_path, suite_paths

RUN = Run(suite="s", name="RealNVP", model="flows.realnvp:RealNVP", data="digits", seed=1, steps=2000)


def suite(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(textwrap.dedent(text))
    return path


def planned(path: Path) -> list[Run]:
    """Return the runs of a suite file as the command line does."""
    protocol = read_suite(path)
    with error_context(str(path)):
        return protocol.runs()


GOOD = """
    suite: mine
    defaults: {steps: 20, batch: 8, lr: 1e-3, seeds: [0, 1]}
    data: [toys:moons, {data: digits, steps: 30, optimizer: {ema: 0.5}}]
    metrics: [likelihood]
    models:
      NICE: flows.nice:NICE
      RealNVP:
        model: flows.realnvp:RealNVP
        data: digits
        batch: 16
        per_data: {digits: {lr: 5e-4}}
    published:
      NICE:
        source: "NICE (2015), table 1"
        values: {bpd: {digits: 436e-2}}
"""


# ------------------------------------------------------------------------------------------------- the id


def test_golden_ids() -> None:
    """Published records are filed under these; a change here orphans every one of them."""
    assert RUN.id == "1d09f0124aedb01b"
    assert Run(suite="s", name="n", model="a:B", data="d").id == "059c04b522e6d7d1"
    full = Run(**(RUN.model_dump(exclude_unset=True) | {"options": {"couplings": 4, "hidden": [64]}, "seed": 3}))
    assert full.id == "e55d64c629a7dec2"


def test_the_id_is_of_what_decides_the_trained_model() -> None:
    for change in (
        {"seed": 2},
        {"steps": 10},
        {"batch": 4},
        {"optimizer": {"lr": 0.5}},
        {"precision": "tf32"},
        {"options": {"couplings": 3}},
        {"data": "photos"},
        {"model": "flows.nice:NICE"},
        {"version": 2},
        {"checks": 3},
        {"selection": "last"},
    ):
        assert Run(**(RUN.model_dump(exclude_unset=True) | change)).id != RUN.id, change


def test_the_id_is_not_of_metrics_resources_or_names() -> None:
    for change in (
        {"metrics": ("likelihood",)},
        {"resources": {"cpus": 8, "gpus": 1, "timeout": 5}},
        {"suite": "other"},
        {"name": "another row"},
    ):
        assert Run(**(RUN.model_dump(exclude_unset=True) | change)).id == RUN.id, change


def test_defaults_that_published_ids_leave_out() -> None:
    defaults = Run(suite="s", name="n", model="m", data="d").model_dump(exclude={"suite", "name", "model", "data"})
    assert defaults == {
        "version": 1, "seed": 0, "metrics": (), "steps": 1000, "batch": 128, "precision": "float32", "checks": 20,
        "selection": "best", "options": {},
        "optimizer": {
            "name": "adam", "lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 0.0, "schedule": "constant",
            "warmup": 0, "clip": None, "ema": 0.0,
        },
        "resources": {"cpus": 1.0, "gpus": 0.0, "memory": None, "timeout": None},
    }  # fmt: skip


GOLDEN = json.loads((Path(__file__).parent / "golden_options.json").read_text())


@pytest.mark.parametrize("model", names("models"))
def test_defaults_of_options_that_published_ids_leave_out(model: str) -> None:
    """Ids omit options at their defaults, so that another default gives published ids another meaning."""
    keywords, _, _ = keywords_of(find("models", model))
    defaults = {k: json.loads(json.dumps(p.default)) for k, p in keywords.items() if p.default is not p.empty}
    golden = GOLDEN.get(model, {})
    changed = {k: (golden[k], defaults.get(k, "(gone)")) for k in golden if golden[k] != defaults.get(k, "(gone)")}
    assert not changed, f"{model}: changing a default changes the meaning of published run ids; keep it: {changed}"
    new = {k: v for k, v in defaults.items() if k not in golden}
    assert not new, f"{model}: options that are new; add them to tests/golden_options.json: {new}"
    assert model in GOLDEN, f"{model} is new; add it to tests/golden_options.json"


@given(
    st.dictionaries(
        st.sampled_from("abcd"), st.recursive(st.integers(), lambda s: st.dictionaries(st.sampled_from("abcd"), s))
    )
)
def test_merging_over_oneself_changes_nothing(tree: dict) -> None:
    assert merged(tree, tree) == tree
    assert merged({}, tree) == merged(tree, {}) == tree


# --------------------------------------------------------------------------------------------------- suites


def test_later_settings_win(tmp_path: Path) -> None:
    runs = read_suite(suite(tmp_path, GOOD)).runs()
    assert [str(r) for r in runs] == [
        f"{row} / {data} / seed {seed}"
        for row, data in (("NICE", "toys:moons"), ("NICE", "digits"), ("RealNVP", "digits"))
        for seed in (0, 1)
    ]
    moons, digits, realnvp = runs[0], runs[2], runs[4]
    assert (moons.steps, moons.batch, moons.optimizer.lr, moons.optimizer.ema) == (20, 8, 1e-3, 0.0)
    assert (digits.steps, digits.batch, digits.optimizer.lr, digits.optimizer.ema) == (30, 8, 1e-3, 0.5)
    assert (realnvp.steps, realnvp.batch, realnvp.optimizer.lr, realnvp.optimizer.ema) == (30, 16, 5e-4, 0.5)


@pytest.mark.parametrize("last", range(5))
def test_each_level_beats_those_before_it_on_one_key(tmp_path: Path, last: int) -> None:
    """Defaults < data < model < per_data < --set, key by key."""
    set_at = [{"lr": 10.0 ** -(i + 1), "options": {"couplings": i + 11}} if i <= last else {} for i in range(5)]
    text = {
        "suite": "s",
        "metrics": ["likelihood"],
        "defaults": {"optimizer": {"warmup": 7, "lr": 0.1}, "options": {"couplings": 11, "hidden": [8]}, "seeds": [0]},
        "data": [{"data": "digits"} | set_at[1]],
        "models": {"M": {"model": "flows.nice:NICE", "per_data": {"digits": set_at[3]}} | set_at[2]},
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(text))
    (run,) = read_suite(tmp_path / "s.yaml").runs(change=set_at[4])
    assert (run.optimizer.lr, run.options["couplings"]) == (pytest.approx(10.0 ** -(last + 1)), last + 11)
    assert (run.optimizer.warmup, run.options["hidden"]) == (7, (8,)), "what is not set again stays"


def test_what_papers_report_is_read_and_is_no_part_of_any_run(tmp_path: Path) -> None:
    protocol = read_suite(suite(tmp_path, GOOD))
    (paper,) = protocol.published.values()
    assert (paper.source, paper.kind) == ("NICE (2015), table 1", "exact")
    assert paper.values == {"bpd": {"digits": 4.36}}
    without = read_suite(suite(tmp_path, GOOD.partition("    published:")[0]))
    assert without.runs() == protocol.runs()


def test_spellings_of_a_number_have_one_id(tmp_path: Path) -> None:
    """The id does not depend on how a number was written, as long as it is one."""
    ids = {
        tuple(r.id for r in read_suite(suite(tmp_path, GOOD.replace("lr: 1e-3", spelling))).runs())
        for spelling in ("lr: 1e-3", "lr: 0.001", "lr: .001", "lr: 10E-4", "optimizer: {lr: +1.0e-3}")
    }
    assert len(ids) == 1


def test_an_option_at_its_default_leaves_the_id(tmp_path: Path) -> None:
    nice = find("models", "flows.nice:NICE").__init__.__kwdefaults__
    option = next(iter(nice))
    text = GOOD.replace(
        "flows.nice:NICE",
        f"{{model: flows.nice:NICE, options: {{{option}: {nice[option]!r}}}}}".replace("(", "[").replace(")", "]"),
    )
    assert [r.id for r in read_suite(suite(tmp_path, text)).runs()] == [
        r.id for r in read_suite(suite(tmp_path, GOOD)).runs()
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("flows.nice:NICE", "flows.nice:NIC", "NICE: unknown model 'flows.nice:NIC'; did you mean 'flows.nice:NICE'?"),
        ("toys:moons", "toys:mons", "data.toys:mons: unknown dataset 'toys:mons'; did you mean 'toys:moons'?"),
        ("[likelihood]", "[liklihood]", "metrics.0: unknown metric 'liklihood'; did you mean 'likelihood'?"),
        ("steps: 20", "stpes: 20", "defaults: unknown key 'stpes'; did you mean 'steps'?"),
        ("steps: 20", "steps: many", "defaults.steps: input should be a valid integer"),
        ("steps: 20", "steps: -5", "defaults.steps: input should be greater than or equal to 0, got -5"),
        ("steps: 20", "steps: 20, steps: 30", "line 3: defaults.steps: the key is given twice"),
        ("ema: 0.5", "ema: 1.5", "optimizer.ema: input should be less than 1"),
        ("seeds: [0, 1]", "seeds: []", "defaults.seeds"),
        ("per_data: {digits:", "per_data: {digit:", "per_data: no data 'digit' in this suite; did you mean 'digits'?"),
        ("batch: 16", "options: {coupling: 3}", "models.RealNVP: unknown option 'coupling'; did you mean 'couplings'?"),
        ("batch: 16", "options: {couplings: few}", "option 'couplings': input should be a valid integer"),
        ("metrics: [likelihood]", "", "metrics: is missing"),
        ("source:", "sorce:", "published.NICE: unknown key 'sorce'; did you mean 'source'?"),
        ("{bpd: {digits:", "{bpd: {digit:", "values.bpd: no data 'digit' in this suite; did you mean 'digits'?"),
        ("digits: 436e-2", "digits: low", "published.NICE.values.bpd.digits: input should be a valid number"),
        ("digits: 436e-2", "digits: .inf", "published.NICE.values.bpd.digits: input should be a finite number"),
        ("{bpd: {digits: 436e-2}}", "{}", "published.NICE.values: dictionary should have at least 1"),
        ("source: ", "kind: bond\n        source: ", "published.NICE.kind: input should be 'exact', 'bound' or"),
        ("{data: digits, steps: 30, optimizer: {ema: 0.5}}", "digits, digits", "'digits' is given twice"),
        ("NICE: flows.nice:NICE", "NICE: flows.nice:NICE\n      Same: flows.nice:NICE", "it is the same run as 'NICE'"),
        ("suite: mine", "suite: [", "is not YAML"),
        ("steps: 20", "steps: yes", "line 3: defaults.steps: 'yes' means true or false"),
        ("steps: 20", "steps: true", "defaults.steps: input should be a valid integer, got True"),
        ("steps: 20", "steps: '20'", "defaults.steps: input should be a valid integer, got '20'"),
        ("steps: 20", "steps: 1_000", "line 3: defaults.steps: '1_000' means different"),
        ("steps: 20", "steps: 1e3", "defaults.steps: input should be a valid integer, got 1000.0"),
        ("steps: 20", "steps: 20.0", "defaults.steps: input should be a valid integer, got 20.0"),
        ("steps: 20", "steps: null", "defaults.steps: input should be a valid integer, got None"),
        ("steps: 20", "steps: 2000000000", "defaults.steps: input should be less than or equal to 1000000000, got 2"),
        ("steps: 20", "checks: 1000000000000", "defaults.checks: input should be less than or equal to 100000, got 1"),
        ("batch: 8", "batch: 100000000", "defaults.batch: input should be less than or equal to 1000000, got 1"),
        ("batch: 8", "batch: true", "defaults.batch: input should be a valid integer, got True"),
        ("batch: 8", "resources: {cpus: true}", "defaults.resources.cpus: input should be a valid number, got True"),
        ("batch: 8", "resources: {memory: 8GB}", "resources.memory: input should be a valid integer, got '8GB'"),
        ("lr: 1e-3", "lr: true", "defaults.optimizer.lr: input should be a valid number, got True"),
        ("lr: 1e-3", "lr: '0.001'", "defaults.optimizer.lr: input should be a valid number, got '0.001'"),
        ("lr: 1e-3", "lr: .nan", "line 3: defaults.lr: input should be a finite number, got .nan"),
        ("lr: 1e-3", "optimizer: adam", "defaults.optimizer: should be a mapping (key: value), got 'adam'"),
        ("lr: 1e-3", "lr: 1e-3, optimizer: {lr: 1e-3}", "defaults: lr and optimizer.lr are the same setting"),
        ("lr: 1e-3", "optimizer: {betas: [0.9, 1.0]}", "optimizer.betas.1: input should be less than 1, got 1.0"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "defaults.seeds: 0 is given twice"),
        ("seeds: [0, 1]", "seeds: [true]", "defaults.seeds.0: input should be a valid integer, got True"),
        ("seeds: [0, 1]", f"seeds: [{2**63}]", f"line 3: defaults.seeds.0: '{2**63}' is beyond the range of 64-bit"),
        ("seeds: [0, 1]", f"seeds: {list(range(10_001))}", "defaults.seeds: tuple should have at most 10000 items"),
        ("suite: mine", "suite: ../up", "suite: the name becomes a folder"),
        ("suite: mine", "suite: 3", "suite: input should be a valid string, got 3"),
        ("suite: mine", "suite: 2024-02-30", "line 2: suite: '2024-02-30' means a date"),
        ("suite: mine", "suite: mine\n    version: 0", "version: input should be greater than or equal to 1, got 0"),
        ("suite: mine", "suite: mine\n    version: 10000000", "version: input should be less than or equal to 1000000"),
        ("suite: mine", "suite: mine\n    version: true", "version: input should be a valid integer, got True"),
        ("suite: mine", 'suite: mine\n    title: "a\\x1b[31m"', "title: 'a\\x1b[31m' contains control characters"),
        ("suite: mine", f"suite: mine\n    title: {'x' * 201}", "title: string should have at most 200 characters"),
        ("    NICE: flows", '    "N\\nCE": flows', "models.N CE: a name is one line of printable text"),
        ("    NICE: flows", '    "": flows', "models.: a name is one line of printable text"),
        ("    NICE: flows", "    " + "N" * 101 + ": flows", "a name has at most 100 characters, got 101"),
        ("toys:moons", "toys:moons, toys:Moons", "data.1: 'toys:Moons' and 'toys:moons' differ in case only"),
        ("toys:moons", '"toys:\\x00"', "data.0.data: a name is one line of printable text"),
        ("toys:moons", "../../up", "data.../../up: unknown dataset '../../up'"),
        ("[likelihood]", "[likelihood, likelihood]", "metrics: 'likelihood' is given twice"),
        ("[likelihood]", "[3]", "metrics.0: input should be a valid string, got 3"),
        ("data: digits\n", "data: []\n", "models.RealNVP.data: tuple should have at least 1 item"),
        ("batch: 16", "options: {couplings: true}", "option 'couplings': input should be a valid integer, got True"),
        ("batch: 16", "options: {couplings: '3'}", "option 'couplings': input should be a valid integer, got '3'"),
        ("batch: 16", "options: {couplings: 3.0}", "option 'couplings': input should be a valid integer, got 3.0"),
        ("batch: 16", "options: {hidden: 3}", "option 'hidden': input should be a valid array, got 3"),
        ("batch: 16", "options: [couplings]", "models.RealNVP.options: input should be a valid dictionary"),
    ],
)  # fmt: skip
def test_bad_suites_are_one_line_that_names_file_and_key(tmp_path: Path, old: str, new: str, expected: str) -> None:
    path = suite(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(UsageError) as error:
        planned(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("# nothing", "is empty"),
        ("- a\n- b", "is not a mapping"),
        ("mine", "is not a mapping of keys, but str"),
        ("0", "is not a mapping of keys, but int"),
        ("{}", "suite: is missing"),
        ("a: [", "is not YAML"),
    ],
)
def test_files_that_are_no_suite(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(UsageError, match=f"mine.yaml: {expected}"):
        read_suite(suite(tmp_path, text))


def test_a_suite_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_suite(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"binary\.yaml: cannot be read"):
        read_suite(tmp_path / "binary.yaml")
    with pytest.raises(UsageError, match="is a folder, not a suite's file"):
        read_suite(tmp_path)
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UsageError, match=r"pipe\.yaml: is not a regular file"):
        read_suite(tmp_path / "pipe.yaml")
    with pytest.raises(UsageError, match="cannot be read: File name too long"):
        read_suite(tmp_path / f"{'x' * 300}.yaml")


@pytest.mark.parametrize("name", ["mine", "flows-mnist-gpu", "A", "0", "a.b_c+d-e", "x" * 64, "vaes-v2"])
def test_names_that_a_suite_may_have(name: str) -> None:
    assert suite_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../up", "/tmp/x", "a/b", "a\\b", ".hidden", "-rf", "a.", "a b", " a", "a\n", "a\0", "é", "x" * 65,
     "CON", "nul.txt", "com1", "plots", "Plots", "LEADERBOARD.md", "leaderboard.CSV", "~", "$HOME", "a:b", "*", "_a"],
)  # fmt: skip
def test_names_that_no_suite_may_have(name: str) -> None:
    with pytest.raises(ValueError, match=r"becomes a folder|is reserved"):
        suite_name(name)


def test_paragraphs_are_one_line(tmp_path: Path) -> None:
    text = GOOD.replace("suite: mine", "suite: mine\n    question: >\n      Which is\n      better?\n")
    assert read_suite(suite(tmp_path, text)).question == "Which is better?"


def test_a_missing_file_is_no_unknown_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("./missing.yaml", "nosuch/x.yaml", "missing.yml", "flows/", "/nowhere/suite"):
        with pytest.raises(UsageError, match=r"cannot be read: No such file or directory"):
            read_suite(suite_path(name))
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="folder: is a folder"):
        read_suite(suite_path("folder"))
    for name in ("folwos", "", "x" * 9999):
        with pytest.raises(UsageError, match="unknown suite"):
            suite_path(name)


def test_a_merge_key_is_as_if_written_out(tmp_path: Path) -> None:
    merged_text = GOOD.replace(
        "NICE: flows.nice:NICE", "NICE: &a {batch: 16, model: flows.nice:NICE}\n      B: {<<: *a, lr: 0.1}"
    )
    written = GOOD.replace(
        "NICE: flows.nice:NICE",
        "NICE: {model: flows.nice:NICE, batch: 16}\n      B: {lr: 0.1, model: flows.nice:NICE, batch: 16}",
    )
    assert merged_text != written
    ids = [[(r.name, r.id) for r in planned(suite(tmp_path, text))] for text in (merged_text, written)]
    assert ids[0] == ids[1]
    assert len({id for _, id in ids[0]}) == len(ids[0]) == 10


def test_the_order_of_keys_does_not_change_an_id(tmp_path: Path) -> None:
    def backwards(value: Any) -> Any:
        return {k: backwards(v) for k, v in reversed(value.items())} if isinstance(value, dict) else value

    data = yaml.safe_load(textwrap.dedent(GOOD))
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(backwards(data), sort_keys=False))
    assert {(str(r), r.id) for r in planned(tmp_path / "other.yaml")} == {
        (str(r), r.id) for r in planned(suite(tmp_path, GOOD))
    }


def test_one_run_in_two_spellings_is_refused(tmp_path: Path) -> None:
    text = GOOD.replace(
        "NICE: flows.nice:NICE", "NICE: flows.nice:NICE\n      Same: {options: {}, model: flows.nice:NICE, lr: 10E-4}"
    )
    with pytest.raises(UsageError, match=r"models\.Same: on toys:moons it is the same run as 'NICE'"):
        planned(suite(tmp_path, text))


def test_suites_too_large_are_refused_at_once(tmp_path: Path) -> None:
    data = [f"toys:x{i}" for i in range(200)]
    models = "\n".join(f"  m{i}: flows.nice:NICE" for i in range(200))
    path = tmp_path / "s.yaml"
    path.write_text(f"suite: s\ndata: {data}\nmetrics: [likelihood]\nmodels:\n{models}\n")
    with pytest.raises(UsageError, match="models: 40000 pairs of row and data are more than 10000"):
        read_suite(path)
    large = read_suite(suite(tmp_path, GOOD))
    with pytest.raises(UsageError, match="120000 runs are more than 100000"):
        large.runs(seeds=range(40_000))


def test_only_is_a_glob_of_rows_or_cells(tmp_path: Path) -> None:
    protocol = read_suite(suite(tmp_path, GOOD))
    assert {r.name for r in protocol.runs(only="Real*")} == {"RealNVP"}
    assert {(r.name, r.data) for r in protocol.runs(only="*/digits")} == {("NICE", "digits"), ("RealNVP", "digits")}
    with pytest.raises(UsageError, match="matches no row; did you mean 'RealNVP'"):
        protocol.runs(only="RealNVQ")


def test_a_row_whose_name_looks_like_a_glob_is_matched_by_its_name(tmp_path: Path) -> None:
    globs = read_suite(
        suite(tmp_path, GOOD.replace("      NICE: flows", "      'N [a-c]*': flows").partition("    published")[0])
    )
    assert {r.name for r in globs.runs(only="N [a-c]*")} == {"N [a-c]*"}
    assert {r.data for r in globs.runs(only="N [a-c]*/digits")} == {"digits"}


def test_a_change_reaches_only_the_selected_rows(tmp_path: Path) -> None:
    flows = read_suite(suite(tmp_path, GOOD))
    (run,) = flows.runs(only="RealNVP", seeds=[7], change={"options": {"couplings": 3}, "lr": 1e-2})
    assert (run.seed, run.options, run.optimizer.lr) == (7, {"couplings": 3}, 0.01)


@pytest.mark.parametrize("name", suite_paths())
def test_every_suite_of_the_project_resolves(name: str) -> None:
    protocol = read_suite(suite_paths()[name])
    assert protocol.suite == name
    runs = protocol.runs()
    assert len({run.id for run in runs}) == len(runs), "two rows are the same run"
    assert yaml.safe_load(yaml.safe_dump(runs[0].model_dump(mode="json")))


# -------------------------------------------------------------------------------------------------- registry


@pytest.mark.parametrize("kind", ["models", "datasets", "metrics"])
def test_everything_listed_exists_and_has_a_description(kind: str) -> None:
    assert names(kind)
    for name, about in names(kind).items():
        assert find(kind, name) is not None
        assert about, f"{name} has no docstring"


def test_a_path_finds_what_another_package_offers() -> None:
    from genbench.models.flows.nice import NICE

    assert find("models", "genbench.models.flows.nice:NICE") is NICE


def test_a_plain_name_never_imports_another_package() -> None:
    with pytest.raises(UsageError, match="unknown dataset 'random'"):
        find("datasets", "random")


def test_options_passed_on_are_checked_as_those_of_the_class_extended() -> None:
    assert options_of(IWAE, {"k": 5, "latent": 16, "dropout": 0.5}) == {"k": 5, "dropout": 0.5}
    with pytest.raises(UsageError, match="unknown option 'latnet'; did you mean 'latent'"):
        options_of(IWAE, {"latnet": 3})
    with pytest.raises(UsageError, match="option 'latent'"):
        options_of(IWAE, {"latent": "many"})


def test_types_that_only_checkers_resolve_are_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "options_of_mine.py").write_text(
        "from __future__ import annotations\n"
        "from typing import TYPE_CHECKING\n"
        "from genbench.model import Model\n"
        "if TYPE_CHECKING:\n    from nowhere import Bar, Space\n"
        "class Foo: pass\n"
        "class Mine(Model):\n"
        "    def __init__(self, space: Space, *, k: int, b: Bar | None = None, f: Foo = Foo()): pass\n"
        "class Broken(Model):\n    def __init__(self, space, *, k: 'list[int' = 3): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mine = find("models", "options_of_mine:Mine")
    assert options_of(mine, {"k": 3, "b": [1]}) == {"k": 3, "b": [1]}
    for options, message in (
        ({"k": True}, "option 'k': input should be a valid integer, got True"),
        ({}, "option 'k' has no default and is missing"),
        ({"k": 3, "f": 3}, "option 'f': a suite cannot give values of its type, .*Foo"),
    ):
        with pytest.raises(UsageError, match=message):
            options_of(mine, options)
    with pytest.raises(UsageError, match="its type hints cannot be read: SyntaxError"):
        options_of(find("models", "options_of_mine:Broken"), {})


def test_a_model_that_keeps_its_options_takes_any() -> None:
    class Keeps(Model):
        def __init__(self, space: Space, **options: object) -> None:
            super().__init__(space)

        def sample(self, n: int) -> Tensor:
            return torch.zeros(n, *self.space.shape)

    assert options_of(Keeps, {"anything": 1}) == {"anything": 1}
