"""Hierarchical VAEs: several layers of latents; prior and posterior both sample them from the top down."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from genbench.dataset import Space
from genbench.models.observations import ObservationName, observation_of
from genbench.models.vaes.latent import LatentModel, PosteriorSample, Warmup, sample_posterior
from genbench.nets.activations import Activation
from genbench.nets.mlp import mlp
from genbench.nets.precision import at_least_float32

__all__ = ["HierarchicalVAE"]

Sampler = Callable[[Tensor, Tensor], PosteriorSample]  # of mu and logvar


def posterior_mean(mu: Tensor, logvar: Tensor) -> PosteriorSample:
    """Return the mean in place of a sample, mu and logvar (B, Z)."""
    return PosteriorSample(mu[None], mu, logvar, torch.zeros_like(mu)[None], mu.new_zeros(len(mu)))


class StochasticLayer(nn.Module):
    """z = mu_p(d) + sigma_p(d) u, u ~ N(0, I), and the next state d' + f(d'), d' = d + W z, d the state from above."""

    def __init__(self, size: int, width: int, activation: Activation, dropout: float) -> None:
        super().__init__()
        self.size = size
        self.prior = mlp(width, 2 * size, (), zero=True)
        self.W = nn.Linear(size, width)
        self.f = mlp(width, width, (width,), activation=activation, dropout=dropout)

    def forward(self, d: Tensor, u: Tensor) -> Tensor:
        """Return the state of the next layer, d (N, width), u (N, size) -> (N, width)."""
        mu, log_sigma = self.prior(d).chunk(2, -1)
        d = d + self.W(mu + log_sigma.exp() * u)
        below: Tensor = d + self.f(d)
        return below


class TopDownNetwork(nn.Module):
    """The stochastic layers, top layer first; the state at the top is a learned constant."""

    def __init__(self, sizes: tuple[int, ...], width: int, activation: Activation, dropout: float) -> None:
        super().__init__()
        self.top = nn.Parameter(0.1 * torch.randn(width))
        self.layers = nn.ModuleList(StochasticLayer(size, width, activation, dropout) for size in sizes)
        self.sizes = sizes

    def forward(self, u: Tensor) -> Tensor:
        """Return the state at the bottom, u (N, sum of sizes) -> (N, width)."""
        d = self.top.expand(len(u), -1)
        for layer, part in zip(self.layers, u.split(self.sizes, -1), strict=True):
            d = layer(d, part)
        return d


class HierarchicalVAE(LatentModel):
    """A VAE of several stochastic layers with a top-down posterior that is conditioned on bottom-up features of x.

    Ladder Variational Autoencoders (2016), eq. 8 to 15; NVAE (2020), section 3.2, whose posterior is relative to the
    prior: z_l = mu_p + sigma_p u_l and q(u_l | x, u_above) = N(mu, e^logvar), so that the KL of a layer given those
    above it is that of q(u_l) from N(0, I). All u together are the latents of a `LatentModel`, with its bounds.

    In the first `warmup` steps the weight of the rate in the loss rises from 0 to 1 (Ladder VAE, section 3), and the
    loss ignores the first `free` nats of each layer (Improved Variational Inference with Inverse Autoregressive Flow,
    2016, eq. 15); both prevent unused layers. The likelihood is the plain ELBO.
    """

    def __init__(
        self,
        space: Space,
        *,
        layers: tuple[int, ...] = (8, 16),
        width: int = 256,
        warmup: int = 400,
        free: float = 4.0,
        observation: ObservationName = "auto",
        sigma: float | None = None,
        activation: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        """`layers`: number of latents of each layer, top layer first; `width`: of states and hidden layers."""
        p_x = observation_of(space, observation, sigma)
        down = TopDownNetwork(layers, width, activation, dropout)
        decoder = nn.Sequential(down, *mlp(width, p_x.parameters * space.dims, (width,), activation=activation))
        super().__init__(space, sum(layers), p_x, decoder)
        inputs = (space.dims, *[width] * len(layers))
        self.warmup, self.free = Warmup(warmup), free
        self.up = nn.ModuleList(
            mlp(a, b, (width,), activation=activation, dropout=dropout) for a, b in pairwise(inputs)
        )
        self.heads = nn.ModuleList(mlp(2 * width, 2 * size, (width,), activation=activation) for size in layers)

    @property
    def down(self) -> TopDownNetwork:
        """The stochastic layers of the decoder."""
        first = self.decoder[0]
        assert isinstance(first, TopDownNetwork)
        return first

    def bottom_up(self, x: Tensor) -> list[Tensor]:
        """Return deterministic features of x (B, *shape), one tensor (B, width) for each layer, top layer first."""
        features = [self.up[0](self.scaled(x).flatten(1))]
        for up in self.up[1:]:
            features.append(features[-1] + up(features[-1]))
        return features[::-1]

    def top_down(self, features: list[Tensor], sampler: Sampler) -> list[PosteriorSample]:
        """Return samples of q(u_l | x, u_above) by `sampler`, top layer first; features (N, width) of each layer."""
        d, samples = self.down.top.expand(len(features[0]), -1), list[PosteriorSample]()
        for layer, head, h in zip(self.down.layers, self.heads, features, strict=True):
            samples.append(sampler(*at_least_float32(head(torch.cat((d, h), -1))).chunk(2, -1)))
            d = layer(d, samples[-1].z[0])
        return samples

    def infer(self, x: Tensor, k: int = 1) -> PosteriorSample:
        """Return k samples of q(u | x), x (B, *shape)."""
        layers = self.top_down([h.repeat(k, 1) for h in self.bottom_up(x)], sample_posterior)
        z, mu, logvar, eps = (
            torch.cat([part.view(k, -1, part.shape[-1]) for part in parts], -1)
            for parts in zip(*(layer[:4] for layer in layers), strict=True)
        )
        return PosteriorSample(z, mu, logvar, eps, torch.stack([layer.kl for layer in layers]).sum(0).view(k, -1))

    def loss(self, x: Tensor) -> Tensor:
        """Return distortion + beta * sum_l max(free, KL_l) in nats, x (B, *shape) -> (); beta is the warm-up weight."""
        samples = self.infer(x)
        kl = 0.5 * (samples.mu**2 + (torch.expm1(samples.logvar) - samples.logvar))
        rates = torch.stack([part.sum(-1).mean() for part in kl.split(self.down.sizes, -1)])
        beta: Tensor = self.warmup()
        return beta * rates.clamp(min=self.free).sum() - self.log_likelihood(x, samples.z).mean()

    def encode(self, x: Tensor) -> Tensor:
        """Return the means of q, each layer given the means above it, x (B, *shape) -> (B, Z)."""
        return torch.cat([layer.mu for layer in self.top_down(self.bottom_up(x), posterior_mean)], -1)
