"""Labels: what readers see instead of the keys in records."""

from __future__ import annotations

import pytest
from rich.console import Console

from genbench.report import leaderboard, show, write
from genbench.report.columns import Column
from genbench.report.labels import LABELS, UNITS, measurement_label
from tests.report.records import measured, row_of


@pytest.mark.parametrize(
    ("key", "label"),
    [
        ("nats", "NLL"),
        ("bpd", "bits/dim"),
        ("excess_nats", "excess NLL"),
        ("fid[digits-cnn]", "FID (digits-cnn)"),
        ("kid[a[b]]", "KID (a[b])"),
        ("clustering_ari", "clustering ARI"),
        ("anomaly_auroc_likelihood_nine", "anomaly AUROC likelihood nine"),
        ("nearer_than_new", "memorization AUC"),
        ("train_throughput", "train throughput"),
        ("[odd", "[odd"),
        ("", ""),
    ],
)
def test_a_measurement_has_the_label_of_the_field(key, label):
    assert measurement_label(key) == label


@pytest.mark.parametrize(
    ("column", "heading", "subheading", "title"),
    [
        (("nats", "exact", "nats", "lower"), "NLL ↓", "nats", "NLL (nats) ↓"),
        (("nats", "bound", "nats", "lower"), "NLL ↓", "nats, bound", "NLL (nats, bound) ↓"),
        (("bpd", "exact", "bits/dim", "lower"), "bits/dim ↓", "", "bits/dim ↓"),
        (
            ("fid_infinity[net]", "estimate", "", "lower"),
            "FID infinity ↓",
            "net, estimate",
            "FID infinity (net, estimate) ↓",
        ),
        (("cas", "exact", "of points", "higher"), "CAS ↑", "fraction", "CAS (fraction) ↑"),
        (("parameters", "exact", "parameters", None), "parameters", "", "parameters"),
        (("train_memory", "exact", "bytes", "lower"), "train memory ↓", "", "train memory ↓"),
    ],
)
def test_a_column_names_measurement_network_unit_kind_and_direction(column, heading, subheading, title):
    shown = Column(*column)
    assert (shown.heading, shown.subheading, shown.title) == (heading, subheading, title)


def test_an_axis_that_kinds_share_does_not_name_one():
    assert Column("nats", "bound", "nats", "lower").axis_title == "NLL (nats) ↓"


def test_labels_are_distinct():
    assert len(set(LABELS.values())) == len(LABELS)
    assert "of points" not in UNITS.values()


def test_every_output_has_labels_and_the_csv_has_keys(tmp_path, capsys):
    accuracy = measured(0.5, unit="of points", better="higher")
    records = row_of([1.0, 1.1], measurements={"nats": measured(1.0), "zero_shot_accuracy": accuracy})
    write(records, tmp_path, tmp_path)
    leaderboard(records, Console(width=120))
    show(records[:1], Console(width=160))
    printed, text = capsys.readouterr().out, (tmp_path / "LEADERBOARD.md").read_text(encoding="utf-8")
    page = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    for output in (printed, text, page):
        assert "zero-shot accuracy" in output
        assert "fraction" in output
    assert "of points" not in printed + text
    assert "zero_shot_accuracy" not in text
    assert "zero_shot_accuracy,0.5,of points," in (tmp_path / "leaderboard.csv").read_text(encoding="utf-8")
