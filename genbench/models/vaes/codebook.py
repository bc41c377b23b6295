"""Vector quantisation: e_k, k = 1..K, one of which stands for each vector that an encoder gives.

Neural Discrete Representation Learning (2017), eq. 1 to 3 and appendix A.1.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, mse_loss, one_hot

from genbench.nets.precision import full_precision

Learning = Literal["ema", "loss"]
SPREAD = 0.5  # of the law by which codes are drawn, in mean squares of z - e


class Quantised(NamedTuple):
    """z_q (B, d, *places), which passes gradients on as they are, and its codes (B, *places).

    log_q (B,) is log q(codes | z) in nats, 0 where they are not drawn; loss () is what eq. 3 adds to the decoder's.
    """

    z: Tensor
    codes: Tensor
    log_q: Tensor
    loss: Tensor


def straight_through(z: Tensor, e: Tensor) -> Tensor:
    """Return e with the gradient of z: the identity (section 3.2)."""
    return z + (e - z).detach()


def squares(z: Tensor, e: Tensor) -> Tensor:
    """Return |z - e_k|^2 - |z|^2, z (N, d), e (K, d) -> (N, K); of low precision they would misplace z."""
    with full_precision(z):
        return torch.addmm(e.square().sum(1), z, e.T, alpha=-2)


def statistics(z: Tensor, codes: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """Return how many z (N, d) have each code, (K,), and their sums, (K, d): those of two batches add up.

    On a GPU the sums are a product, since `index_add_` adds in another order there each time.
    """
    if not z.is_cuda:
        return torch.bincount(codes, minlength=K).to(z.dtype), z.new_zeros(K, z.shape[1]).index_add_(0, codes, z)
    chosen = one_hot(codes, K).to(z.dtype)
    with full_precision(z):
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
    error: Tensor

    def __init__(
        self, size: int, dim: int, *, learning: Learning = "ema", beta: float = 0.25, decay: float, restart: float
    ) -> None:
        super().__init__()
        self.size, self.learning, self.beta, self.decay, self.dead = size, learning, beta, decay, restart
        e = torch.randn(size, dim)
        self.register_buffer("e", e) if learning == "ema" else self.register_parameter("e", nn.Parameter(e))
        self.register_buffer("counts", torch.zeros(size))
        self.register_buffer("sums", torch.zeros(size, dim))
        self.register_buffer("error", torch.ones(()))  # moving average of |z - e|^2

    def nearest(self, z: Tensor) -> Quantised:
        """Return z (B, d, *places) quantised: argmin_k |z - e_k|^2 (eq. 1)."""
        codes = squares(self.rows(z), self.e.detach()).argmin(1)
        return self.quantised(z, codes.view(len(z), *z.shape[2:]), z.new_zeros(len(z)))

    def learned(self, z: Tensor) -> Quantised:
        """Return z (B, d, *places) quantised, and follow it."""
        self.restart(self.rows(z))
        quantised = self.nearest(z)
        self.follow(*statistics(self.rows(z), quantised.codes.flatten(), self.size))
        self.error.lerp_(z.shape[1] * mse_loss(quantised.z.detach(), z.detach()), 1 - self.decay)
        return quantised

    def drawn(self, z: Tensor) -> Quantised:
        """Return z (B, d, *places) with codes drawn in proportion to exp(-|z - e_k|^2 / (SPREAD error)).

        They propose terms of the sum over codes that is p(x).
        """
        log_q = (squares(self.rows(z), self.e) / (-SPREAD * self.error)).log_softmax(1)
        codes = torch.multinomial(log_q.exp(), 1)
        at = log_q.gather(1, codes).view(len(z), -1).sum(1)
        return self.quantised(z, codes.view(len(z), *z.shape[2:]), at)

    def quantised(self, z: Tensor, codes: Tensor, log_q: Tensor) -> Quantised:
        """Return z (B, d, *places) as its codes say, with the codebook's and the encoder's losses (eq. 3)."""
        e, d = self.vectors(codes), z.shape[1]
        loss = self.beta * d * mse_loss(z, e.detach())
        if self.learning == "loss":
            loss = loss + d * mse_loss(e, z.detach())
        return Quantised(straight_through(z, e), codes, log_q, loss)

    def rows(self, z: Tensor) -> Tensor:
        """Return the vectors of z (B, d, *places) in rows, (N, d), without gradients."""
        return z.detach().movedim(1, -1).flatten(0, -2).to(self.e.dtype)

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
            self.e[:] = self.sums / self.counts[:, None].clamp(min=1e-12)
