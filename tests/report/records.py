"""Made-up records for the tests of the report, and helpers to read its output."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from genbench.records.record import Measurement, Point, Record
from genbench.report import write
from genbench.report.board import Board, Row, boards
from genbench.report.columns import Column
from genbench.report.tidy import by_run, lines, metrics_by_suite
from genbench.strict_model import checked
from genbench.suite import Run, Suite

NATS = Column("nats", "exact", "nats", "lower")


def measured(value: float | None, **changes) -> Measurement:
    """Return a measurement of NLL in nats, with `changes`."""
    defaults = {"unit": "nats", "better": "lower", "n": 100, "stderr": 0.1, "impl": "likelihood 1"}
    return Measurement(value=value, **(defaults | changes))


def record(name="NICE", seed=0, nats: float | None = 1.0, at=0, status="ok", data="moons", **changes) -> Record:
    """Return the record of a run of 100 steps, with `changes`; `at` orders the executions."""
    options = {"model": f"flows.{name.lower()}", "steps": 100, "metrics": ("likelihood",)} | changes.pop("run", {})
    run = Run(suite=changes.pop("suite", "flows"), name=name, data=data, seed=seed, **options)
    measurements = changes.pop("measurements", {"nats": measured(nats)} if status == "ok" else {})
    defaults = {"environment": {"processor": "Some CPU", "cores": 2}, "code": {"commit": "c" * 40, "dirty": False}}
    execution = f"20260101T{at:06d}000000Z-abcdef01-{seed:06x}"
    return Record(run=run, execution=execution, status=status, measurements=measurements, **(defaults | changes))


def row_of(values, name="NICE", **changes) -> list[Record]:
    """Return one record per value, of seeds 0, 1, ..."""
    return [record(name, seed, value, **changes) for seed, value in enumerate(values)]


def invalid_row(values, verdicts, name="Liar", **changes) -> list[Record]:
    """Return one record per value, each with its verdict."""
    return [
        record(name, seed, measurements={"nats": measured(v, verdict=verdict)}, **changes)
        for seed, (v, verdict) in enumerate(zip(values, verdicts, strict=True))
    ]


def board_of(records: list[Record]) -> Board:
    """Return the only board of `records`."""
    (board,) = boards(lines(by_run(records)), metrics_by_suite(records))
    return board


def rows_of(records: list[Record]) -> dict[str, Row]:
    """Return the rows of the only board of `records` by name."""
    return {row.name: row for row in board_of(records).rows}


CURVE = (Point(step=1, seconds=1.0, loss=2.0, validation=2.0), Point(step=2, seconds=2.0, loss=1.0, validation=1.0))


def suite_records() -> list[Record]:
    """Return the records of two boards: three rows with speed and learning curves, and a failed row."""
    curve = tuple(Point(step=step, seconds=1.0, loss=10 / step, validation=11 / step) for step in range(1, 90))
    speeds = [
        record(
            name,
            0,
            at=9,
            measurements={"train_throughput": measured(v, unit="samples/s", better="higher", raw=(v - 2, v, v + 9))},
        )
        for name, v in (("A", 90.0), ("B", 500.0), ("A very long name of a row that goes on and on", 100.0))
    ]
    rows = [row_of([i + 1.0, i + 1.1, i + 1.2], s.run.name, curve=curve) for i, s in enumerate(speeds)]
    return [*speeds, *(r for row in rows for r in row), record("A", 2, at=1, data="rings", status="cuda_oom")]


BITS = {"unit": "bits/dim"}

FID = {"unit": "", "impl": "fidelity 1"}


def family_records() -> list[Record]:
    """Return rows of five families with exact values, bounds, an estimate, and one row with two bounds."""
    impl = "likelihood 1, L_16"
    measurements = {
        ("PixelCNN", "autoregressive.pixelcnn:PixelCNN"): {"bpd": measured(1.7, **BITS)},
        ("NSF", "flows.nsf:NSF"): {"bpd": measured(1.8, kind="bound", impl=impl, **BITS)},
        ("VAE", "vaes.vae:VAE"): {
            "bpd": measured(2.0, kind="bound", impl=impl, **BITS),
            "ais_bpd": measured(1.9, kind="bound", impl="ais 1, 2 chains", **BITS),
            "ais_nats": measured(90.0, kind="bound", impl="ais 1, 2 chains"),
        },
        ("GMM", "mixtures.gmm:GMM"): {"bpd": measured(2.7, kind="bound", impl=impl, **BITS)},
        ("GAN", "gans.gan:GAN"): {"ais_bpd": measured(2.5, kind="estimate", impl="ais 1, sigma 0.25", **BITS)},
    }
    for name, fid in (("GMM", 3.0), ("GAN", 20.0), ("VAE", 50.0)):
        (row,) = (values for key, values in measurements.items() if key[0] == name)
        row |= {"fid[net]": measured(fid, **FID), "fid_floor[net]": measured(2.0, **FID)}
    return [
        record(name, seed, run={"model": model}, measurements=values)
        for (name, model), values in measurements.items()
        for seed in range(3)
    ]


def suite_with_papers(**rows) -> Suite:
    """Return a suite with published `rows`: name -> fields besides the source."""
    published = {name: {"source": f"{name} (2017), table 1"} | fields for name, fields in rows.items()}
    return checked(
        Suite,
        {
            "suite": "flows",
            "data": ["moons", "rings"],
            "metrics": ["likelihood"],
            "models": {"NICE": "flows.nice"},
            "published": published,
        },
    )


HOSTILE = '$\\frac{$</script><script>alert("1|2")</script><img src=x onerror=alert(1)>`*_[a](b)'


class PageParser(HTMLParser):
    """The tags of a page, and the text of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.scripts += [""] if tag == "script" else []

    def handle_data(self, text):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += text


def write_page(records: list[Record], folder: Path) -> PageParser:
    """Write the report of `records` into `folder`/out and return its page."""
    write(records, folder, folder / "out")
    return PageParser((folder / "out" / "leaderboard.html").read_text(encoding="utf-8"))
