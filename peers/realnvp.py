"""How fast RealNVP trains here and in normflows: the same architecture, data, optimizer and process, by turns.

8 couplings of a 256-256 perceptron with ActNorm, D = 64, batch 128, two threads. normflows has two ways to say it: its
`AffineCouplingBlock` with one network for s and t, which is the same architecture, and its `MaskedAffineFlow` with a
network each, which is how its documentation builds RealNVP. Every round times the three in turn, so that what else the
machine does falls on all alike; the ratio of a round is taken within it.

Run:  python peers/realnvp.py   (normflows: `pip install genbench[peers]`)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import normflows as nf
import torch
from torch import Tensor, nn

from genbench.dataset import Space
from genbench.models.flows.realnvp import RealNVP

D, COUPLINGS, HIDDEN, BATCH, THREADS = 64, 8, (256, 256), 128, 2
ROUNDS, STEPS = 15, 40
Step = Callable[[Tensor], None]


def ours() -> tuple[nn.Module, Step]:
    """Return genbench's RealNVP and a step of it, as genbench.train takes it."""
    model = RealNVP(Space((D,)), couplings=COUPLINGS, hidden=HIDDEN)
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)

    def step(x: Tensor) -> None:
        gradients = torch.autograd.grad(model.loss(x), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()

    return model, step


def theirs(flows: list[nn.Module]) -> tuple[nn.Module, Step]:
    """Return normflows' flow and a step of it, as its documentation takes it, with the optimizer of ours."""
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(D, trainable=False), flows)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step(x: Tensor) -> None:
        optimizer.zero_grad()
        model.forward_kld(x).backward()
        optimizer.step()

    return model, step


def joint() -> tuple[nn.Module, Step]:
    """Return normflows' coupling of halves with one network for s and t: our architecture."""
    flows: list[nn.Module] = []
    for _ in range(COUPLINGS):
        net = nf.nets.MLP([D // 2, *HIDDEN, D], init_zeros=True)
        flows += [nf.flows.AffineCouplingBlock(net), nf.flows.Permute(D, mode="swap"), nf.flows.ActNorm(D)]
    return theirs(flows)


def masked() -> tuple[nn.Module, Step]:
    """Return normflows' coupling under alternating masks with a network each for s and t."""
    flows: list[nn.Module] = []
    for i in range(COUPLINGS):
        s, t = (nf.nets.MLP([D, *HIDDEN, D], init_zeros=True) for _ in range(2))
        mask = (torch.arange(D) % 2 == i % 2).float()
        flows += [nf.flows.MaskedAffineFlow(mask, t, s), nf.flows.ActNorm(D)]
    return theirs(flows)


def rate(step: Step, x: Tensor) -> float:
    """Return training samples a second over STEPS steps."""
    start = time.perf_counter()
    for _ in range(STEPS):
        step(x)
    return STEPS * BATCH / (time.perf_counter() - start)


def main() -> None:
    """Print samples/s of each and the ratios ours / theirs: median, and the middle half of the rounds."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    x = torch.randn(BATCH, D)
    rows = {"genbench RealNVP": ours(), "normflows, one network": joint(), "normflows, two networks": masked()}
    for _, step in rows.values():
        rate(step, x)  # warm-up
    rounds = [{name: rate(step, x) for name, (_, step) in rows.items()} for _ in range(ROUNDS)]
    mine = "genbench RealNVP"
    print(f"torch {torch.__version__}, normflows {nf.__version__}, {THREADS} threads, {ROUNDS} rounds of {STEPS} steps")
    for name, (model, _) in rows.items():
        size = sum(p.numel() for p in model.parameters()) / 1e6
        speed = statistics.median(r[name] for r in rounds)
        q1, median, q3 = statistics.quantiles([r[mine] / r[name] for r in rounds], n=4)
        print(f"{name:24} {size:5.2f} M  {speed:8.0f} samples/s  ours/this {median:.2f}  [{q1:.2f}, {q3:.2f}]")


if __name__ == "__main__":
    main()
