"""Numbers have the digits that their spread supports."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genbench.report.formatting import format_number


@pytest.mark.parametrize(
    ("value", "unit", "spread", "text"),
    [
        (2.16342, "bits/dim", 0.0123, "2.163"),
        (2.16342, "bits/dim", None, "2.163"),
        (0.00012, "nats", None, "0.0001"),
        (101.94, "nats", 2.3, "101.9"),
        (1577984, "parameters", None, "1.58M"),
        (48_000_000, "bytes", None, "45.8 MiB"),
        (29_941.0, "samples/s", None, "29.9k"),
        (0.0, "nats", None, "0"),
        (-0.0031, "nats", 0.0042, "-0.0031"),
        (999_999.0, "samples/s", None, "1000k"),
        (0.0, "bytes", None, "0.00 B"),
        (1.5e-6, "", 2e-7, "1.5e-06"),
        (1e30, "nats", None, "1.0e+18T"),
    ],
)
def test_numbers_have_the_digits_their_spread_supports(value, unit, spread, text):
    assert format_number(value, unit, spread) == text


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "bytes", "nats"]),
    st.none() | st.floats(0, 1e6),
)
def test_any_number_is_short_and_zero_only_if_it_is_zero(value, unit, spread):
    text = format_number(value, unit, spread)
    assert len(text) <= 16
    assert (float(re.sub(r"[^-+.e0-9]", "", text)) == 0) == (value == 0)
