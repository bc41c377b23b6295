"""Autoencoders: a code z = f(x) and a decoder g that finds x from it; denoising, sparse and contractive ones.

Reducing the Dimensionality of Data with Neural Networks (2006): the error of g(f(x)) is made small, cross-entropy
where data have two levels and squares otherwise, summed over dimensions; data are centred and scaled (`Centred`),
squares are in those units. There is no likelihood.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, linear

from genbench.dataset import Space
from genbench.models.centring import Centred
from genbench.nets.activations import Activation
from genbench.nets.coders import NetworkName, Networks
from genbench.nets.precision import at_least_float32, full_precision

__all__ = ["Autoencoder", "Contractive", "Denoising", "Sparse"]

Code = Literal["linear", "relu", "sigmoid"]
Penalty = Literal["kl", "l1"]

CODES: dict[Code, type[nn.Module]] = {"linear": nn.Identity, "relu": nn.ReLU, "sigmoid": nn.Sigmoid}
EDGE = 1e-6  # of a mean activation


class Coder(Centred):
    """What the family shares: an encoder, a decoder, an error.

    It samples g(z), z of the Gaussian N(m, L L^T) that `fit_closed_form` fits to the codes of the training split: where
    those are far from Gaussian, so are its samples from the data. Data of two levels are coins of mean g(z), other
    integers the level nearest to it.

    Attributes:
        encoder: x (B, *shape), centred and scaled, -> z (B, latent).
        decoder: z (B, latent) -> (B, D): logits where data have two levels, else x, centred and scaled.
    """

    m: Tensor
    L: Tensor

    def __init__(self, space: Space, latent: int, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__(space)
        self.latent, self.encoder, self.decoder = latent, encoder, decoder
        self.register_buffer("m", torch.zeros(latent))
        self.register_buffer("L", torch.eye(latent))

    def encode(self, x: Tensor) -> Tensor:
        """Return f(x), x (B, *shape) in the data's own units -> (B, latent)."""
        return at_least_float32(self.encoder(self.scaled(x)))

    def output(self, z: Tensor) -> Tensor:
        """Return what the decoder makes of z (B, latent), as (B, *shape)."""
        return at_least_float32(self.decoder(z)).view(-1, *self.space.shape)

    def decode(self, z: Tensor) -> Tensor:
        """Return g(z) in the data's own units, z (B, latent) -> (B, *shape) float."""
        y = self.output(z)
        return y.sigmoid() if self.space.levels == 2 else self.standardization.inverse(y)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return g(f(x)), x (B, *shape) -> as x, float, in the data's own units."""
        return self.decode(self.encode(x))

    def error(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the error of g(z) as x (B, *shape), z (B, latent) -> (B,): nats for two levels, else squares."""
        y = self.output(z)
        if self.space.levels == 2:
            return binary_cross_entropy_with_logits(y, x.to(y.dtype), reduction="none").flatten(1).sum(1)
        return (y - self.scaled(x)).square().flatten(1).sum(1)

    def loss(self, x: Tensor) -> Tensor:
        """Return the mean error (), x (B, *shape)."""
        return self.error(x, self.encode(x)).mean()

    @torch.no_grad()
    def fit_closed_form(self, x: Tensor) -> None:
        """Fit N(m, L L^T) to the codes of the training split x (N, *shape)."""
        self.eval()  # no dropout
        z = torch.cat([self.encode(batch) for batch in x.split(1024)]).double()
        cov = torch.cov(z.T, correction=0).view(self.latent, -1)
        values, vectors = torch.linalg.eigh(cov)
        self.m.copy_(z.mean(0)), self.L.copy_(vectors * values.clamp(min=0).sqrt())

    def sample(self, n: int) -> Tensor:
        """Return n samples (n, *shape) of g(z), z ~ N(m, L L^T)."""
        x = self.decode(self.m + torch.randn(n, self.latent, device=self.m.device, dtype=self.m.dtype) @ self.L.T)
        if not self.space.levels:
            return x
        x = torch.bernoulli(x) if self.space.levels == 2 else x.round().clamp(0, self.space.levels - 1)
        return x.to(torch.uint8 if self.space.levels <= 256 else torch.int64)


class Autoencoder(Coder):
    """The autoencoder. With `hidden` empty it is linear, and its optimum spans the principal subspace.

    Neural networks and principal component analysis (Baldi and Hornik, 1989).

    Args:
        latent: numbers in a code.
        code: what a code is made to be by its last layer.
        hidden: widths from data to code; the decoder has them in reverse.
    """

    def __init__(
        self,
        space: Space,
        *,
        latent: int = 16,
        code: Code = "linear",
        network: NetworkName = "mlp",
        hidden: tuple[int, ...] = (256, 256),
        channels: int = 32,
        activation: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        networks = Networks(network, hidden, channels, activation, dropout)
        encoder = nn.Sequential(*networks.encoder(space, latent), CODES[code]())
        super().__init__(space, latent, encoder, networks.decoder(space, latent, 1))


class Denoising(Autoencoder):
    """The denoising autoencoder: x is found from x + sigma eps, eps ~ N(0, I).

    Extracting and Composing Robust Features with Denoising Autoencoders (2008), eq. 4, with Gaussian corruption.

    Args:
        sigma: of the noise, in the data's own units: levels of integers.
        **options: as `Autoencoder` takes them.
    """

    def __init__(self, space: Space, *, sigma: float, **options: Any) -> None:
        super().__init__(space, **options)
        self.sigma = sigma

    def loss(self, x: Tensor) -> Tensor:
        """Return the mean error () of g(f(x + sigma eps)) as x (B, *shape)."""
        y = self.scaled(x)
        z = self.encoder(y + self.sigma / self.scale * torch.randn_like(y))
        return self.error(x, z).mean()


def sparsity(z: Tensor, rho: float) -> Tensor:
    """Return sum_j KL(rho || mean_b z_bj) in nats (), z (B, Z) in (0, 1), of coins of those means."""
    mean = z.mean(0).clamp(EDGE, 1 - EDGE)
    return (rho * (rho / mean).log() + (1 - rho) * ((1 - rho) / (1 - mean)).log()).sum()


class Sparse(Autoencoder):
    """The sparse autoencoder: few units of a code are active for any one point; there may be more than D.

    Penalties: "kl", of sigmoid units whose mean over a batch should be rho (Lee, Ekanadham and Ng, Sparse deep belief
    net model for visual area V2, 2007; Ng, Sparse autoencoder, 2011, with the KL); "l1", sum_j z_j of rectified units
    (Olshausen and Field, Emergence of simple-cell receptive field properties, 1996), which a decoder of large weights
    escapes by small codes: give it weight decay.

    Args:
        weight: of the penalty, beside the error.
        rho: the mean activation that is asked for; "l1" has none.
    """

    def __init__(
        self,
        space: Space,
        *,
        latent: int = 128,
        penalty: Penalty = "kl",
        weight: float = 0.5,
        rho: float = 0.05,
        network: NetworkName = "mlp",
        hidden: tuple[int, ...] = (256,),
        channels: int = 32,
        activation: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            space, latent=latent, code="sigmoid" if penalty == "kl" else "relu", network=network, hidden=hidden,
            channels=channels, activation=activation, dropout=dropout,
        )  # fmt: skip
        self.penalty, self.weight, self.rho = penalty, weight, rho

    def loss(self, x: Tensor) -> Tensor:
        """Return the mean error and the penalty (), x (B, *shape)."""
        z = self.encode(x)
        penalty = sparsity(z, self.rho) if self.penalty == "kl" else z.sum(1).mean()
        return self.error(x, z).mean() + self.weight * penalty


class Tied(nn.Module):
    """z -> W^T z + c, W (Z, D) the weight of `layer`."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.c = nn.Parameter(torch.zeros(layer.in_features))

    def forward(self, z: Tensor) -> Tensor:
        """Return W^T z + c, z (B, Z) -> (B, D)."""
        return linear(z, self.layer.weight.T, self.c)


class Contractive(Coder):
    """The contractive autoencoder: z = sigmoid(W x + b), g(z) = W^T z + c, and a code that moves little with x.

    Contractive Auto-Encoders: Explicit Invariance During Feature Extraction (2011), eq. 4 and 9: the loss is the
    error + weight |J|_F^2, |J|_F^2 = sum_j (z_j (1 - z_j))^2 sum_i W_ji^2, x centred and scaled.
    """

    def __init__(self, space: Space, *, latent: int = 128, weight: float = 0.1) -> None:
        layer = nn.Linear(space.dims, latent)
        super().__init__(space, latent, nn.Sequential(nn.Flatten(), layer, nn.Sigmoid()), Tied(layer))
        self.layer, self.weight = layer, weight

    def contraction(self, z: Tensor) -> Tensor:
        """Return |J|_F^2 of the encoder where its code is z, (B, latent) -> (B,)."""
        with full_precision(z):
            return (z * (1 - z)).square() @ self.layer.weight.square().sum(1)

    def loss(self, x: Tensor) -> Tensor:
        """Return the mean error and the penalty (), x (B, *shape)."""
        z = self.encode(x)
        return (self.error(x, z) + self.weight * self.contraction(z)).mean()
