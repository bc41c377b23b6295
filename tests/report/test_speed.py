"""Reporting ten thousand records takes seconds."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from genbench.records.record import Point, Record
from tests.report.records import measured, record


def many_records() -> Iterator[Record]:
    """Yield 10,000 records like those of suites: 8,000 runs, and separate executions for speed on the first seeds."""
    rng, speed = np.random.default_rng(0), {"unit": "samples/s", "better": "higher", "impl": "throughput 1"}
    curve = tuple(Point(step=s, seconds=s, loss=1.0, validation=1.0 / s) for s in range(1, 21))
    for suite, data, row, seed in np.ndindex(5, 8, 50, 4):
        where = {"data": f"d{data}", "suite": f"s{suite}"}
        noise = rng.normal(0, 0.05, 8)
        measurements = {f"m{i}": measured(row / 10 + i + noise[i]) for i in range(5)}
        status = "diverged" if row == 49 and seed == 1 else "ok"
        yield record(
            f"R{row}", seed, measurements=measurements if status == "ok" else {}, curve=curve, status=status, **where
        )
        if seed == 0:
            measurements = {f"s{i}": measured(100.0 + noise[i], raw=tuple(100 + noise), **speed) for i in range(3)}
            yield record(f"R{row}", seed, at=1, measurements=measurements, **where)


def time_relative_to_json(store: Path) -> float:
    """Return the CPU time of `genbench report`, in units of the CPU time that json takes to read `store`."""
    texts = [path.read_text() for path in store.glob("*/*/*.json")]
    before, reading = resource.getrusage(resource.RUSAGE_CHILDREN), seconds_of_json(texts)
    command = [sys.executable, "-m", "genbench", "report", "--results", str(store)]
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return 2 * took / (reading + seconds_of_json(texts))


def seconds_of_json(texts: list[str]) -> float:
    """Return the CPU seconds that json takes to read `texts`, the mean of three times."""
    began = time.process_time()
    for text in 3 * texts:
        json.loads(text)
    return (time.process_time() - began) / 3


@pytest.mark.slow
@pytest.mark.alone
def test_ten_thousand_records_are_reported_in_ten_seconds(tmp_path):
    store = tmp_path / "results"
    for r in many_records():
        folder = store / r.run.suite / r.id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{r.execution}.json").write_text(r.model_dump_json())
    eight_seconds = 17  # in units of json: relative, because the speed of a core varies; json takes 0.47 s
    assert any(time_relative_to_json(store) < eight_seconds for _ in range(3))
    assert len(pd.read_csv(store / "leaderboard.csv")) == 5 * (8000 - 40) + 40 + 3 * 2000
    assert (store / "leaderboard.html").stat().st_size < 20e6
