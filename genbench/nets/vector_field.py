"""Vector fields of ODEs: networks of a point and a time, and their derivatives along given directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, softplus

from genbench.nets.activations import zeroed

Smooth = Literal["tanh", "softplus", "silu"]
Timing = Literal["concat", "concatsquash"]


def _tanh(a: Tensor) -> tuple[Tensor, Tensor]:
    y = a.tanh()
    return y, 1 - y * y


def _silu(a: Tensor) -> tuple[Tensor, Tensor]:
    s = a.sigmoid()
    y = a * s
    return y, s + y * (1 - s)


SMOOTH: dict[Smooth, Callable[[Tensor], tuple[Tensor, Tensor]]] = {  # a -> phi(a), phi'(a)
    "tanh": _tanh,
    "softplus": lambda a: (softplus(a), a.sigmoid()),
    "silu": _silu,
}


class TimeDependent(nn.Module):
    """An affine map, linear or convolution, that depends on time (FFJORD, 2019, and its code).

    concat: W x + b + t c, time as one more input.
    concatsquash: (W x + b) sigmoid(t g + h) + t c, for each output.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, timing: Timing) -> None:
        super().__init__()
        outputs = len(layer.weight)
        self.layer = layer
        self.c = nn.Parameter(torch.zeros(outputs))
        if timing == "concatsquash":
            self.g = nn.Parameter(2 * torch.rand(outputs) - 1)
            self.h = nn.Parameter(torch.zeros(outputs))
        self.timing = timing

    def weight_and_bias(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight and bias at time t ()."""
        W, b = self.layer.weight, self.layer.bias
        assert b is not None
        if self.timing == "concat":
            return W, torch.addcmul(b, t, self.c)
        gate = torch.addcmul(self.h, t, self.g).sigmoid()
        return W * gate.view(-1, *[1] * (W.ndim - 1)), torch.addcmul(gate * b, t, self.c)


class VectorField(nn.Module):
    """f(t, x), x (B, *shape) -> as x: time-dependent layers with a smooth activation between; it starts as zero."""

    def __init__(
        self, layers: Sequence[nn.Linear | nn.Conv2d], *, activation: Smooth = "tanh", timing: Timing = "concatsquash"
    ) -> None:
        super().__init__()
        self.map: Callable[..., Tensor] = linear if isinstance(layers[0], nn.Linear) else partial(conv2d, padding=1)
        self.layers = nn.ModuleList(TimeDependent(layer, timing) for layer in [*layers[:-1], zeroed(layers[-1])])
        self.activation = SMOOTH[activation]

    def forward(self, t: Tensor, x: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return f(t, x) and J v, J = df/dx, for K directions v (K, B, *shape), or (K, 1, *shape) for all points.

        Derivatives are computed in forward mode along with the values, so that one pass of 1 + K points gives both and
        one backward pass their gradient.
        """
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, TimeDependent)
            if i:
                x, slope = self.activation(x)
                v = None if v is None else slope * v
            W, b = layer.weight_and_bias(t)
            x = self.map(x, W, b)
            v = None if v is None else self.map(v.flatten(0, 1), W).unflatten(0, (len(v), -1))
        return x, v


def dense_field(D: int, hidden: Sequence[int], *, activation: Smooth, timing: Timing) -> VectorField:
    """Return a field of vectors (B, D)."""
    layers = [nn.Linear(a, b) for a, b in pairwise((D, *hidden, D))]
    return VectorField(layers, activation=activation, timing=timing)


def convolutional_field(C: int, channels: Sequence[int], *, activation: Smooth, timing: Timing) -> VectorField:
    """Return a field of images (B, C, H, W), of 3x3 convolutions."""
    layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise((C, *channels, C))]
    return VectorField(layers, activation=activation, timing=timing)
