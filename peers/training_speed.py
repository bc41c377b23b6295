"""How fast flows train here, in zuko and in normflows: same architecture, data, optimizer and process, by turns.

Vectors of D = 64 in batches of 128, networks 256-256, float32, two threads, fused Adam. Each pair has the same layers
and networks (the numbers of parameters are printed; they differ by a gain or a last scaling at most), each library's
own way to its loss, and the same step around it. Every round times the two in turn, so that what else the machine does
falls on both alike; the ratio of a round is taken within it.

Run:  make peers   (or python -m peers.training_speed [FILE], with `pip install 'genbench[peers]'`)
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import normflows as nf
import torch
import zuko
from torch import Tensor, nn

from genbench.dataset import Space
from genbench.environment import environment, installed
from genbench.models.flows.flow import Flow
from genbench.models.flows.glow import Glow
from genbench.models.flows.maf import MAF
from genbench.models.flows.nice import NICE
from genbench.models.flows.nsf import NSF, AutoregressiveNSF
from genbench.models.flows.realnvp import RealNVP
from genbench.provenance import code_version
from peers.normflows_flows import SplineCoupling, perceptron

D, BATCH, HIDDEN, THREADS = 64, 128, (256, 256), 2
BINS, BOUND = 8, 5.0
ROUNDS, STEPS = 21, 20
SPACE = Space((D,))

Loss = Callable[[Tensor], Tensor]  # x (B, D) -> ()


# ------------------------------------------------------------------------------------------------------- ours


def ours(model: Flow) -> tuple[nn.Module, Loss]:
    """Return a model of genbench's and its loss."""
    return model, model.loss


# ----------------------------------------------------------------------------------------------------- theirs


def of_zuko(flow: zuko.lazy.Flow) -> tuple[nn.Module, Loss]:
    """Return a flow of zuko's and the loss that its documentation takes."""
    return flow, lambda x: -flow().log_prob(x).mean()


def of_normflows(layers: list[nf.flows.Flow]) -> tuple[nn.Module, Loss]:
    """Return layers of normflows' as a flow, and the loss that its documentation takes."""
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(D, trainable=False), layers)
    return model, model.forward_kld


def affine_layers() -> list[nf.flows.Flow]:
    """Return normflows' RealNVP: couplings of the two halves in turn, one network for s and t, ActNorm."""
    parts = [
        (nf.flows.AffineCouplingBlock(perceptron(D, HIDDEN)), nf.flows.Permute(D, mode="swap"), nf.flows.ActNorm(D))
        for _ in range(8)
    ]
    return [layer for part in parts for layer in part]


def glow_layers() -> list[nf.flows.Flow]:
    """Return normflows' Glow on vectors: coupling, LU-factored matrix, ActNorm."""
    parts = [
        (
            nf.flows.AffineCouplingBlock(perceptron(D, HIDDEN), scale_map="sigmoid"),
            nf.flows.InvertibleAffine(D),
            nf.flows.ActNorm(D),
        )
        for _ in range(8)
    ]
    return [layer for part in parts for layer in part]


def spline_layers() -> list[nf.flows.Flow]:
    """Return normflows' spline couplings, the even and the odd dimensions in turn."""
    return [SplineCoupling(D, HIDDEN, BINS, BOUND, turn=i) for i in range(4)]


# ------------------------------------------------------------------------------------------------ measurement


class Pair(NamedTuple):
    """Two makers of the same architecture."""

    library: str
    ours: Callable[[], tuple[nn.Module, Loss]]
    theirs: Callable[[], tuple[nn.Module, Loss]]


def zuko_nice(**map: Any) -> tuple[nn.Module, Loss]:
    """Return zuko's eight couplings."""
    return of_zuko(zuko.flows.NICE(D, transforms=8, hidden_features=HIDDEN, **map))


