"""Random directions v with E v v^T = 1, for estimates of a trace, E v^T A v = tr A (Hutchinson, 1989).

They are random in training. In evaluation they are a function of the point that enters the flow, so that its
log-likelihood depends neither on the rest of its batch nor on when it is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.special import ndtri

from genbench.models.dequantization import noise_from_point
from genbench.models.flows.bijection import Chain

NoiseName = Literal["rademacher", "gaussian"]

NOISES: dict[NoiseName, Callable[[Tensor], Tensor]] = {  # functions of u, uniform on [0, 1) in steps of 2^-24
    "rademacher": lambda u: torch.where(u < 0.5, -1.0, 1.0),
    "gaussian": lambda u: ndtri(u.double() + 2.0**-25),
}


class HutchinsonNoise(nn.Module):
    """`number` directions for each point; they are a function of `key` (B, D) if a `PointwiseNoiseChain` has set it."""

    def __init__(self, noise: NoiseName = "rademacher", number: int = 1) -> None:
        super().__init__()
        self.noise, self.number = NOISES[noise], number
        self.key: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return v (number, B, *shape), x (B, *shape)."""
        if self.key is None:
            return self.noise(torch.rand(self.number, *x.shape, device=x.device)).to(x.dtype)
        draws = [noise_from_point(self.key + i)[:, : x[0].numel()].view_as(x) for i in range(self.number)]
        return self.noise(torch.stack(draws)).to(x.dtype)


def bits(x: Tensor) -> Tensor:
    """Return the bits of x (B, ...) as integers (B, D)."""
    integer = torch.int64 if x.element_size() == 8 else torch.int32
    return x.detach().flatten(1).contiguous().view(integer).long()


class PointwiseNoiseChain(Chain):
    """A chain in which all Hutchinson noise, in evaluation, is a function of the bits of the point that enters it."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        noises = [m for m in self.modules() if isinstance(m, HutchinsonNoise)]
        for i, noise in enumerate(noises):
            noise.key = None if self.training else bits(x) + (i << 40)
        return super().forward(x)
