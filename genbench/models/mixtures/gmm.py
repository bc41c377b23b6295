"""A mixture of Gaussians with full or diagonal covariances.

Maximum Likelihood from Incomplete Data via the EM Algorithm (1977), 4.3: p(x) = sum_k pi_k N(x | mu_k, Sigma_k),
Sigma_k^-1 = U_k U_k^T with U_k upper triangular, so that log N = sum log diag U - D/2 log 2 pi - |(x - mu) U|^2 / 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from genbench.dataset import Space
from genbench.model import MakeOptimizer, Model, OptimizedLoss
from genbench.models.dequantization import UniformDequantization
from genbench.models.mixtures.cells import cell_bounds, log_boxes
from genbench.standardization import Standardization

__all__ = ["GMM"]

CHUNK_NUMEL = 2**16  # elements of an intermediate result: 512 KiB, which fits in cache
MAX_EXACT_DIMS = 2  # up to which probabilities of integers are computed by quadrature
Covariance = Literal["full", "diagonal"]


class Mixture(NamedTuple):
    """Parameters of a mixture, float64: log pi (K,), mu (K, D), U (K, D, D) upper triangular."""

    log_pi: Tensor
    mu: Tensor
    U: Tensor

    def differences(self, x: Tensor) -> Tensor:
        """Return d = x - mu_k, x (B, D) -> (K, D, B)."""
        return x.T.contiguous() - self.mu[:, :, None]

    def log_joint(self, d: Tensor) -> Tensor:
        """Return log pi_k + log N(x | mu_k, Sigma_k) in nats, d (K, D, B) -> (K, B)."""
        z = self.U.mT @ d
        log_det = self.U.diagonal(dim1=1, dim2=2).log().sum(1)
        return (self.log_pi + log_det)[:, None] - 0.5 * (z.square().sum(1) + d.shape[1] * math.log(2 * math.pi))

    def chunks(self, x: Tensor) -> Iterator[Tensor]:
        """Return chunks of x (N, D) of at least 512 rows whose differences from all means fit in cache."""
        return iter(x.split(max(512, CHUNK_NUMEL // self.mu.numel())))

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) in nats, x (N, D) -> (N,)."""
        return torch.cat([self.log_joint(self.differences(chunk)).logsumexp(0) for chunk in self.chunks(x)])


