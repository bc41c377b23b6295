"""The results of the speed tests as a page: goals and whether they are met, tables, and a roofline plot.

`python -m bench.report FILE.json` writes FILE.md and FILE.png next to it. Goals without results are "not measured".
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Entry = dict[str, Any]  # extra_info of one benchmark
Entries = dict[tuple[str, str, str, str], Entry]  # by case, contender, direction, cache
Results = dict[str, Any]
LARGE = ("coupling-64MB", "coupling-256MB")
COMPILERS = ("compile", "max-autotune")


@dataclass(frozen=True)
class Goal:
    """The fastest rival's median / ours, with a cold cache, is at least `factor` in each of `cases`."""

    name: str
    cases: tuple[str, ...]
    direction: str
    rivals: tuple[str, ...]
    factor: float
    clock: Literal["device", "wall"] = "device"


GOALS = (
    Goal("coupling forward, of copy bandwidth", (*LARGE, "coupling-64MB-glow"), "forward", ("copy",), 0.85),
    Goal("coupling backward, against Inductor", LARGE, "backward", COMPILERS, 1.4),
    Goal("coupling backward, against eager", LARGE, "backward", ("eager",), 3.5),
    Goal("spectral norm, wall, against torch", ("spectral-dcgan64",), "both", ("torch parametrization",), 5, "wall"),
    Goal("spectral norm, wall, against foreach", ("spectral-dcgan64",), "both", ("foreach",), 3, "wall"),
    Goal("reparameterize, against eager", ("reparameterize-16M",), "both", ("eager",), 5),
    Goal("reparameterize, against Inductor", ("reparameterize-16M",), "both", COMPILERS, 1.2),
)
MAX_LAUNCHES = 4


@dataclass(frozen=True)
class Outcome:
    """A goal, what was measured, and whether it is met (None if a case or rival was not measured)."""

    name: str
    target: str
    measured: str
    met: bool | None


def read(path: Path) -> tuple[Results, Entries]:
    """Return the JSON of pytest-benchmark and its entries by case, contender, direction and cache."""
    results = json.loads(path.read_text())
    entries = (bench["extra_info"] for bench in results["benchmarks"])
    return results, {(e["case"], e["contender"], e["direction"], e["cache"]): e for e in entries}


def judge(results: Results, entries: Entries) -> list[Outcome]:
    """Return the outcome of every goal; times on a CPU do not count."""
    if "gpu" not in results["machine_info"]:
        results, entries = {}, {}
    return [*(_ratio(goal, entries) for goal in GOALS), _few_launches(results)]


def _ratio(goal: Goal, entries: Entries) -> Outcome:
    factors = [_factor(goal, case, entries) for case in goal.cases]
    known = [factor for factor in factors if factor is not None]
    target = f">= {goal.factor:g}"
    if len(known) < len(factors):
        return Outcome(goal.name, target, "not measured", None)
    shown = ", ".join(f"{factor:.2f} ({case})" for factor, case in zip(known, goal.cases, strict=True))
    return Outcome(goal.name, target, shown, min(known) >= goal.factor)


def _factor(goal: Goal, case: str, entries: Entries) -> float | None:
    contenders = [entries.get((case, name, goal.direction, "cold")) for name in ("ours", *goal.rivals)]
    medians = [entry[goal.clock]["median"] for entry in contenders if entry is not None]
    return min(medians[1:]) / medians[0] if len(medians) == len(contenders) else None


def _few_launches(results: Results) -> Outcome:
    counted = results.get("launches", {}).get("spectral-dcgan64/ours", {}).get("forward")
    met = None if counted is None else counted <= MAX_LAUNCHES
    shown = "not measured" if counted is None else str(counted)
    return Outcome("spectral norm of a DCGAN-64 discriminator, launches forward", f"<= {MAX_LAUNCHES}", shown, met)


# ------------------------------------------------------------------------------------------------- the page


def page(results: Results, entries: Entries, notes: Iterable[str] = ()) -> str:
    """Return the Markdown page."""
    machine = results["machine_info"]
    verdicts = {True: "yes", False: "**no**", None: ""}
    goals = [(g.name, g.target, g.measured, verdicts[g.met]) for g in judge(results, entries)]
    parts = [
        f"# Speed of genbench_kernels on {hardware(results)}",
        f"{versions(results)}, Python {machine['python_version']}, {results['datetime'][:10]}.",
        *notes,
        _table(("goal", "target", "measured, cold L2", "met"), goals),
        "Medians of the rounds in microseconds, with the 20th and 80th percentile. Device: between CUDA events, with "
        "launches queued beforehand; wall: from the call on an idle device to its end; host: how long the call keeps "
        "Python busy. Cold: L2 flushed; warm: the same call has just run. Copy: a device copy that moves the minimum "
        "bytes of the case. Peak: memory that forward and backward allocate. Launches: forward / backward.",
        *(_case(name, results, entries) for name in dict.fromkeys(key[0] for key in entries)),
    ]
    return "\n\n".join(parts) + "\n"


