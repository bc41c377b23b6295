"""Vector quantization: each vector from the encoder is replaced by one of K code vectors e_k.

Neural Discrete Representation Learning (2017), eq. 1 to 3 and appendix A.1.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, mse_loss, one_hot

from genbench.nets.precision import full_precision

Learning = Literal["ema", "loss"]
TEMPERATURE = 0.5  # of the distribution that codes are sampled from, in units of the mean squared error |z - e|^2


class QuantizerOutput(NamedTuple):
    """z_q (B, d, *grid), with straight-through gradients, and its codes (B, *grid).

    log_q (B,) is log q(codes | z) in nats, 0 where codes are not sampled; loss () is the codebook's part of eq. 3.
    """

    z: Tensor
    codes: Tensor
    log_q: Tensor
    loss: Tensor


def straight_through(z: Tensor, e: Tensor) -> Tensor:
    """Return e with the gradient of z: the identity (section 3.2)."""
    return z + (e - z).detach()


def relative_squared_distances(z: Tensor, e: Tensor) -> Tensor:
    """Return |z - e_k|^2 - |z|^2, z (N, d), e (K, d) -> (N, K).

    In full precision: rounding to bfloat16 would pick wrong codes.
    """
    with full_precision(z):
        return torch.addmm(e.square().sum(1), z, e.T, alpha=-2)


def counts_and_sums(z: Tensor, codes: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """Return the number of vectors with each code, (K,), and their sums, (K, d); z (N, d), codes (N,).

    Results of two batches can be added. On a GPU the sums are a matrix product: `index_add_` is not deterministic
    there.
    """
    if not z.is_cuda:
        return torch.bincount(codes, minlength=K).to(z.dtype), z.new_zeros(K, z.shape[1]).index_add_(0, codes, z)
    chosen = one_hot(codes, K).to(z.dtype)
    with full_precision(z):
        return chosen.sum(0), chosen.T @ z


class Codebook(nn.Module):
    """K code vectors of d numbers, learned by moving averages or by a loss.

    - "ema" (eq. 6 to 8): e_k = m_k / N_k, moving averages of the sums and counts of the vectors nearest to e_k.
    - "loss" (eq. 3): gradient descent on |sg[z] - e_k|^2.

    In both cases the commitment loss `beta` |z - sg[e]|^2 trains the encoder. Losses are summed over the d numbers of a
    vector and averaged over vectors.

    A code is dead if its moving count is at most `restart` times N / K, the count under uniform use. Dead codes are
    reset to vectors drawn from the batch, with count N / K (Jukebox: A Generative Model for Music, 2020, section 3.1,
    "random restarts"). All counts are zero at first, so the first batch initializes every code.

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
        self.size, self.learning, self.beta, self.decay = size, learning, beta, decay
        self.restart_threshold = restart
        e = torch.randn(size, dim)
        self.register_buffer("e", e) if learning == "ema" else self.register_parameter("e", nn.Parameter(e))
        self.register_buffer("counts", torch.zeros(size))
        self.register_buffer("sums", torch.zeros(size, dim))
        self.register_buffer("error", torch.ones(()))  # moving average of |z - e|^2

    def quantize(self, z: Tensor) -> QuantizerOutput:
        """Return z (B, d, *grid) with each vector replaced by the nearest code, argmin_k |z - e_k|^2 (eq. 1)."""
        codes = relative_squared_distances(self.flat_vectors(z), self.e.detach()).argmin(1)
        return self.output(z, codes.view(len(z), *z.shape[2:]), z.new_zeros(len(z)))

    def quantize_and_update(self, z: Tensor) -> QuantizerOutput:
        """Return z (B, d, *grid) quantized by the nearest codes, and update the codebook: a training step."""
        self.restart_dead_codes(self.flat_vectors(z))
        quantized = self.quantize(z)
        self.update_averages(*counts_and_sums(self.flat_vectors(z), quantized.codes.flatten(), self.size))
        self.error.lerp_(z.shape[1] * mse_loss(quantized.z.detach(), z.detach()), 1 - self.decay)
        return quantized

    def sample(self, z: Tensor) -> QuantizerOutput:
        """Return z (B, d, *grid) quantized by codes sampled from q(k | z) ~ exp(-|z - e_k|^2 / (TEMPERATURE error)).

        This q is the proposal distribution for importance sampling of p(x), a sum over all codes.
        """
        log_q = (relative_squared_distances(self.flat_vectors(z), self.e) / (-TEMPERATURE * self.error)).log_softmax(1)
        codes = torch.multinomial(log_q.exp(), 1)
        log_q_codes = log_q.gather(1, codes).view(len(z), -1).sum(1)
        return self.output(z, codes.view(len(z), *z.shape[2:]), log_q_codes)

    def output(self, z: Tensor, codes: Tensor, log_q: Tensor) -> QuantizerOutput:
        """Return z (B, d, *grid) replaced by codes (B, *grid), with the losses of codebook and encoder (eq. 3)."""
        e, d = self.embed(codes), z.shape[1]
        loss = self.beta * d * mse_loss(z, e.detach())
        if self.learning == "loss":
            loss = loss + d * mse_loss(e, z.detach())
        return QuantizerOutput(straight_through(z, e), codes, log_q, loss)

    def flat_vectors(self, z: Tensor) -> Tensor:
        """Return the vectors of z (B, d, *grid) as rows (N, d), without gradient."""
        return z.detach().movedim(1, -1).flatten(0, -2).to(self.e.dtype)

    def embed(self, codes: Tensor) -> Tensor:
        """Return the code vectors e, codes (B, *grid) -> (B, d, *grid)."""
        return embedding(codes, self.e).movedim(-1, 1)

    @torch.no_grad()
    def restart_dead_codes(self, z: Tensor) -> None:
        """Reset dead codes to random vectors of z (N, d)."""
        mean_count = len(z) / self.size
        dead = self.counts <= self.restart_threshold * mean_count
        drawn = z[torch.randint(len(z), (self.size,), device=z.device)]
        self.counts[:] = torch.where(dead, mean_count, self.counts)
        self.e[:], self.sums[:] = (
            torch.where(dead[:, None], new, old) for new, old in ((drawn, self.e), (mean_count * drawn, self.sums))
        )

    @torch.no_grad()
    def update_averages(self, counts: Tensor, sums: Tensor) -> None:
        """Add the counts (K,) and sums (K, d) of a batch to the moving averages; with "ema", move the codes there."""
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        if self.learning == "ema":
            self.e[:] = self.sums / self.counts[:, None].clamp(min=1e-12)
