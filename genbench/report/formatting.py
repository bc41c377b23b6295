"""Numbers as people read them: as many digits as the interval supports, large ones with a prefix."""

from __future__ import annotations

import math

BYTES = ((2**40, " TiB"), (2**30, " GiB"), (2**20, " MiB"), (2**10, " KiB"), (1, " B"))
SI_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def decimals(value: float, spread: float | None) -> int:
    """Return how many decimals to show: two significant digits of `spread`, or four of `value` if there is none."""
    if spread and math.isfinite(spread):
        return min(4, max(0, 1 - math.floor(math.log10(abs(spread)))))
    return min(4, max(0, 3 - math.floor(math.log10(abs(value))))) if value else 0


def unit_prefix(value: float, unit: str) -> tuple[float, str]:
    """Return the divisor and the suffix for `value`: binary prefixes for bytes, SI prefixes from 10,000 for others."""
    if unit == "bytes":
        return next(((float(size), suffix) for size, suffix in BYTES if abs(value) >= size), (1.0, " B"))
    if abs(value) < 1e4:
        return 1.0, ""
    return next((size, suffix) for size, suffix in SI_PREFIXES if abs(value) >= size)


def format_fixed(value: float, places: int) -> str:
    """Return `value` with `places` decimals; in scientific notation if that would show 0 for a nonzero value."""
    text = f"{value:.{places}f}"
    return f"{value:.1e}" if (value and not float(text)) or abs(value) >= 1e6 else text


def format_number(value: float, unit: str = "", spread: float | None = None) -> str:
    """Return `value` with the digits that `spread` supports and the prefix that suits its unit."""
    if not math.isfinite(value):  # the difference of two of the largest floats
        return str(value)
    divisor, suffix = unit_prefix(value, unit)
    value, spread = value / divisor, (spread or 0) / divisor
    if suffix:
        places = decimals(value, spread) if spread else max(0, 2 - int(math.log10(abs(value) or 1)))
        return f"{format_fixed(value, min(places, 2))}{suffix}"
    return format_fixed(value, decimals(value, spread)) if value % 1 or spread else format_fixed(value, 0)


def format_mean_and_interval(
    mean: float | None, half_width: float | None, p20: float | None, p80: float | None, unit: str
) -> tuple[str, str]:
    """Return a mean and its interval: ``± half-width`` over seeds, or ``(p20–p80)`` over the repetitions of a timing.

    Either is "" if it is undefined.
    """
    if mean is None:
        return "", ""
    if half_width is not None:
        return format_number(mean, unit, half_width), _format_half_width(mean, half_width, unit)
    if p20 is not None and p80 is not None:
        low, middle, high = (format_number(value, unit, p80 - p20) for value in (p20, mean, p80))
        return middle, f"({low}–{high})"
    return format_number(mean, unit), ""


def _format_half_width(mean: float, half_width: float, unit: str) -> str:
    divisor, _ = unit_prefix(mean, unit)
    if half_width == 0:
        return "± 0" if mean % 1 else ""  # an integer on which all seeds agree needs no interval
    places = min(decimals(mean / divisor, half_width / divisor), 2 if divisor > 1 else 4)
    return f"± {format_fixed(half_width / divisor, places)}"
