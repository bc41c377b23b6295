"""What a metric returns is checked here, once, and is in the record as it is.

What is wrong is an error of one line that names the measurement; the run's record puts the metric before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from genbench.errors import UsageError
from genbench.records.record import Measurement
from genbench.validation.datasets import describe


class InvalidMeasurement(UsageError):
    """What a metric returned, or drew, is not what `Metric` promises."""


def check_measurements(result: object) -> dict[str, Measurement]:
    """Return `result`, what a metric returned: measurements by name."""
    if not isinstance(result, Mapping):
        raise InvalidMeasurement(f"returned {describe(result)}; expected a dict of Measurements by name")
    for name, measurement in result.items():
        if not isinstance(name, str) or not name.strip():
            raise InvalidMeasurement(f"returned a measurement called {name!r}; expected a name of letters")
        if not isinstance(measurement, Measurement):
            raise InvalidMeasurement(f"returned {describe(measurement)} for {name!r}; expected a Measurement")
        if measurement.value is not None and not math.isfinite(measurement.value):
            raise InvalidMeasurement(f"returned {measurement.value} for {name!r}; expected a finite number, or None")
    return dict(result)


def check_files(files: Mapping[Any, Any]) -> None:
    """Look at the files that a metric drew: bytes by name."""
    for name, content in files.items():
        if not isinstance(name, str) or not name.strip() or "/" in name:
            raise InvalidMeasurement(f"drew a file called {name!r}; expected a name without a folder, as 'samples.png'")
        if not isinstance(content, bytes):
            raise InvalidMeasurement(f"drew {describe(content)} for {name!r}; expected bytes")


def check_names_unused(names: Mapping[str, object], owners: Mapping[str, str]) -> None:
    """Refuse names that an earlier metric has used; `owners`: that metric, by name."""
    if clash := next((name for name in names if name in owners), None):
        raise InvalidMeasurement(f"{clash!r} is measured by {owners[clash]} already; choose another name")
