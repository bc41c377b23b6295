"""Training speed of two libraries at equal architecture, interleaved: same data, optimizer and process.

Every round times both libraries one after the other, so that other load on the machine affects both, and the ratio is
computed within the round. Rounds are short and many. Both models are rebuilt several times, because the memory layout
of their weights changes the ratio by a few percent; the median over rebuilds is the most reproducible.
Each library computes its own loss in its own way; the rest of the step is the same. Measured on one thread, the default
of genbench (one run per core), and on two.
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

THREADS, REINITS, ROUNDS, STEPS, WARM_UP = (1, 2), 5, 21, 4, 20


class TrainingTask(NamedTuple):
    """Parameters and the loss that trains them, x (B, *shape) -> ()."""

    parameters: list[nn.Parameter]
    loss: Callable[[Tensor], Tensor]


class Pair(NamedTuple):
    """Two functions that build the same architecture, in genbench and in another library."""

    library: str
    ours: Callable[[], TrainingTask]
    theirs: Callable[[], TrainingTask]


def training_task(model: nn.Module, loss: Callable[[Tensor], Tensor]) -> TrainingTask:
    """Return the task of training all parameters of `model` with `loss`."""
    return TrainingTask(list(model.parameters()), loss)


def make_step(task: TrainingTask) -> Callable[[Tensor], None]:
    """Return a function that takes one training step on a batch x (B, *shape)."""
    optimizer = torch.optim.Adam(task.parameters, lr=1e-4, fused=True)

    def step(x: Tensor) -> None:
        task.loss(x).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def samples_per_second(step: Callable[[Tensor], None], x: Tensor, steps: int = STEPS) -> float:
    """Return training samples per second over `steps` steps."""
    start = time.perf_counter()
    for _ in range(steps):
        step(x)
    return steps * len(x) / (time.perf_counter() - start)


def measure(pair: Pair, x: Tensor, threads: int, rounds: int = ROUNDS) -> dict[str, Any]:
    """Return parameter counts, samples/s of every round, and quartiles of the ratio ours / theirs within rounds."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    raw = []
    for _ in range(REINITS):
        both = {"ours": pair.ours(), "theirs": pair.theirs()}
        steps = {name: make_step(task) for name, task in both.items()}
        for step in steps.values():
            samples_per_second(step, x, WARM_UP)
        raw += [{name: samples_per_second(step, x) for name, step in steps.items()} for _ in range(rounds)]
    return {
        "library": pair.library,
        "threads": threads,
        "parameters": {name: sum(p.numel() for p in task.parameters) for name, task in both.items()},
        "samples_per_second": {name: [round(r[name], 1) for r in raw] for name in steps},
        "ratio": [round(q, 4) for q in statistics.quantiles([r["ours"] / r["theirs"] for r in raw], n=4)],
    }


def format_row(name: str, results: dict[str, Any]) -> str:
    """Return one row of the printed table."""
    (mine, theirs), (a, b) = (results[key].values() for key in ("parameters", "samples_per_second"))
    q1, median, q3 = results["ratio"]
    return (
        f"{name:20} {results['library']:10} {results['threads']:7} {mine:10,} {theirs:9,}"
        f" {statistics.median(a):8.0f} {statistics.median(b):8.0f}  {median:5.2f}  [{q1:.2f}, {q3:.2f}]"
    )


def compare(
    pairs: Mapping[str, Pair], x: Tensor, libraries: Iterable[str], settings: Mapping[str, Any], file: str | None = None
) -> None:
    """Print a table of all `pairs` on x (B, *shape); write a record with every round to `file`, if given."""
    versions = {name: installed(name) for name in libraries}
    print(f"torch {torch.__version__}, {versions}, {REINITS} x {ROUNDS} rounds of {STEPS} steps, batch {len(x)}")
    print("                                            parameters             samples/s")
    print("                                threads       ours    theirs     ours   theirs  ratio  quartiles")
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in pairs}
    for threads in THREADS:
        for name, pair in pairs.items():
            results[name].append(measure(pair, x, threads))
            print(format_row(name, results[name][-1]), flush=True)
    if file:
        rounds = {"made": REINITS, "rounds": ROUNDS, "steps": STEPS}
        protocol = {"batch": len(x), **rounds, "optimizer": "adam, fused", "dtype": "float32"}
        record = {
            "what": "training samples/s at equal architecture, by turns; ratio: quartiles of ours / theirs in a round",
            "settings": {**protocol, **settings},
            "environment": environment(torch.device("cpu")) | versions,
            "code": code_version(),
            "pairs": results,
        }
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        print(f"wrote {file}")
