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
from genbench.models.flows.probes import Noise, Pointed, Probes
from genbench.models.flows.reshaping import Flatten, divisible, multi_scale
from genbench.nets.lipschitz import LipschitzNet, convolutional_lipschitz, dense_lipschitz

__all__ = ["ResidualFlow"]

Determinant = Literal["exact", "series"]
Along = Callable[[Tensor], Tensor]  # v -> J v, v (K, B or 1, *shape)
EXACT = 64  # dimensions up to which the determinant is exact in evaluation, whatever it is in training
SURE, TERMS, ITERATIONS = 2, 40, 1000  # terms before the roulette; of the series in evaluation; of the inverse at most


def exact(J: Along, x: Tensor) -> Tensor:
    """Return log|det(1 + J)| (B,) from the matrix itself, x (B, *shape)."""
    D = x[0].numel()
    axes = torch.eye(D, dtype=x.dtype, device=x.device)
    columns = J(axes.view(D, 1, *x.shape[1:])).flatten(2).expand(-1, len(x), -1)
    found: Tensor = torch.linalg.slogdet(axes + columns.movedim(0, -1)).logabsdet
    return found


def series(J: Along, v: Tensor, weights: list[float]) -> Tensor:
    """Return sum_k weights_k (-1)^(k+1) / k v^T J^k v (B,), k = 1, 2, ..: of weight 1 without end, log|det(1 + J)|.

    v (1, B, *shape) with E v v^T = 1 (Invertible Residual Networks, 2019, eq. 4 and 5).
    """
    total, w = v.new_zeros(v.shape[1]), v
    for k, weight in enumerate(weights, start=1):
        w = J(w)
        total = total + weight * (-1) ** (k + 1) / k * (w * v).flatten(2).sum((0, 2))
    return total


def roulette(p: float = 0.5) -> list[float]:
    """Return 1 / P(N >= k) for the terms up to a drawn N, which makes the cut series unbiased (Residual Flows, eq. 6).

    The first `SURE` terms are always there; N - SURE is geometric, P(N - SURE >= j) = (1 - p)^j.
    """
    more = int(torch.empty(()).geometric_(p).item()) - 1
    return [1.0] * SURE + [(1 - p) ** -j for j in range(1, more + 1)]


class Residual(Bijection):
    """y = x + g(x), g a contraction; its inverse is the fixed point of x = y - g(x)."""

    def __init__(self, g: LipschitzNet, *, determinant: Determinant, noise: Noise) -> None:
        super().__init__()
        self.g, self.determinant, self.probes = g, determinant, Probes(noise)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        g, J = self.g.linearised(x)
        return x + g, self.log_determinant(J, x)

    def log_determinant(self, J: Along, x: Tensor) -> Tensor:
        """Return log|det(1 + J)| (B,): exact, or an estimate, without bias in training."""
        if self.determinant == "exact" or (not self.training and x[0].numel() <= EXACT):
            return exact(J, x)
        return series(J, self.probes(x), roulette() if self.training else [1.0] * TERMS)

    @torch.no_grad()
    def inverse(self, y: Tensor) -> Tensor:
        x, weights = y, self.g.weights()
        for _ in range(ITERATIONS):
            before, x = x, y - self.g(x, weights)
            if ((x - before).abs() <= 16 * torch.finfo(y.dtype).eps * (1 + x.abs())).all():
                break
        return x


class ResidualFlow(Flow):
    """Blocks x + g(x), g a contraction with free-form Jacobian, the log-determinant by an unbiased series.

    Args:
        blocks: how many, each after an ActNorm; on images at each scale.
        hidden: widths of a block's perceptron (vectors).
        scales, channels: of the multi-scale architecture, and widths of its blocks' 3x3 convolutions (images).
        network: "mlp" takes an image as a vector.
        bound: the largest norm of a layer.
        determinant: in training, of the matrix, or by the series cut at random, on one random direction. In evaluation
            it is exact up to 64 dimensions; beyond, 40 terms, and the direction is a function of the point.
        noise: density of the entries of the direction.
        **options: as `Flow` takes them.

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
        noise: Noise = "rademacher",
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
        super().__init__(space, [Pointed(bijections)], **options)
