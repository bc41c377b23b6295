"""NICE: Non-linear Independent Components Estimation (2015)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from genbench.dataset import Space
from genbench.models.flows.bijection import Bijection
from genbench.models.flows.coupling import Coupling
from genbench.models.flows.elementwise import Shift
from genbench.models.flows.flow import Flow
from genbench.models.flows.normalization import ActNorm
from genbench.models.flows.reshaping import Flatten, Permutation, alternating
from genbench.nets.activations import Activation
from genbench.nets.mlp import mlp

__all__ = ["NICE"]


class Scaling(Bijection):
    """y = e^s x, the diagonal scaling at the end of the flow; log-determinant sum s (section 3.3)."""

    def __init__(self, D: int) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.zeros(D))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * self.s.exp(), self.s.sum()

    def inverse(self, y: Tensor) -> Tensor:
        return y * (-self.s).exp()


class NICE(Flow):
    """Additive couplings (eq. 9-10) of the even and the odd dimensions alternately, then a diagonal scaling.

    Args:
        couplings: number of couplings.
        hidden: widths of each coupling's MLP.
        base: the density of each dimension of z (section 3.4).
        **options: see `Flow`.
    """

    def __init__(
        self,
        space: Space,
        *,
        couplings: int = 4,
        hidden: tuple[int, ...] = (256, 256),
        base: Literal["logistic", "normal"] = "logistic",
        activation: Activation = "relu",
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        D = space.dims
        bijections: list[Bijection] = [
            Flatten(space.shape),
            Permutation(alternating(space.shape)),
            ActNorm((D,), learned=False),
        ]
        for i in range(couplings):
            split = (D - i % 2 + 1) // 2
            # not zero at the start: on data symmetric about the axes, E[x2 | x1] = 0, that is a saddle point
            m = mlp(split, D - split, hidden, activation=activation, dropout=dropout)
            bijections.append(Coupling(m, D, split, Shift()))
        super().__init__(space, [*bijections, Scaling(D)], base, **options)
