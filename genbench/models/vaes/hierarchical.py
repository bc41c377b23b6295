"""Hierarchical VAEs: several layers of latents, drawn from the top down by prior and posterior alike."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from genbench.dataset import Space
from genbench.models.observations import ObservationName, observation_of
from genbench.models.vaes.latent import Draw, LatentModel, Warmup, draw
from genbench.nets.activations import Activation
from genbench.nets.mlp import mlp
from genbench.nets.precision import at_least_float32

__all__ = ["HierarchicalVAE"]

Choose = Callable[[Tensor, Tensor], Draw]


def middle(mu: Tensor, logvar: Tensor) -> Draw:
    """Return the mean as if it were drawn, mu and logvar (B, Z)."""
    return Draw(mu[None], mu, logvar, torch.zeros_like(mu)[None], mu.new_zeros(len(mu)))


class Layer(nn.Module):
    """One stochastic layer: z = mu_p(d) + sigma_p(d) u, u ~ N(0, I), d' = d + W z and d' + f(d'), d the state above."""

    def __init__(self, size: int, width: int, activation: Activation, dropout: float) -> None:
        super().__init__()
        self.size = size
        self.prior = mlp(width, 2 * size, (), zero=True)
        self.W = nn.Linear(size, width)
        self.f = mlp(width, width, (width,), activation=activation, dropout=dropout)

    def forward(self, d: Tensor, u: Tensor) -> Tensor:
        """Return the state below, d (N, width), u (N, size) -> (N, width)."""
        mu, log_sigma = self.prior(d).chunk(2, -1)
        d = d + self.W(mu + log_sigma.exp() * u)
        below: Tensor = d + self.f(d)
        return below


class TopDown(nn.Module):
    """The layers in order from the top, where the state is a learned constant."""

    def __init__(self, sizes: tuple[int, ...], width: int, activation: Activation, dropout: float) -> None:
        super().__init__()
        self.top = nn.Parameter(0.1 * torch.randn(width))
        self.layers = nn.ModuleList(Layer(size, width, activation, dropout) for size in sizes)
        self.sizes = sizes

    def forward(self, u: Tensor) -> Tensor:
        """Return the state at the bottom, u (N, sum of sizes) -> (N, width)."""
        d = self.top.expand(len(u), -1)
        for layer, part in zip(self.layers, u.split(self.sizes, -1), strict=True):
            d = layer(d, part)
        return d


class HierarchicalVAE(LatentModel):
    """A VAE of two or more stochastic layers with a top-down posterior, conditioned on x from the bottom up.

    Ladder Variational Autoencoders (2016), eq. 8 to 15; NVAE (2020), section 3.2, whose posterior is relative to the
    prior: z_l = mu_p + sigma_p u_l and q(u_l | x, u_above) = N(mu, e^logvar), so that the KL of a layer given those
    above it is that of q(u_l) from N(0, I). All u together are the latents of the family, and have its bounds. In the
    first `warmup` steps the weight of the rate in the loss rises from 0 to 1 (Ladder VAE, section 3), and the loss does
    not count the first `free` nats of each layer (Improved Variational Inference with Inverse Autoregressive Flow,
    2016, eq. 15), lest layers go unused. The likelihood is the ELBO as it is.
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
        """`layers`: latents of each layer, from the top down; `width`: of the states and of every hidden layer."""
        p_x = observation_of(space, observation, sigma)
        down = TopDown(layers, width, activation, dropout)
        decoder = nn.Sequential(down, *mlp(width, p_x.parameters * space.dims, (width,), activation=activation))
        super().__init__(space, sum(layers), p_x, decoder)
        inputs = (space.dims, *[width] * len(layers))
        self.warmup, self.free = Warmup(warmup), free
        self.up = nn.ModuleList(
            mlp(a, b, (width,), activation=activation, dropout=dropout) for a, b in pairwise(inputs)
        )
        self.heads = nn.ModuleList(mlp(2 * width, 2 * size, (width,), activation=activation) for size in layers)

    @property
    def down(self) -> TopDown:
        """The decoder's path through the layers."""
        first = self.decoder[0]
        assert isinstance(first, TopDown)
        return first

    def climbed(self, x: Tensor) -> list[Tensor]:
        """Return the deterministic features of x (B, *shape), each (B, width), the topmost first."""
        features = [self.up[0](self.scaled(x).flatten(1))]
        for up in self.up[1:]:
            features.append(features[-1] + up(features[-1]))
        return features[::-1]

    def descended(self, features: list[Tensor], choose: Choose) -> list[Draw]:
        """Return what `choose` makes of q(u_l | x, u_above), layer by layer from the top; features (N, width)."""
        d, draws = self.down.top.expand(len(features[0]), -1), list[Draw]()
        for layer, head, h in zip(self.down.layers, self.heads, features, strict=True):
            draws.append(choose(*at_least_float32(head(torch.cat((d, h), -1))).chunk(2, -1)))
            d = layer(d, draws[-1].z[0])
        return draws

    def infer(self, x: Tensor, k: int = 1) -> Draw:
        """Return k draws of q(u | x), x (B, *shape)."""
        draws = self.descended([h.repeat(k, 1) for h in self.climbed(x)], draw)
        z, mu, logvar, eps = (
            torch.cat([part.view(k, -1, part.shape[-1]) for part in parts], -1)
            for parts in zip(*(each[:4] for each in draws), strict=True)
        )
        return Draw(z, mu, logvar, eps, torch.stack([each.kl for each in draws]).sum(0).view(k, -1))

    def loss(self, x: Tensor) -> Tensor:
        """Return distortion + beta * sum_l max(free, KL_l), x (B, *shape) -> () nats; beta rises to 1 at first."""
        drawn = self.infer(x)
        kl = 0.5 * (drawn.mu**2 + (torch.expm1(drawn.logvar) - drawn.logvar))
        rates = torch.stack([part.sum(-1).mean() for part in kl.split(self.down.sizes, -1)])
        beta: Tensor = self.warmup()
        return beta * rates.clamp(min=self.free).sum() - self.log_likelihood(x, drawn.z).mean()

    def encode(self, x: Tensor) -> Tensor:
        """Return the means of q, those of a layer given the means above it, x (B, *shape) -> (B, Z)."""
        return torch.cat([each.mu for each in self.descended(self.climbed(x), middle)], -1)
