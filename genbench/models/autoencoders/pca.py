"""Principal component analysis in closed form, and probabilistic PCA for its likelihood."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from genbench.dataset import Space
from genbench.model import MakeOptimizer, Model, OptimizedLoss
from genbench.models.dequantization import UniformDequantization
from genbench.suite import Kind

__all__ = ["PCA"]

DEQUANTIZATION_VARIANCE = 1 / 12  # of u ~ U[0, 1)
MIN_VARIANCE = 1e-12  # for reals, relative to the largest


class PCA(Model):
    """Projection on the leading eigenvectors of the covariance, fitted by `fit_closed_form` only (use steps: 0).

    Probabilistic Principal Component Analysis (1999), eq. 6 to 8: x ~ N(mu, C) with

        C = V diag(lambda) V^T + sigma^2 (I - V V^T),

    V (D, Z) the leading eigenvectors, lambda (Z,) their eigenvalues, sigma^2 the mean of the discarded ones. The
    likelihood of reals is exact. For integers it is a bound by uniform dequantization noise u in [0, 1)^D, whose
    variance is added to C. Codes z = V^T (x - mu) are in data units, so the mean squared error of a reconstruction is
    the sum of the discarded eigenvalues. Computed in float64.

    Raises:
        ValueError: `latent` is not between 1 and D.
    """

    likelihood: Kind | None = "exact"

    def __init__(self, space: Space, *, latent: int = 16) -> None:
        super().__init__(space)
        D = space.dims
        if not 1 <= latent <= D:
            raise ValueError(f"latent={latent} is not between 1 and the {D} dimensions of the data")
        self.latent = latent
        self.mu = nn.Parameter(torch.zeros(D, dtype=torch.float64))
        self.V = nn.Parameter(torch.eye(D, latent, dtype=torch.float64))
        self.eigenvalues = nn.Parameter(torch.ones(latent, dtype=torch.float64))
        self.discarded = nn.Parameter(torch.ones((), dtype=torch.float64))  # mean of the other eigenvalues
        if space.levels:
            self.likelihood = "bound"
            self.dequantization = UniformDequantization(space)

    @torch.no_grad()
    def fit_closed_form(self, x: Tensor) -> None:
        """Compute mean, eigenvectors and eigenvalues of the covariance of the training split x (N, *shape)."""
        flat = x.flatten(1).double()
        self.mu.copy_(flat.mean(0))
        values, vectors = torch.linalg.eigh(torch.cov(flat.T, correction=0).view(self.space.dims, -1))
        self.V.copy_(vectors.flip(1)[:, : self.latent])
        self.eigenvalues.copy_(values.flip(0)[: self.latent])
        if self.latent < self.space.dims:
            self.discarded.copy_(values[: -self.latent].mean())

    @property
    def variances(self) -> tuple[Tensor, Tensor]:
        """Variances along V, (Z,), and orthogonal to it, (): eigenvalues, plus that of the noise for integers."""
        if self.space.levels:
            along, across = self.eigenvalues.clamp(min=MIN_VARIANCE), self.discarded.clamp(min=MIN_VARIANCE)
            return along + DEQUANTIZATION_VARIANCE, across + DEQUANTIZATION_VARIANCE
        floor = MIN_VARIANCE * self.eigenvalues.max().clamp(min=torch.finfo(torch.float64).tiny)
        return self.eigenvalues.clamp(min=floor), self.discarded.clamp(min=floor)

    def encode(self, x: Tensor) -> Tensor:
        """Return V^T (x - mu) in data units, x (B, *shape) -> (B, Z) float."""
        return ((x.flatten(1).double() - self.mu) @ self.V).float()

    def decode(self, z: Tensor) -> Tensor:
        """Return mu + V z in data units, z (B, Z) -> (B, *shape) float."""
        return (self.mu + z.double() @ self.V.T).float().view(-1, *self.space.shape)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the projection on the principal subspace, x (B, *shape) -> (B, *shape) float."""
        return self.decode(self.encode(x))

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log N(x; mu, C) in nats, x (B, *shape) -> (B,); for integers the bound log N(x + u; mu + 1/2, C)."""
        levels = self.space.levels
        d = (self.dequantization(x)[0].double() * levels - 0.5 if levels else x.double()).flatten(1) - self.mu
        along, across = self.variances
        z, D, Z = d @ self.V, self.space.dims, self.latent
        rest = (d - z @ self.V.T).square().sum(1)
        log_det = along.log().sum() + (D - Z) * across.log()
        return -0.5 * ((z.square() / along).sum(1) + rest / across + log_det + D * math.log(2 * math.pi))

    def sample(self, n: int) -> Tensor:
        """Return n samples (n, *shape) of N(mu, C), rounded to the nearest level for integers."""
        along, across = self.variances
        eps = torch.randn(n, self.space.dims, device=self.device, dtype=self.mu.dtype) * across.sqrt()
        z = torch.randn(n, self.latent, device=self.device, dtype=self.mu.dtype) * along.sqrt()
        x = (self.mu + eps + (z - eps @ self.V) @ self.V.T).float().view(n, *self.space.shape)
        return self.dequantization.inverse((x + 0.5) / self.space.levels) if self.space.levels else x

    def configure_optimizers(self, optimizer: MakeOptimizer) -> list[OptimizedLoss | tuple[OptimizedLoss, ...]]:
        """Return no losses: there are no gradient steps."""
        return []
