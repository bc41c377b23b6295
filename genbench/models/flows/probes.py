"""Random directions v with E v v^T = 1, for estimates of a trace, E v^T A v = tr A (Hutchinson, 1989).

They are drawn anew in training. In evaluation they are a function of the point that entered the flow, so that its
log-likelihood moves neither with its batch-mates nor from one look to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.special import ndtri

from genbench.models.dequantization import noise_of
from genbench.models.flows.bijection import Chain

Noise = Literal["rademacher", "gaussian"]

NOISES: dict[Noise, Callable[[Tensor], Tensor]] = {  # of u, uniform on [0, 1) in steps of 2^-24
    "rademacher": lambda u: torch.where(u < 0.5, -1.0, 1.0),
    "gaussian": lambda u: ndtri(u.double() + 2.0**-25),
}


class Probes(nn.Module):
    """`number` directions for each point; `key` (B, D) decides them where a `Pointed` chain has given one."""

    def __init__(self, noise: Noise = "rademacher", number: int = 1) -> None:
        super().__init__()
        self.noise, self.number = NOISES[noise], number
        self.key: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return v (number, B, *shape), x (B, *shape)."""
        if self.key is None:
            return self.noise(torch.rand(self.number, *x.shape, device=x.device)).to(x.dtype)
        each = [noise_of(self.key + i)[:, : x[0].numel()].view_as(x) for i in range(self.number)]
        return self.noise(torch.stack(each)).to(x.dtype)


def bits(x: Tensor) -> Tensor:
    """Return the bits of x (B, ...) as integers (B, D)."""
    whole = torch.int64 if x.element_size() == 8 else torch.int32
    return x.detach().flatten(1).contiguous().view(whole).long()


class Pointed(Chain):
    """A chain whose probes, in evaluation, are a function of the bits of the point that enters it."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for i, probes in enumerate(m for m in self.modules() if isinstance(m, Probes)):
            probes.key = None if self.training else bits(x) + (i << 40)
        return super().forward(x)
