"""Validation of what a metric returns, before it becomes part of the record.

An error is one line that names the measurement; the worker adds the name of the metric.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from genbench.errors import UsageError
from genbench.records.record import Measurement
from genbench.validation.datasets import describe


class InvalidMeasurement(UsageError):
    """A measurement or a file of a metric does not follow the contract of `Metric`."""


def check_measurements(result: object) -> dict[str, Measurement]:
    """Return `result`, measurements by name, as returned by a metric."""
    if not isinstance(result, Mapping):
        raise InvalidMeasurement(f"returned {describe(result)}; expected a dict of Measurements by name")
    for name, measurement in result.items():
        if not isinstance(name, str) or not name.strip():
            raise InvalidMeasurement(f"returned a measurement called {name!r}; expected a non-empty string")
        if not isinstance(measurement, Measurement):
            raise InvalidMeasurement(f"returned {describe(measurement)} for {name!r}; expected a Measurement")
        if measurement.value is not None and not math.isfinite(measurement.value):
            raise InvalidMeasurement(f"returned {measurement.value} for {name!r}; expected a finite number, or None")
    return dict(result)


def check_files(files: Mapping[Any, Any]) -> None:
    """Raise unless the files of a metric are bytes by name."""
    for name, content in files.items():
        if not isinstance(name, str) or not name.strip() or "/" in name:
            raise InvalidMeasurement(f"drew a file called {name!r}; expected a name without a folder: 'samples.png'")
        if not isinstance(content, bytes):
            raise InvalidMeasurement(f"drew {describe(content)} for {name!r}; expected bytes")


def check_names_unused(names: Mapping[str, object], owners: Mapping[str, str]) -> None:
    """Raise if an earlier metric has taken one of the names; `owners`: metrics by the names that they have taken."""
    if clash := next((name for name in names if name in owners), None):
        raise InvalidMeasurement(f"{clash!r} is already taken by {owners[clash]}; choose another name")
