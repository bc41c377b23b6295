"""Gaussianization (2000), trained by gradient descent: Gaussianization Flows (2020)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from genbench.dataset import Space
from genbench.models.flows.bijection import Bijection, Shape
from genbench.models.flows.flow import Flow
from genbench.models.flows.lu import LULinear
from genbench.models.flows.monotone import MixtureCDF
from genbench.models.flows.normalization import ActNorm
from genbench.models.flows.reshaping import Flatten
from genbench.nets.precision import full_precision

__all__ = ["Gaussianization"]


class Marginals(MixtureCDF):
    """The map that makes each dimension normal; on the first batch it smooths, by Silverman's rule, 1.06 std K^-1/5.

    Narrower components would put noise into the tails, which later layers would amplify.
    """

    def initialize(self, x: Tensor) -> None:
        """Place the components at quantiles of x (B, D), each a logistic with that standard deviation."""
        super().initialize(x)
        sigma = 1.06 * math.sqrt(3) / math.pi * len(self.mu) ** -0.2 * x.std(0, correction=0)
        self.log_sigma.copy_((sigma + 1e-6).log().expand_as(self.mu))


class Rotation(Bijection):
    """y = Q x, Q the product of D - 1 reflections, which preserves volume (Gaussianization Flows, 2020, section 3.2).

    The i-th mirror is normal to v_i = (0, .., 0, 1, A_{i+1,i}, .., A_{D,i}), the i-th column of V, and the product of
    all is I - V S^-1 V^T, S the strict upper triangle of V^T V and half its diagonal (Accumulating Householder
    transformations, revisited, 2006, section 3). Q starts as a random rotation. With `learned` False it is fixed.
    """

    A: Tensor

    def __init__(self, shape: Shape, *, learned: bool = True) -> None:
        super().__init__()
        A = torch.geqrf(torch.randn(shape[0], shape[0])).a.tril(-1)[:, :-1]
        self.register_parameter("A", nn.Parameter(A)) if learned else self.register_buffer("A", A)

    def matrix(self) -> Tensor:
        """Return Q (D, D)."""
        one = torch.eye(len(self.A), dtype=self.A.dtype, device=self.A.device)
        V = self.A.tril(-1) + one[:, :-1]
        products = V.T @ V
        S = (products.triu() + products.triu(1)) / 2
        Q: Tensor = one - V @ torch.linalg.solve_triangular(S, V.T, upper=True)
        return Q

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with full_precision(x):
            return x @ self.matrix().T, x.new_zeros(())

    def inverse(self, y: Tensor) -> Tensor:
        return y @ self.matrix()


RotationName = Literal["orthogonal", "fixed", "lu"]
ROTATIONS: dict[RotationName, Callable[[Shape], Bijection]] = {
    "orthogonal": Rotation,
    "fixed": lambda shape: Rotation(shape, learned=False),
    "lu": LULinear,
}


class Gaussianization(Flow):
    """Layers that make each dimension normal by a mixture of logistics, with rotations between them.

    The mixtures of each layer start at quantiles of its input for the first batch, which is a step of the iteration of
    2000; all layers are then trained together.

    Args:
        layers: number of layers.
        components: K, the number of logistics in each mixture.
        rotation: an orthogonal matrix, learned or drawn once, or any invertible matrix by its LU factors.
        **options: see `Flow`.
    """

    def __init__(
        self,
        space: Space,
        *,
        layers: int = 8,
        components: int = 8,
        rotation: RotationName = "orthogonal",
        **options: Any,
    ) -> None:
        shape = (space.dims,)
        bijections: list[Bijection] = [Flatten(space.shape), ActNorm(shape), Marginals(shape, components)]
        for _ in range(layers - 1):
            bijections += [ROTATIONS[rotation](shape), Marginals(shape, components)]
        super().__init__(space, bijections, **options)
