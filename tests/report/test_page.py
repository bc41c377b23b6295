"""The page: self-contained, safe, and with the details of every cell."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from genbench.records.record import Record
from genbench.report import write
from tests.report.records import HOSTILE, PageParser, record, row_of, suite_records, write_page


def hostile() -> list[Record]:
    bad = {"error": HOSTILE, "command": HOSTILE, "environment": {HOSTILE: HOSTILE}, "code": {"commit": HOSTILE}}
    values = [record(HOSTILE, seed, 1.0 + seed, run={"model": HOSTILE}, **bad) for seed in (0, 1)]
    return [*values, record("Bad", status="error", **bad)]


def test_text_from_records_never_becomes_markup(tmp_path):
    page = write_page(hostile(), tmp_path)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert "img" not in [tag for tag, _ in page.tags]
    data = json.loads(page.scripts[0])
    assert data["boards"][0]["rows"][0]["name"] == HOSTILE
    text = (tmp_path / "out" / "LEADERBOARD.md").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<img" not in text
    tables = [re.sub(r"\\\|", "", line) for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in tables}) == 1


def test_the_page_loads_nothing_else(tmp_path):
    page = write_page([*row_of([1.0, 1.1]), *row_of([2.0, 2.1], "Glow")], tmp_path)
    links = [attributes[key] for _, attributes in page.tags for key in ("src", "href") if key in attributes]
    assert all(link.startswith(("data:", "#")) for link in links)
    text = (tmp_path / "out" / "leaderboard.html").read_text(encoding="utf-8")
    assert not re.findall(r"url\((?!#|\$)|@import|fetch\(|XMLHttpRequest", text)
    assert "default-src 'none'" in text


def test_every_cell_has_commit_environment_command_and_values_by_seed(tmp_path):
    records = row_of([1.0, 1.5], command="genbench run flows")
    data = json.loads(write_page(records, tmp_path).scripts[0])
    (row,) = data["boards"][0]["rows"]
    (cell,) = row["cells"]
    for (seed, value, *_, impl, index), run, r in zip(cell["seeds"], row["runs"], records, strict=True):
        execution = data["executions"][index]
        assert (seed, value) == (r.run.seed, r.measurements["nats"].value)
        assert data["impls"][impl] == r.measurements["nats"].impl
        assert run == [r.run.seed, r.id, index]
        assert (execution["execution"], execution["commit"]) == (r.execution, "c" * 40)
        assert execution["command"] == "genbench run flows"
        assert data["environments"][execution["environment"]] == r.environment


def test_equally_named_executions_of_two_suites_are_distinct_on_the_page(tmp_path):
    records = [record(suite=suite, code={"commit": suite * 20, "dirty": None}) for suite in ("aa", "bb")]
    write(records, tmp_path, tmp_path)
    data = json.loads(PageParser((tmp_path / "leaderboard.html").read_text()).scripts[0])
    indices = [board["rows"][0]["cells"][0]["seeds"][0][-1] for board in data["boards"]]
    assert [data["executions"][index]["commit"] for index in indices] == ["aa" * 20, "bb" * 20]


def test_curves_are_thinned_and_keep_their_ends(tmp_path):
    data = json.loads(write_page(suite_records(), tmp_path).scripts[0])
    curve = data["boards"][0]["rows"][0]["curve"]
    assert len(curve) == 60
    assert (curve[0][0], curve[-1][0]) == (1, 89)


CLICKS = """
const board = document.querySelector(".board"), heads = all("thead button", board), seen = [];
const rows = () => all("tbody tr:not([hidden])").map(row => row.dataset.name[0]).join("");
for (const head of [heads[1], heads[2], heads[2], heads[3], heads[0]]) { head.click(); seen.push(rows()); }
form.q.value = "b moons"; applyFilters(); seen.push(rows(), location.hash);
board.querySelector("tr:not([hidden]) .cell").click(); seen.push(dialog.open, dialog.querySelector("h3").textContent);
document.body.replaceChildren(JSON.stringify(seen));
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
def test_a_browser_sorts_filters_and_shows_the_details_of_a_cell(tmp_path):
    records = [r for r in suite_records() if r.run.data == "moons"]
    (tmp_path / "page.html").write_text(
        write(records, tmp_path, tmp_path / "out")[1]
        .read_text()
        .replace("</body>", f"<script>{CLICKS}</script></body>")
    )
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--dump-dom"]
    options += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = ["chromium", *options, f"--user-data-dir={tmp_path / 'profile'}", f"file://{tmp_path / 'page.html'}"]
    page = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    seen = json.loads(re.search(r"<body>(\[.*\])", page).group(1))
    by_name, by_nll, by_nll_again, by_speed, as_reported = seen[:5]
    assert (by_name, by_nll, by_nll_again, by_speed, as_reported) == ("AAB", "ABA", "ABA", "BAA", "ABA")
    assert seen[5:] == ["B", "#q=b+moons", True, "B, NLL (nats) ↓ on moons"]
