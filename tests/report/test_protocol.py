"""The text above a board: machines, weights, test points."""

from __future__ import annotations

from pathlib import Path

from genbench.records.record import Point, Record
from genbench.report import write
from genbench.report.markdown import markdown
from genbench.report.protocol import hardware_by_suite
from tests.report.records import CURVE, board_of, measured, record, row_of


def test_all_machines_are_named():
    records = [record(), record(seed=1, environment={"gpu": "Some GPU", "processor": "Some CPU"})]
    text = markdown([board_of(records)], hardware_by_suite(records))
    assert "Measured on Some CPU, 2 cores; Some GPU. Speeds from different machines are not comparable." in text


LOSSES = (Point(step=1, seconds=1.0, loss=2.0), Point(step=100, seconds=2.0, loss=1.0))


def protocol_line(records: list[Record], tmp_path: Path) -> str:
    write(records, tmp_path, tmp_path)
    text = (tmp_path / "LEADERBOARD.md").read_text(encoding="utf-8")
    return next(line for line in text.splitlines() if " steps, batch " in line)


def test_the_protocol_names_rows_with_best_and_with_last_weights(tmp_path):
    validated, never = row_of([1.0, 1.1], "VAE", curve=CURVE), row_of([1.0, 1.1], "AE", curve=LOSSES)
    assert protocol_line(validated, tmp_path).endswith("float32, best-validation weights.")
    assert protocol_line(never, tmp_path).endswith("float32, last weights.")
    more = [*validated, *never, *row_of([2.0, 2.1], "IWAE", curve=CURVE)]
    assert protocol_line(more, tmp_path).endswith("float32, best-validation weights (last weights: AE).")
    last = row_of([1.0, 1.1], "Last", curve=CURVE, run={"model": "flows.last", "selection": "last"})
    assert protocol_line(last, tmp_path).endswith("float32, last weights.")
    closed = row_of([1.0, 1.1], "PCA", run={"model": "flows.pca", "steps": 0})
    assert protocol_line(closed, tmp_path).endswith("float32.")


def test_weights_trained_by_another_suite_are_known_from_its_curve(tmp_path):
    trained = row_of([1.0, 1.1], "AE", curve=LOSSES, suite="autoencoders")
    measured_here = row_of([1.0, 1.1], "AE", suite="digits")
    write([*trained, *measured_here], tmp_path, tmp_path)
    assert (tmp_path / "LEADERBOARD.md").read_text().count("float32, last weights.") == 2


def test_different_numbers_of_test_points_are_named(tmp_path):
    measurements = {"nats": measured(1.0, kind="bound", n=5000), "ais_nats": measured(1.0, kind="bound", n=200)}
    assert "test points: 5000 for NLL, 200 for AIS NLL" in protocol_line([record(measurements=measurements)], tmp_path)
    measurements["ais_nats"] = measured(1.0, kind="bound", n=5000)
    assert "test points" not in protocol_line([record(measurements=measurements)], tmp_path)
