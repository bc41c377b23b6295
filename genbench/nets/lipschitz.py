"""Contractions: networks with a Lipschitz constant below 1, and their derivatives along given directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, linear, softplus

Shape = tuple[int, ...]


class LipSwish(nn.Module):
    """a -> a sigmoid(beta a) / 1.1, beta > 0 learned: its slope is below 1 (Residual Flows, 2019, section 3.3)."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.tensor(0.5))

    def forward(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Return phi(a) and phi'(a)."""
        beta = softplus(self.raw)
        s = (beta * a).sigmoid()
        y = a * s / 1.1
        return y, torch.addcmul(s / 1.1, beta * y, 1 - s)


class NormBounded(nn.Module):
    """A linear map, or a 3x3 convolution of images of one size, with norm at most `bound`: min(1, bound / sigma) W.

    sigma = u^T W v, with u and v by power iteration on the map itself (Invertible Residual Networks, 2019, section
    2.1): a few steps per call in training, many when it is set to evaluation. The norm of a convolution differs from
    that of its weight as a matrix, which spectral normalization in GANs uses.
    """

    u: Tensor
    v: Tensor

    def __init__(self, layer: nn.Linear | nn.Conv2d, shape: Shape, *, bound: float, iterations: int = 2) -> None:
        super().__init__()
        self.layer, self.bound, self.iterations = layer, bound, iterations
        dense = isinstance(layer, nn.Linear)
        self.map: Callable[..., Tensor] = linear if dense else partial(conv2d, padding=1)
        self.transposed: Callable[..., Tensor] = torch.matmul if dense else partial(conv_transpose2d, padding=1)
        self.register_buffer("v", torch.randn(1, *shape))
        self.register_buffer("u", torch.zeros_like(self.map(self.v, layer.weight)))
        self.power_iteration(20)

    @torch.no_grad()
    def power_iteration(self, n: int) -> None:
        """Take n steps of the power iteration."""
        for _ in range(n):
            self.u.copy_(normalized(self.map(self.v, self.layer.weight)))
            self.v.copy_(normalized(self.transposed(self.u, self.layer.weight)))

    def train(self, mode: bool = True) -> Self:
        if not mode:
            self.power_iteration(100)
        return super().train(mode)

    def weight(self) -> Tensor:
        """Return the scaled weight."""
        if self.training:
            self.power_iteration(self.iterations)
        sigma = (self.u.clone() * self.map(self.v.clone(), self.layer.weight)).sum()
        return self.layer.weight * (self.bound / sigma).clamp(max=1)


def normalized(x: Tensor) -> Tensor:
    """Return x / |x|."""
    norm: Tensor = torch.linalg.vector_norm(x)
    return x / norm.clamp_min(1e-12)


class LipschitzNet(nn.Module):
    """g(x), x (B, *shape) -> as x, norm-bounded layers with LipSwish between: its constant is below `bound`^layers.

    Invertible Residual Networks (2019), theorem 1.
    """

    def __init__(self, layers: Sequence[nn.Linear | nn.Conv2d], positions: Shape = (), *, bound: float = 0.98) -> None:
        super().__init__()
        inputs = [layer.weight.shape[1] for layer in layers]
        pairs = zip(layers, inputs, strict=True)
        bounded = [NormBounded(layer, (n, *positions), bound=bound) for layer, n in pairs]
        self.layers, self.map = nn.ModuleList(bounded), bounded[0].map
        self.activations = nn.ModuleList(LipSwish() for _ in layers[1:])

    def weights(self) -> list[Tensor]:
        """Return the scaled weight of each layer."""
        return [layer.weight() for layer in self.layers if isinstance(layer, NormBounded)]

    def forward(self, x: Tensor, weights: list[Tensor] | None = None) -> Tensor:
        """Return g(x); pass the result of `weights()` to apply g repeatedly without recomputing them."""
        return self.linearize(x, weights)[0]

    def linearize(self, x: Tensor, weights: list[Tensor] | None = None) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return g(x) and v -> J v, J = dg/dx, for v (K, B, *shape), or (K, 1, *shape) the same for all points."""
        weights = weights or self.weights()
        slopes: list[Tensor] = []
        for i, (layer, W) in enumerate(zip(self.layers, weights, strict=True)):
            assert isinstance(layer, NormBounded)
            if i:
                x, slope = self.activations[i - 1](x)
                slopes.append(slope)
            x = self.map(x, W, layer.layer.bias)
        return x, partial(_jvp, self.map, weights, slopes)


def _jvp(map: Callable[..., Tensor], weights: list[Tensor], slopes: list[Tensor], v: Tensor) -> Tensor:
    """Return J v, J = W_n diag(slope) .. W_2 diag(slope) W_1."""
    for i, W in enumerate(weights):
        v = slopes[i - 1] * v if i else v
        v = map(v.flatten(0, 1), W).unflatten(0, (len(v), -1))
    return v


def dense_lipschitz(shape: Shape, hidden: Sequence[int], *, bound: float = 0.98) -> LipschitzNet:
    """Return a perceptron of vectors (B, D)."""
    [D] = shape
    return LipschitzNet([nn.Linear(a, b) for a, b in pairwise((D, *hidden, D))], bound=bound)


def convolutional_lipschitz(shape: Shape, channels: Sequence[int], *, bound: float = 0.98) -> LipschitzNet:
    """Return 3x3 convolutions of images (B, *shape)."""
    C, *positions = shape
    layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise((C, *channels, C))]
    return LipschitzNet(layers, tuple(positions), bound=bound)
