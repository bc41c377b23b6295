"""Training speed of flows in genbench, zuko and normflows: same architecture, data, optimizer and process.

Vectors of D = 64 in batches of 128, networks 256-256, float32, fused Adam. Each pair has the same layers and networks.
The table prints the numbers of parameters; they differ by a gain or a final scaling, and in Glow by the zeros of L and
U, which are parameters in normflows.

Run:  make peers   (or python -m peers.flows_speed [FILE], with `pip install 'genbench[peers]'`)
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import normflows as nf
import torch
import zuko

from genbench.dataset import Space
from genbench.models.flows.flow import Flow
from genbench.models.flows.glow import Glow
from genbench.models.flows.maf import MAF
from genbench.models.flows.nice import NICE
from genbench.models.flows.nsf import NSF, AutoregressiveNSF
from genbench.models.flows.realnvp import RealNVP
from peers.normflows_flows import SplineCoupling, coupling_network
from peers.rounds import Pair, TrainingTask, compare, training_task

D, BATCH, HIDDEN = 64, 128, (256, 256)
BINS, BOUND = 8, 5.0
SPACE = Space((D,))


# ---------------------------------------------------------------------------------------------------- genbench


def genbench_task(model: Flow) -> TrainingTask:
    """Return the training task of a genbench model."""
    return training_task(model, model.loss)


# --------------------------------------------------------------------------------------------- other libraries


def zuko_task(flow: zuko.lazy.Flow) -> TrainingTask:
    """Return the training task of a zuko flow, with the loss of its documentation."""
    return training_task(flow, lambda x: -flow().log_prob(x).mean())


def normflows_task(layers: list[nf.flows.Flow]) -> TrainingTask:
    """Return the training task of a normflows flow, with the loss of its documentation."""
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(D, trainable=False), layers)
    return training_task(model, model.forward_kld)


def affine_layers() -> list[nf.flows.Flow]:
    """Return the layers of normflows' RealNVP: couplings of alternating halves, one network for s and t, ActNorm."""
    parts = [
        (
            nf.flows.AffineCouplingBlock(coupling_network(D, HIDDEN)),
            nf.flows.Permute(D, mode="swap"),
            nf.flows.ActNorm(D),
        )
        for _ in range(8)
    ]
    return [layer for part in parts for layer in part]


def glow_layers() -> list[nf.flows.Flow]:
    """Return the layers of normflows' Glow for vectors: coupling, LU-factored matrix, ActNorm."""
    parts = [
        (
            nf.flows.AffineCouplingBlock(coupling_network(D, HIDDEN), scale_map="sigmoid"),
            nf.flows.InvertibleAffine(D),
            nf.flows.ActNorm(D),
        )
        for _ in range(8)
    ]
    return [layer for part in parts for layer in part]


def spline_layers() -> list[nf.flows.Flow]:
    """Return normflows' spline couplings of alternately the even and the odd dimensions."""
    return [SplineCoupling(D, HIDDEN, BINS, BOUND, parity=i) for i in range(4)]


# ------------------------------------------------------------------------------------------------ measurement


def zuko_nice(**map: Any) -> TrainingTask:
    """Return the training task of zuko's NICE with eight couplings."""
    return zuko_task(zuko.flows.NICE(D, transforms=8, hidden_features=HIDDEN, **map))


ADDITIVE = {"univariate": zuko.transforms.AdditiveTransform, "shapes": [()]}
PAIRS = {
    "NICE, additive": Pair(
        "zuko",
        lambda: genbench_task(NICE(SPACE, couplings=8, hidden=HIDDEN, base="normal")),
        partial(zuko_nice, **ADDITIVE),
    ),
    "NICE, affine": Pair(
        "zuko",
        lambda: genbench_task(RealNVP(SPACE, couplings=8, hidden=HIDDEN, norm="none")),
        zuko_nice,  # affine by default
    ),
    "MAF": Pair(
        "zuko",
        lambda: genbench_task(MAF(SPACE, layers=5, hidden=HIDDEN, norm="none")),
        lambda: zuko_task(zuko.flows.MAF(D, transforms=5, hidden_features=HIDDEN)),
    ),
    "NSF, autoregressive": Pair(
        "zuko",
        lambda: genbench_task(AutoregressiveNSF(SPACE, layers=4, hidden=HIDDEN, bins=BINS, bound=BOUND, norm="none")),
        lambda: zuko_task(zuko.flows.NSF(D, transforms=4, hidden_features=HIDDEN, bins=BINS)),
    ),
    "RealNVP": Pair(
        "normflows",
        lambda: genbench_task(RealNVP(SPACE, couplings=8, hidden=HIDDEN)),
        lambda: normflows_task(affine_layers()),
    ),
    "Glow": Pair(
        "normflows",
        lambda: genbench_task(Glow(SPACE, depth=8, hidden=HIDDEN, start="rotation")),
        lambda: normflows_task(glow_layers()),
    ),
    "NSF, couplings": Pair(
        "normflows",
        lambda: genbench_task(
            NSF(SPACE, couplings=4, hidden=HIDDEN, bins=BINS, bound=BOUND, linear="none", norm="none")
        ),
        lambda: normflows_task(spline_layers()),
    ),
}


def main(file: str | None = None) -> None:
    """Print the table; write a record with every round to `file`, if given."""
    settings = {"D": D, "hidden": HIDDEN, "bins": BINS, "bound": BOUND}
    compare(PAIRS, torch.randn(BATCH, D), ["zuko", "normflows"], settings, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