def _case(case: str, results: Results, entries: Entries) -> str:
    columns: dict[str, Callable[[str], str]] = {
        f"{direction}, {cache}": lambda name, d=direction, c=cache: _spread(entries.get((case, name, d, c)), "device")  # type: ignore[misc]
        for cache in ("cold", "warm")
        for direction in ("forward", "backward", "both")
    }
    for clock in ("wall", "host"):
        columns[f"{clock}, both"] = lambda name, k=clock: _spread(entries.get((case, name, "both", "cold")), k)  # type: ignore[misc]
    columns["peak, MB"] = lambda name: _megabytes(entries.get((case, name, "both", "cold")))
    columns["launches"] = lambda name: _launches(results, f"{case}/{name}")
    names = dict.fromkeys(key[1] for key in entries if key[0] == case)
    rows = [(name, *(cell(name) for cell in columns.values())) for name in names]
    min_bytes = [entries.get((case, "copy", d, "cold"), {}).get("least") for d in ("forward", "backward")]
    moved = " and ".join("?" if n is None else f"{n / 1e6:.1f} MB" for n in min_bytes)
    return f"## {case}\n\nMinimum bytes forward and backward: {moved}.\n\n" + _table(("", *columns), rows)


def _spread(entry: Entry | None, clock: str) -> str:
    if entry is None:
        return ""
    late = "!" if clock == "device" and entry["late"] else ""  # device time includes host time
    median, low, high = (entry[clock][key] * 1e6 for key in ("median", "p20", "p80"))
    return f"{median:.1f}{late} ({low:.1f}-{high:.1f})"


def _megabytes(entry: Entry | None) -> str:
    return "" if entry is None or entry["memory"] is None else f"{entry['memory'] / 1e6:.1f}"


def _launches(results: Results, key: str) -> str:
    counts = results.get("launches", {}).get(key, {})
    known = [counts.get(direction) for direction in ("forward", "backward")]
    return "" if None in known else " / ".join(map(str, known))


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def hardware(results: Results) -> str:
    """Return the name of the GPU, or of the CPU if there was none."""
    machine = results["machine_info"]
    return str(machine["gpu"]["name"] if "gpu" in machine else machine.get("cpu", {}).get("brand_raw", "a CPU"))


def versions(results: Results) -> str:
    """Return the versions of the software that the times depend on."""
    machine = results["machine_info"]
    known = {**machine["versions"], "driver": machine.get("gpu", {}).get("driver")}
    return ", ".join(f"{name} {version}" for name, version in known.items() if version)


# ------------------------------------------------------------------------------------------------- the plot

SHOWN = ("copy", "eager", "compile", "max-autotune", "foreach", "torch parametrization", "ours")


def roofline(results: Results, entries: Entries, path: Path) -> bool:
    """Plot the bandwidth reached against the minimum bytes of each call, with a copy's; False without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for name in SHOWN:
        points = sorted((e["least"], e["least"] / e["device"]["median"]) for e in _cold(entries, name))
        if points:
            style = "k-" if name == "copy" else "o"
            axes.plot([x for x, _ in points], [y / 1e9 for _, y in points], style, label=name, alpha=0.8)
    axes.set(xscale="log", yscale="log", xlabel="minimum bytes of a call", ylabel="minimum bytes / device time (GB/s)")
    axes.set_title(f"{hardware(results)}\n{versions(results)}; cold L2; the line is a copy", fontsize=9)
    axes.grid(which="both", alpha=0.2)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    return True


def _cold(entries: Entries, name: str) -> list[Entry]:
    return [e for (_, contender, _, cache), e in entries.items() if contender == name and cache == "cold"]


def write(path: Path, notes: Iterable[str] = ()) -> list[Outcome]:
    """Write page and plot next to the JSON, which is made compact, and return the outcomes of the goals."""
    results, entries = read(path)
    for bench in results["benchmarks"]:
        bench["stats"]["data"] = [round(seconds, 9) for seconds in bench["stats"].get("data", [])]
    path.write_text(json.dumps(results, separators=(",", ":")) + "\n")
    drawn = roofline(results, entries, path.with_suffix(".png"))
    plot = f"![Bandwidth reached]({path.stem}.png)" if drawn else "No plot: matplotlib is not installed."
    path.with_suffix(".md").write_text(page(results, entries, (*notes, plot)))
    return judge(results, entries)


if __name__ == "__main__":
    for outcome in write(Path(sys.argv[1])):
        print(f"{outcome.name}: {outcome.measured} (goal: {outcome.target})")
