"""How fast flows train here, in zuko and in normflows: same architecture, data, optimizer and process, by turns.

Vectors of D = 64 in batches of 128, networks 256-256, float32, fused Adam. Each pair has the same layers
and networks (the numbers of parameters are printed; they differ by a gain or a last scaling, and in Glow by the zeros
of L and U, which normflows keeps as parameters).

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
from peers.normflows_flows import SplineCoupling, perceptron
from peers.rounds import Pair, Trained, compare, trained

D, BATCH, HIDDEN = 64, 128, (256, 256)
BINS, BOUND = 8, 5.0
SPACE = Space((D,))


# ------------------------------------------------------------------------------------------------------- ours


def ours(model: Flow) -> Trained:
    """Return a model of genbench's and its loss."""
    return trained(model, model.loss)


# ----------------------------------------------------------------------------------------------------- theirs


def of_zuko(flow: zuko.lazy.Flow) -> Trained:
    """Return a flow of zuko's and the loss that its documentation takes."""
    return trained(flow, lambda x: -flow().log_prob(x).mean())


def of_normflows(layers: list[nf.flows.Flow]) -> Trained:
    """Return layers of normflows' as a flow, and the loss that its documentation takes."""
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(D, trainable=False), layers)
    return trained(model, model.forward_kld)


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


def zuko_nice(**map: Any) -> Trained:
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
        lambda: ours(Glow(SPACE, depth=8, hidden=HIDDEN, start="rotation")),
        lambda: of_normflows(glow_layers()),
    ),
    "NSF, couplings": Pair(
        "normflows",
        lambda: ours(NSF(SPACE, couplings=4, hidden=HIDDEN, bins=BINS, bound=BOUND, linear="none", norm="none")),
        lambda: of_normflows(spline_layers()),
    ),
}


def main(file: str | None = None) -> None:
    """Print the table, and write the record with every round to `file`."""
    settings = {"D": D, "hidden": HIDDEN, "bins": BINS, "bound": BOUND}
    compare(PAIRS, torch.randn(BATCH, D), ["zuko", "normflows"], settings, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
