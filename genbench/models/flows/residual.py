"""Residual Flows for Invertible Generative Modeling (2019); Invertible Residual Networks (2019)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from genbench.dataset import Space
from genbench.models.flows.bijection import Bijection, Shape
from genbench.models.flows.flow import Flow
from genbench.models.flows.normalization import ActNorm
from genbench.models.flows.probes import HutchinsonNoise, NoiseName, PointwiseNoiseChain
from genbench.models.flows.reshaping import Flatten, divisible, multi_scale
from genbench.nets.lipschitz import LipschitzNet, convolutional_lipschitz, dense_lipschitz

__all__ = ["ResidualFlow"]

Determinant = Literal["exact", "series"]
JVP = Callable[[Tensor], Tensor]  # v -> J v, v (K, B or 1, *shape)
EXACT_UP_TO = 64  # dimensions up to which the determinant is exact in evaluation, also with "series"
CERTAIN_TERMS = 2  # of the series in training, before its random end
EVALUATION_TERMS = 40  # of the series in evaluation
MAX_ITERATIONS = 1000  # of the inverse


def exact_logdet(J: JVP, x: Tensor) -> Tensor:
    """Return log|det(1 + J)| (B,) from the full matrix, x (B, *shape)."""
    D = x[0].numel()
    axes = torch.eye(D, dtype=x.dtype, device=x.device)
    columns = J(axes.view(D, 1, *x.shape[1:])).flatten(2).expand(-1, len(x), -1)
    logdet: Tensor = torch.linalg.slogdet(axes + columns.movedim(0, -1)).logabsdet
    return logdet


def logdet_series(J: JVP, v: Tensor, weights: list[float]) -> Tensor:
    """Return sum_k weights_k (-1)^(k+1) / k v^T J^k v (B,), k = 1, 2, ..., v (1, B, *shape).

    With infinitely many weights of 1 and E v v^T = 1, its expectation is log|det(1 + J)| (Invertible Residual
    Networks, 2019, eq. 4 and 5).
    """
    total, w = v.new_zeros(v.shape[1]), v
    for k, weight in enumerate(weights, start=1):
        w = J(w)
        total = total + weight * (-1) ** (k + 1) / k * (w * v).flatten(2).sum((0, 2))
    return total


def roulette(p: float = 0.5) -> list[float]:
    """Return 1 / P(N >= k) for the terms k up to a random N: the truncated series is unbiased (Residual Flows, eq. 6).

    The first `CERTAIN_TERMS` terms are always included; P(N - CERTAIN_TERMS >= j) = (1 - p)^j, a geometric variable.
    """
    more = int(torch.empty(()).geometric_(p).item()) - 1
    return [1.0] * CERTAIN_TERMS + [(1 - p) ** -j for j in range(1, more + 1)]


class Residual(Bijection):
    """y = x + g(x), g a contraction; its inverse is the fixed point of x = y - g(x)."""

    def __init__(self, g: LipschitzNet, *, determinant: Determinant, noise: NoiseName) -> None:
        super().__init__()
        self.g, self.determinant, self.noise = g, determinant, HutchinsonNoise(noise)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        g, J = self.g.linearize(x)
        return x + g, self.log_determinant(J, x)

    def log_determinant(self, J: JVP, x: Tensor) -> Tensor:
        """Return log|det(1 + J)| (B,): exact, or an estimate, which in training is unbiased."""
        if self.determinant == "exact" or (not self.training and x[0].numel() <= EXACT_UP_TO):
            return exact_logdet(J, x)
        v = self.noise(x)
        return logdet_series(J, v, roulette() if self.training else [1.0] * EVALUATION_TERMS)

    @torch.no_grad()
    def inverse(self, y: Tensor) -> Tensor:
        x, weights = y, self.g.weights()
        for _ in range(MAX_ITERATIONS):
            before, x = x, y - self.g(x, weights)
            if ((x - before).abs() <= 16 * torch.finfo(y.dtype).eps * (1 + x.abs())).all():
                break
        return x


class ResidualFlow(Flow):
    """Blocks x + g(x), g a contraction with free-form Jacobian, the log-determinant by an unbiased series.

    Args:
        blocks: number of blocks, each after an ActNorm; on images at each scale.
        hidden: widths of a block's MLP (vectors).
        scales, channels: of the multi-scale architecture, and widths of its blocks' 3x3 convolutions (images).
        network: "mlp" treats an image as a vector.
        bound: the largest norm of a layer.
        determinant: in training, of the full matrix, or by the randomly truncated series with one random direction. In
            evaluation it is exact up to 64 dimensions; beyond, 40 terms, with a direction that is a function of the
            point.
        noise: distribution of the entries of the direction.
        **options: see `Flow`.

    Raises:
        ValueError: the sides of an image cannot be halved `scales` times.
    """

    def __init__(
        self,
        space: Space,
        *,
        blocks: int = 16,
        hidden: tuple[int, ...] = (64, 64),
        scales: int = 2,
        channels: tuple[int, ...] = (32, 32),
        network: Literal["auto", "mlp"] = "auto",
        bound: float = 0.98,
        determinant: Determinant = "series",
        noise: NoiseName = "rademacher",
        **options: Any,
    ) -> None:
        block = partial(Residual, determinant=determinant, noise=noise)
        convolutional = space.is_image and network == "auto"
        net: Callable[[Shape], LipschitzNet] = (
            partial(convolutional_lipschitz, channels=channels, bound=bound)
            if convolutional
            else partial(dense_lipschitz, hidden=hidden, bound=bound)
        )

        def steps(shape: Shape) -> list[Bijection]:
            pairs = ((ActNorm(shape), block(net(shape))) for _ in range(blocks))
            return [*(bijection for pair in pairs for bijection in pair), ActNorm(shape)]

        if convolutional:
            bijections = multi_scale(divisible(space.shape, scales=scales), scales, steps)
        else:
            bijections = [Flatten(space.shape), *steps((space.dims,))]
        super().__init__(space, [PointwiseNoiseChain(bijections)], **options)