def init_kmeans_plusplus(x: Tensor, components: int, floor: float) -> Mixture:
    """Return a mixture of equal weights, centered at distant points of x (N, D), with the variances of x around them.

    k-means++: The Advantages of Careful Seeding (2007).
    """
    from sklearn.cluster import kmeans_plusplus

    seed = int(torch.randint(2**31, ()))
    mu = torch.from_numpy(kmeans_plusplus(x.cpu().numpy(), components, random_state=seed)[0]).to(x)
    nearest = torch.cat([torch.cdist(chunk, mu).argmin(1) for chunk in x.split(max(1, CHUNK_NUMEL // components))])
    variance = (x - mu[nearest]).square().mean(0) + floor
    return Mixture(
        x.new_full((components,), -math.log(components)), mu, variance.rsqrt().diag().repeat(components, 1, 1)
    )


def em_step(x: Tensor, mixture: Mixture, floor: float, covariance: Covariance = "full") -> tuple[Mixture, float]:
    """Return the mixture after one EM step on x (N, D), and the mean log-likelihood in nats of the mixture before it.

    Moments are computed around the old means, one chunk of x at a time; `floor` is added to each variance.
    """
    K, D = mixture.mu.shape
    N, first, second = x.new_full((K,), 1e-10), x.new_zeros(K, D), x.new_zeros(K, D, D)
    nats = 0.0
    for chunk in mixture.chunks(x):
        d = mixture.differences(chunk)
        log_joint = mixture.log_joint(d)
        log_p = log_joint.logsumexp(0)
        r = (log_joint - log_p).exp()
        rd = r[:, None] * d
        N, first, second = N + r.sum(1), first + rd.sum(2), second.baddbmm(rd, d.mT)
        nats += log_p.sum().item()
    delta = first / N[:, None]
    Sigma = second / N[:, None, None] - delta[:, :, None] * delta[:, None] + floor * torch.eye(D).to(x)
    if covariance == "diagonal":
        Sigma = Sigma.diagonal(dim1=1, dim2=2).diag_embed()
    return Mixture((N / N.sum()).log(), mixture.mu + delta, precision_factor(Sigma)), nats / len(x)


def precision_factor(Sigma: Tensor) -> Tensor:
    """Return the upper triangular U with Sigma^-1 = U U^T, Sigma (..., D, D) -> (..., D, D)."""
    C = torch.linalg.cholesky(Sigma)
    inverse: Tensor = torch.linalg.solve_triangular(C, torch.eye(C.shape[-1]).to(C), upper=False)
    return inverse.mT


class GMM(Model):
    """A mixture of Gaussians fitted by expectation maximization or by gradient, in float64.

    The likelihood is exact for reals, which are standardized, and for integers in one or two dimensions or with
    diagonal covariances: the probability of an integer is the mass of its cell, and the outermost cells extend to
    infinity, as in sampling. For other integers it is a bound by uniform dequantization noise in [0, 1)^D. EM on
    integers always uses such noise.

    Args:
        components: number of components.
        covariance: "full" or "diagonal".
        fit: "em" fits in `fit_closed_form` and ignores training steps (use steps: 0); "gradient" maximizes the
            likelihood, starting from k-means++ on the first batch.
        floor: EM adds it to each variance, in standardized units or those of [0, 1)^D; with "gradient", conditional
            standard deviations are at least its square root.
        tolerance: EM stops when a step gains fewer nats per point,
        iterations: or after this many steps.
    """

    likelihood: Literal["exact", "bound", "estimate"] | None = "exact"
    initialized: Tensor

    def __init__(
        self,
        space: Space,
        *,
        components: int = 10,
        covariance: Covariance = "full",
        fit: Literal["em", "gradient"] = "em",
        floor: float = 1e-6,
        tolerance: float = 1e-4,
        iterations: int = 1000,
    ) -> None:
        super().__init__(space)
        K, D = components, space.dims
        self.fit, self.floor, self.tolerance, self.iterations = fit, floor, tolerance, iterations
        self.covariance: Covariance = covariance
        count = D * (D - 1) // 2 if covariance == "full" else 0
        self.logits = nn.Parameter(torch.zeros(K, dtype=torch.float64))
        self.mu = nn.Parameter(torch.randn(K, D, dtype=torch.float64))
        self.log_scales = nn.Parameter(torch.zeros(K, D, dtype=torch.float64))  # log of diag U
        self.off_diagonal = nn.Parameter(torch.zeros(K, count, dtype=torch.float64))  # entries of U above the diagonal
        self.register_buffer("initialized", torch.tensor(fit == "em"))
        self.exact = space.levels is None or covariance == "diagonal" or D <= MAX_EXACT_DIMS
        self.likelihood = "exact" if self.exact else "bound"
        if space.levels:
            self.dequantization = UniformDequantization(space)
        else:
            self.standardization = Standardization(space).double()

    @property
    def off_diagonal_indices(self) -> Tensor:
        """Indices of the non-zero entries of U above its diagonal, (2, count), row by row."""
        D = self.space.dims
        return torch.triu_indices(D, D, 1 if self.covariance == "full" else D, device=self.mu.device)

    @property
    def mixture(self) -> Mixture:
        """The mixture with the current parameters."""
        K, (i, j) = len(self.mu), self.off_diagonal_indices
        U = self.log_scales.clamp(max=-0.5 * math.log(self.floor)).exp().diag_embed()
        U = U.index_put((torch.arange(K)[:, None], i, j), self.off_diagonal)
        return Mixture(self.logits.log_softmax(0), self.mu, U)

    @torch.no_grad()
    def set_mixture(self, mixture: Mixture) -> None:
        """Set the parameters to `mixture`."""
        i, j = self.off_diagonal_indices
        self.logits.copy_(mixture.log_pi)
        self.mu.copy_(mixture.mu)
        self.log_scales.copy_(mixture.U.diagonal(dim1=1, dim2=2).log())
        self.off_diagonal.copy_(mixture.U[:, i, j])
        self.initialized.fill_(True)

    def to_reals(self, x: Tensor, draw: int = 0) -> tuple[Tensor, Tensor | float]:
        """Return x (B, *shape) as reals y (B, D), integers by noise number `draw`, and c: log p(x) = log p(y) - c."""
        if self.space.levels:
            x, log_q = self.dequantization(x, draw)
            return x.flatten(1).double(), log_q
        return self.standardization(x.double()).flatten(1), self.standardization.log_scale

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) in nats, x (B, *shape) -> (B,): of reals the density, of integers the mass or its bound."""
        if self.space.levels and self.exact:
            return self.log_mass(x.flatten(1))
        return self.bound(x)

    def log_mass(self, k: Tensor) -> Tensor:
        """Return the log-probability of the cells of integers in nats, k (B, D) -> (B,)."""
        log_pi, mu, U = self.mixture
        low, high = cell_bounds(k, self.dequantization.levels)
        return (log_pi[:, None] + log_boxes(low, high, mu, U, self.covariance == "diagonal")).logsumexp(0)

    def bound(self, x: Tensor, draw: int = 0) -> Tensor:
        """Return log p(x + u) - log q(u | x) in nats, u by noise number `draw`, x (B, *shape) -> (B,)."""
        x, log_q = self.to_reals(x, draw)
        return self.mixture.log_prob(x) - log_q

    def log_weights(self, x: Tensor, k: int, first: int = 0) -> Tensor:
        """Return k bounds with different u in nats, x (B, *shape) -> (k, B), or log p(x), (1, B), where it is exact."""
        if self.exact:
            return self.log_prob(x).unsqueeze(0)
        return torch.stack([self.bound(x, first + i) for i in range(k)])

    def encode(self, x: Tensor) -> Tensor:
        """Return the responsibilities p(k | x), x (B, *shape) -> (B, K)."""
        mixture = self.mixture
        return mixture.log_joint(mixture.differences(self.to_reals(x)[0])).softmax(0).T

    def sample(self, n: int) -> Tensor:
        """Return n samples (n, *shape); integers where `space.levels` is set."""
        log_pi, mu, U = self.mixture
        k, z = torch.multinomial(log_pi.exp(), n, replacement=True), torch.randn(n, mu.shape[1]).to(mu)
        inverse, size = U.inverse(), max(1, 16 * CHUNK_NUMEL // U[0].numel())  # of the gathered matrices: 8 MiB
        offsets = [part[:, None] @ inverse[i] for i, part in zip(k.split(size), z.split(size), strict=True)]
        x = mu[k] + torch.cat(offsets)[:, 0]
        x = x.view(n, *self.space.shape)
        return self.dequantization.inverse(x.float()) if self.space.levels else self.standardization.inverse(x).float()

    def loss(self, x: Tensor) -> Tensor:
        """Return the mean negative log-likelihood () in nats, x (B, *shape); the first batch initializes the means."""
        if not self.initialized:
            self.set_mixture(init_kmeans_plusplus(self.to_reals(x)[0], len(self.mu), self.floor))
        return super().loss(x)

    def configure_optimizers(self, optimizer: MakeOptimizer) -> list[OptimizedLoss | tuple[OptimizedLoss, ...]]:
        """Return the loss, or nothing if the fit is by EM."""
        return [] if self.fit == "em" else super().configure_optimizers(optimizer)

    def fit_closed_form(self, x: Tensor) -> None:
        """Fit by EM to the training split x (N, *shape), starting from k-means++; nothing if the fit is by gradient."""
        if self.fit == "gradient":
            return
        x, last = self.to_reals(x)[0], -math.inf
        mixture = init_kmeans_plusplus(x, len(self.mu), self.floor)
        for _ in range(self.iterations):
            after, nats = em_step(x, mixture, self.floor, self.covariance)
            if nats - last < self.tolerance:
                break
            mixture, last = after, nats
        self.set_mixture(mixture)
