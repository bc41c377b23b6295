"""Autoencoders z = f(x), x ~ g(z): plain, denoising, sparse and contractive.

Reducing the Dimensionality of Data with Neural Networks (2006): the loss is the reconstruction error of g(f(x)), the
cross-entropy for data of two levels and squared error otherwise, summed over dimensions. Data are centered and scaled
(`Standardized`), and squared errors are in those units. There is no likelihood.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, linear

from genbench.dataset import Space
from genbench.models.standardized import Standardized
from genbench.nets.activations import Activation
from genbench.nets.coders import NetworkName, Networks
from genbench.nets.precision import at_least_float32, full_precision

__all__ = ["Autoencoder", "Contractive", "Denoising", "Sparse"]

CodeActivation = Literal["linear", "relu", "sigmoid"]
Penalty = Literal["kl", "l1"]

CODE_ACTIVATIONS: dict[CodeActivation, type[nn.Module]] = {
    "linear": nn.Identity,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
}
MIN_ACTIVATION = 1e-6  # distance of a mean activation from 0 and 1


class BaseAutoencoder(Standardized):
    """An encoder, a decoder and a reconstruction error.

    Samples are g(z), z from the Gaussian N(m, L L^T) that `fit_closed_form` fits to the codes of the training split;
    they are poor where codes are far from Gaussian. For data of two levels, g(z) is the probability of 1 and samples
    are Bernoulli draws; for other integers, the level nearest to g(z).

    Attributes:
        encoder: x (B, *shape), centered and scaled, -> z (B, latent).
        decoder: z (B, latent) -> (B, D): logits for data of two levels, else x, centered and scaled.
    """

    m: Tensor
    L: Tensor

    def __init__(self, space: Space, latent: int, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__(space)
        self.latent, self.encoder, self.decoder = latent, encoder, decoder
        self.register_buffer("m", torch.zeros(latent))
        self.register_buffer("L", torch.eye(latent))

    def encode(self, x: Tensor) -> Tensor:
        """Return f(x), x (B, *shape) in data units -> (B, latent)."""
        return at_least_float32(self.encoder(self.scaled(x)))

    def decoder_output(self, z: Tensor) -> Tensor:
        """Return the output of the decoder, z (B, latent) -> (B, *shape)."""
        return at_least_float32(self.decoder(z)).view(-1, *self.space.shape)

    def decode(self, z: Tensor) -> Tensor:
        """Return g(z) in data units, z (B, latent) -> (B, *shape) float."""
        y = self.decoder_output(z)
        return y.sigmoid() if self.space.levels == 2 else self.standardization.inverse(y)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return g(f(x)) in data units, x (B, *shape) -> (B, *shape) float."""
        return self.decode(self.encode(x))

    def error(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the reconstruction error, x (B, *shape), z (B, latent) -> (B,): nats for two levels, else squares."""
        y = self.decoder_output(z)
        if self.space.levels == 2:
            return binary_cross_entropy_with_logits(y, x.to(y.dtype), reduction="none").flatten(1).sum(1)
        return (y - self.scaled(x)).square().flatten(1).sum(1)

    def loss(self, x: Tensor) -> Tensor:
        """Return the mean reconstruction error (), x (B, *shape)."""
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
        eps = torch.randn(n, self.latent, device=self.device, dtype=self.m.dtype)
        x = self.decode(self.m + eps @ self.L.T)
        return self.space.to_levels(torch.bernoulli(x) if self.space.levels == 2 else x)


class Autoencoder(BaseAutoencoder):
    """The autoencoder. With `hidden` empty it is linear, and its optimum spans the principal subspace.

    Neural networks and principal component analysis (Baldi and Hornik, 1989).

    Args:
        latent: dimension of the code.
        code: activation of the encoder's last layer.
        hidden: widths from data to code; the decoder uses them in reverse.
    """

    def __init__(
        self,
        space: Space,
        *,
        latent: int = 16,
        code: CodeActivation = "linear",
        network: NetworkName = "mlp",
        hidden: tuple[int, ...] = (256, 256),
        channels: int = 32,
        activation: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        networks = Networks(network, hidden, channels, activation, dropout)
        encoder = nn.Sequential(*networks.encoder(space, latent), CODE_ACTIVATIONS[code]())
        super().__init__(space, latent, encoder, networks.decoder(space, latent, 1))


class Denoising(Autoencoder):
    """The denoising autoencoder: x is reconstructed from x + sigma eps, eps ~ N(0, I).

    Extracting and Composing Robust Features with Denoising Autoencoders (2008), eq. 4, with Gaussian corruption.

    Args:
        sigma: standard deviation of the noise, in data units (levels for integers).
        **options: of `Autoencoder`.
    """

    def __init__(self, space: Space, *, sigma: float, **options: Any) -> None:
        super().__init__(space, **options)
        self.sigma = sigma

    def loss(self, x: Tensor) -> Tensor:
        """Return the mean error () of g(f(x + sigma eps)) as a reconstruction of x (B, *shape)."""
        y = self.scaled(x)
        z = self.encoder(y + self.sigma / self.scale * torch.randn_like(y))
        return self.error(x, z).mean()


def kl_sparsity(z: Tensor, rho: float) -> Tensor:
    """Return sum_j KL(rho || mean_b z_bj) between Bernoulli distributions, in nats (), z (B, Z) in (0, 1)."""
    mean = z.mean(0).clamp(MIN_ACTIVATION, 1 - MIN_ACTIVATION)
    return (rho * (rho / mean).log() + (1 - rho) * ((1 - rho) / (1 - mean)).log()).sum()


class Sparse(Autoencoder):
    """The sparse autoencoder: few units of the code are active for any one point; there may be more than D units.

    Penalties: "kl", for sigmoid units whose mean over a batch should be rho (Lee, Ekanadham and Ng, Sparse deep belief
    net model for visual area V2, 2007; Ng, Sparse autoencoder, 2011, with the KL); "l1", sum_j z_j of rectified units
    (Olshausen and Field, Emergence of simple-cell receptive field properties, 1996). The decoder can evade "l1" by
    large weights and small codes, so combine it with weight decay.

    Args:
        weight: of the penalty.
        rho: target of the mean activation, for "kl".
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
        """Return the mean error plus the weighted penalty (), x (B, *shape)."""
        z = self.encode(x)
        penalty = kl_sparsity(z, self.rho) if self.penalty == "kl" else z.sum(1).mean()
        return self.error(x, z).mean() + self.weight * penalty


class TiedDecoder(nn.Module):
    """z -> W^T z + c, W (Z, D) the weight of `layer`."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.c = nn.Parameter(torch.zeros(layer.in_features))

    def forward(self, z: Tensor) -> Tensor:
        """Return W^T z + c, z (B, Z) -> (B, D)."""
        return linear(z, self.layer.weight.T, self.c)


class Contractive(BaseAutoencoder):
    """The contractive autoencoder: z = sigmoid(W x + b), g(z) = W^T z + c, with a penalty on the encoder's Jacobian J.

    Contractive Auto-Encoders: Explicit Invariance During Feature Extraction (2011), eq. 4 and 9: the loss is the
    error + weight |J|_F^2, |J|_F^2 = sum_j (z_j (1 - z_j))^2 sum_i W_ji^2, x centered and scaled.
    """

    def __init__(self, space: Space, *, latent: int = 128, weight: float = 0.1) -> None:
        layer = nn.Linear(space.dims, latent)
        super().__init__(space, latent, nn.Sequential(nn.Flatten(), layer, nn.Sigmoid()), TiedDecoder(layer))
        self.layer, self.weight = layer, weight

    def squared_jacobian_norm(self, z: Tensor) -> Tensor:
        """Return |J|_F^2 of the encoder, as a function of the code z (B, latent) -> (B,)."""
        with full_precision(z):
            return (z * (1 - z)).square() @ self.layer.weight.square().sum(1)

    def loss(self, x: Tensor) -> Tensor:
        """Return the mean error plus the weighted penalty (), x (B, *shape)."""
        z = self.encode(x)
        return (self.error(x, z) + self.weight * self.squared_jacobian_norm(z)).mean()