ADDITIVE = {"univariate": zuko.transforms.AdditiveTransform, "shapes": [()]}
PAIRS = {
    "NICE, additive": Pair(
        "zuko",
        lambda: ours(NICE(SPACE, couplings=8, hidden=HIDDEN, base="normal")),
        partial(zuko_nice, **ADDITIVE),
    ),
    "NICE, affine": Pair(
        "zuko",
        lambda: ours(RealNVP(SPACE, couplings=8, hidden=HIDDEN, norm="none")),
        zuko_nice,  # its default
    ),
    "MAF": Pair(
        "zuko",
        lambda: ours(MAF(SPACE, layers=5, hidden=HIDDEN, norm="none")),
        lambda: of_zuko(zuko.flows.MAF(D, transforms=5, hidden_features=HIDDEN)),
    ),
    "NSF, autoregressive": Pair(
        "zuko",
        lambda: ours(AutoregressiveNSF(SPACE, layers=4, hidden=HIDDEN, bins=BINS, bound=BOUND, norm="none")),
        lambda: of_zuko(zuko.flows.NSF(D, transforms=4, hidden_features=HIDDEN, bins=BINS)),
    ),
    "RealNVP": Pair(
        "normflows",
        lambda: ours(RealNVP(SPACE, couplings=8, hidden=HIDDEN)),
        lambda: of_normflows(affine_layers()),
    ),
    "Glow": Pair(
        "normflows",
        lambda: ours(Glow(SPACE, depth=8, hidden=HIDDEN)),
        lambda: of_normflows(glow_layers()),
    ),
    "NSF, couplings": Pair(
        "normflows",
        lambda: ours(NSF(SPACE, couplings=4, hidden=HIDDEN, bins=BINS, bound=BOUND, linear="none", norm="none")),
        lambda: of_normflows(spline_layers()),
    ),
}


def step_of(model: nn.Module, loss: Loss) -> Callable[[Tensor], None]:
    """Return one step of training, the same for all."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def step(x: Tensor) -> None:
        loss(x).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def rate(step: Callable[[Tensor], None], x: Tensor) -> float:
    """Return training samples a second over STEPS steps."""
    start = time.perf_counter()
    for _ in range(STEPS):
        step(x)
    return STEPS * BATCH / (time.perf_counter() - start)


def measured(pair: Pair, rounds: int = ROUNDS) -> dict[str, Any]:
    """Return parameters, samples/s in every round, and quartiles of the ratio ours / theirs within a round."""
    torch.manual_seed(0)
    x = torch.randn(BATCH, D)
    both = {"ours": pair.ours(), "theirs": pair.theirs()}
    steps = {name: step_of(*made) for name, made in both.items()}
    for step in steps.values():
        rate(step, x)  # warm-up
    raw = [{name: rate(step, x) for name, step in steps.items()} for _ in range(rounds)]
    return {
        "library": pair.library,
        "parameters": {name: sum(p.numel() for p in model.parameters()) for name, (model, _) in both.items()},
        "samples_per_second": {name: [round(r[name], 1) for r in raw] for name in steps},
        "ratio": [round(q, 4) for q in statistics.quantiles([r["ours"] / r["theirs"] for r in raw], n=4)],
    }


def line(name: str, found: dict[str, Any]) -> str:
    """Return one row of the table."""
    (mine, theirs), (a, b) = (found[key].values() for key in ("parameters", "samples_per_second"))
    q1, median, q3 = found["ratio"]
    return (
        f"{name:20} {found['library']:10} {mine:9,} {theirs:9,} {statistics.median(a):8.0f} {statistics.median(b):8.0f}"
        f"  {median:5.2f}  [{q1:.2f}, {q3:.2f}]"
    )


def main(file: str | None = None) -> None:
    """Print the table, and write the record with every round to `file`."""
    torch.set_num_threads(THREADS)
    libraries = {name: installed(name) for name in ("zuko", "normflows")}
    print(f"torch {torch.__version__}, {libraries}, {THREADS} threads, {ROUNDS} rounds of {STEPS} steps, batch {BATCH}")
    print("                                parameters             samples/s")
    print("                                     ours    theirs     ours   theirs  ratio  middle half of rounds")
    pairs = {}
    for name, pair in PAIRS.items():
        pairs[name] = measured(pair)
        print(line(name, pairs[name]), flush=True)
    if file:
        settings = {"D": D, "batch": BATCH, "hidden": HIDDEN, "bins": BINS, "bound": BOUND, "rounds": ROUNDS}
        record = {
            "what": "training samples/s at equal architecture, by turns; ratio: quartiles of ours / theirs in a round",
            "settings": settings | {"steps": STEPS, "optimizer": "adam, fused", "dtype": "float32"},
            "environment": environment(torch.device("cpu")) | libraries,
            "code": code_version(),
            "pairs": pairs,
        }
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        print(f"wrote {file}")


if __name__ == "__main__":
    main(*sys.argv[1:])
