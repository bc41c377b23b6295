"""Training speed of two libraries at equal architecture, by turns: same data, optimizer and process.

Every round times the two in turn, so that what else the machine does falls on both alike; the ratio of a round is taken
within it. Rounds are short and many, and both are made anew a few times, for where their weights come to lie in memory
decides some hundredths of the ratio: the median then moves least from one measurement to the next.
What is timed is each library's own way to its loss, and the same step around it: on one thread, as genbench trains by
default, a run a core; and on two.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genbench.records.environment import environment, installed
from genbench.records.provenance import code_version

THREADS, MAKINGS, ROUNDS, STEPS, WARM_UP = (1, 2), 5, 21, 4, 20


class Trained(NamedTuple):
    """What is trained, and its loss: x (B, *shape) -> ()."""

    parameters: list[nn.Parameter]
    loss: Callable[[Tensor], Tensor]


class Pair(NamedTuple):
    """Two makers of the same architecture."""

    library: str
    ours: Callable[[], Trained]
    theirs: Callable[[], Trained]


def trained(model: nn.Module, loss: Callable[[Tensor], Tensor]) -> Trained:
    """Return all parameters of `model`, and `loss`."""
    return Trained(list(model.parameters()), loss)


def step_of(made: Trained) -> Callable[[Tensor], None]:
    """Return one step of training, the same for all."""
    optimizer = torch.optim.Adam(made.parameters, lr=1e-4, fused=True)

    def step(x: Tensor) -> None:
        made.loss(x).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def rate(step: Callable[[Tensor], None], x: Tensor, steps: int = STEPS) -> float:
    """Return training samples a second over `steps` steps."""
    start = time.perf_counter()
    for _ in range(steps):
        step(x)
    return steps * len(x) / (time.perf_counter() - start)


def measured(pair: Pair, x: Tensor, threads: int, rounds: int = ROUNDS) -> dict[str, Any]:
    """Return parameters, samples/s in every round, and quartiles of the ratio ours / theirs within a round."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    raw = []
    for _ in range(MAKINGS):
        both = {"ours": pair.ours(), "theirs": pair.theirs()}
        steps = {name: step_of(made) for name, made in both.items()}
        for step in steps.values():
            rate(step, x, WARM_UP)
        raw += [{name: rate(step, x) for name, step in steps.items()} for _ in range(rounds)]
    return {
        "library": pair.library,
        "threads": threads,
        "parameters": {name: sum(p.numel() for p in made.parameters) for name, made in both.items()},
        "samples_per_second": {name: [round(r[name], 1) for r in raw] for name in steps},
        "ratio": [round(q, 4) for q in statistics.quantiles([r["ours"] / r["theirs"] for r in raw], n=4)],
    }


def line(name: str, found: dict[str, Any]) -> str:
    """Return one row of the table."""
    (mine, theirs), (a, b) = (found[key].values() for key in ("parameters", "samples_per_second"))
    q1, median, q3 = found["ratio"]
    return (
        f"{name:20} {found['library']:10} {found['threads']:7} {mine:10,} {theirs:9,}"
        f" {statistics.median(a):8.0f} {statistics.median(b):8.0f}  {median:5.2f}  [{q1:.2f}, {q3:.2f}]"
    )


def compare(
    pairs: Mapping[str, Pair], x: Tensor, libraries: Iterable[str], settings: Mapping[str, Any], file: str | None = None
) -> None:
    """Print the table of all `pairs` on x (B, *shape), and write the record with every round to `file`."""
    versions = {name: installed(name) for name in libraries}
    print(f"torch {torch.__version__}, {versions}, {MAKINGS} times {ROUNDS} rounds of {STEPS} steps, batch {len(x)}")
    print("                                            parameters             samples/s")
    print("                                threads       ours    theirs     ours   theirs  ratio  middle half")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in pairs}
    for threads in THREADS:
        for name, pair in pairs.items():
            found[name].append(measured(pair, x, threads))
            print(line(name, found[name][-1]), flush=True)
    if file:
        rounds = {"made": MAKINGS, "rounds": ROUNDS, "steps": STEPS}
        protocol = {"batch": len(x), **rounds, "optimizer": "adam, fused", "dtype": "float32"}
        record = {
            "what": "training samples/s at equal architecture, by turns; ratio: quartiles of ours / theirs in a round",
            "settings": {**protocol, **settings},
            "environment": environment(torch.device("cpu")) | versions,
            "code": code_version(),
            "pairs": found,
        }
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        print(f"wrote {file}")
