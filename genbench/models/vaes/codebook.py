"""Vector quantisation: e_k, k = 1..K, one of which stands for each vector that an encoder gives.

Neural Discrete Representation Learning (2017), eq. 1 to 3 and appendix A.1.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, mse_loss, one_hot

Learning = Literal["ema", "loss"]


class Quantised(NamedTuple):
    """z_q (B, d, *places), which passes gradients on as they are; codes (B, *places); the codebook's own loss ()."""

    z: Tensor
    codes: Tensor
    loss: Tensor


def straight_through(z: Tensor, e: Tensor) -> Tensor:
    """Return e with the gradient of z: the identity (section 3.2)."""
    return z + (e - z).detach()


def nearest(z: Tensor, e: Tensor) -> Tensor:
    """Return argmin_k |z - e_k|^2 (eq. 1), z (N, d), e (K, d) -> (N,)."""
    return torch.addmm(e.square().sum(1), z, e.T, alpha=-2).argmin(1)


def statistics(z: Tensor, codes: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """Return how many z (N, d) have each code, (K,), and their sums, (K, d): those of two batches add up."""
    chosen = one_hot(codes, K).to(z.dtype)
    return chosen.sum(0), chosen.T @ z


class Codebook(nn.Module):
    """K vectors of d numbers that follow what is quantised, by moving averages or by a loss.

    - "ema" (eq. 6 to 8): e_k = m_k / N_k, moving averages of the sums and the counts of the vectors nearest to it.
    - "loss" (eq. 3): e_k moves down the gradient of |sg[z] - e_k|^2.

    Either way `beta` |z - sg[e]|^2 commits the encoder; both are means over vectors, of sums over their numbers.

    A code whose moving count is `restart` times an even share or less is put on a vector drawn from the batch, with
    the count of an even share (Jukebox: A Generative Model for Music, 2020, section 3.1, "random restarts"). At the
    start all counts are zero: the first batch gives every code.

    Args:
        size, dim: K and d.
        decay: gamma of the moving averages.
    """

    e: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(
        self, size: int, dim: int, *, learning: Learning = "ema", beta: float = 0.25, decay: float, restart: float
    ) -> None:
        super().__init__()
        self.size, self.learning, self.beta, self.decay, self.dead = size, learning, beta, decay, restart
        e = torch.randn(size, dim)
        self.register_buffer("e", e) if learning == "ema" else self.register_parameter("e", nn.Parameter(e))
        self.register_buffer("counts", torch.zeros(size))
        self.register_buffer("sums", torch.zeros(size, dim))

    def forward(self, z: Tensor, learn: bool = False) -> Quantised:
        """Return z (B, d, *places) quantised; with `learn` the codebook follows."""
        flat = z.movedim(1, -1).flatten(0, -2)
        if learn:
            self.restart(flat.detach())
        codes = nearest(flat.detach(), self.e.detach()).view(len(z), *z.shape[2:])
        e, d = self.vectors(codes), z.shape[1]
        loss = self.beta * d * mse_loss(z, e.detach())
        if self.learning == "loss":
            loss = loss + d * mse_loss(e, z.detach())
        if learn:
            self.follow(*statistics(flat.detach(), codes.flatten(), self.size))
        return Quantised(straight_through(z, e), codes, loss)

    def vectors(self, codes: Tensor) -> Tensor:
        """Return e of codes (B, *places) -> (B, d, *places)."""
        return embedding(codes, self.e).movedim(-1, 1)

    @torch.no_grad()
    def restart(self, z: Tensor) -> None:
        """Put the codes that are out of use on vectors drawn from z (N, d)."""
        share = len(z) / self.size
        dead, drawn = self.counts <= self.dead * share, z[torch.randint(len(z), (self.size,), device=z.device)]
        self.counts[:] = torch.where(dead, share, self.counts)
        self.e[:], self.sums[:] = (
            torch.where(dead[:, None], new, old) for new, old in ((drawn, self.e), (share * drawn, self.sums))
        )

    @torch.no_grad()
    def follow(self, counts: Tensor, sums: Tensor) -> None:
        """Take the counts (K,) and sums (K, d) of a batch into the averages, and go where they are with "ema"."""
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        if self.learning == "ema":
            self.e[:] = self.sums / self.counts[:, None]
