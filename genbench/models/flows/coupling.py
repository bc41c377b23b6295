"""Couplings: one half of the entries is transformed, with parameters computed from the other half."""

from __future__ import annotations

from collections.abc import Callable

import torch
from genbench_kernels.affine_coupling import Scale, affine_coupling
from torch import Tensor, nn

from genbench.models.flows.bijection import Bijection, Shape
from genbench.models.flows.elementwise import Elementwise

Net = Callable[[int, int], nn.Module]  # inputs, outputs -> a network that starts at zero
MakeCoupling = Callable[[int, int], Bijection]  # channels, and how many of them condition the others -> a coupling


class Coupling(Bijection):
    """y = (f(x2; net(x1)), x1), x1 the first `split` channels, f a monotone map of each entry (NICE, 2015, eq. 6).

    The halves are swapped, so that consecutive couplings transform them alternately. `net` gives
    (channels - split) * map.parameters channels.
    """

    def __init__(self, net: nn.Module, channels: int, split: int, map: Elementwise) -> None:
        super().__init__()
        self.net, self.sizes, self.map = net, (split, channels - split), map

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x1, x2 = x.split(self.sizes, 1)
        y2, logdet = self.map(x2, self.net(x1))
        return torch.cat((y2, x1), 1), logdet

    def inverse(self, y: Tensor) -> Tensor:
        y2, x1 = y.split(self.sizes[::-1], 1)
        return torch.cat((x1, self.map.inverse(y2, self.net(x1))), 1)


class AffineCoupling(Bijection):
    """y = (e^s x2 + t, x1) with (s, t) = net(x1), x1 the first `split` channels (Real NVP, 2017, eq. 7-8).

    `scale` is the function from the network's output to s: with "tanh", s = gain tanh(output) with a learned gain
    (section 4.1); with "sigmoid", e^s = sigmoid(output + 2) (the code of Glow, 2018).
    """

    def __init__(self, net: nn.Module, channels: int, split: int, *, scale: Scale = "tanh") -> None:
        super().__init__()
        self.net, self.sizes, self.scale = net, (split, channels - split), scale
        self.gain = nn.Parameter(torch.ones(channels - split)) if scale == "tanh" else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x1, x2 = x.split(self.sizes, 1)
        y2, logdet = affine_coupling(x2, self.net(x1), scale=self.scale, gain=self.gain)
        return torch.cat((y2, x1), 1), logdet

    def inverse(self, y: Tensor) -> Tensor:
        y2, x1 = y.split(self.sizes[::-1], 1)
        x2, _ = affine_coupling(y2, self.net(x1), scale=self.scale, gain=self.gain, inverse=True)
        return torch.cat((x1, x2), 1)


def alternating_couplings(
    shape: Shape, n: int, make_coupling: MakeCoupling, *before: Callable[[Shape], list[Bijection]]
) -> list[Bijection]:
    """Return n couplings of alternate halves of the channels (or dimensions), each preceded by `before`."""
    C, layers = shape[0], list[Bijection]()
    for i in range(n):
        coupling = make_coupling(C, (C - i % 2 + 1) // 2)
        layers += [*(f for make in before for f in make(shape)), coupling]
    return layers


def affine_couplings(net: Net) -> MakeCoupling:
    """Return a factory of affine couplings with networks made by `net`, s = gain tanh."""
    return lambda C, split: AffineCoupling(net(split, 2 * (C - split)), C, split)


def elementwise_couplings(map: Elementwise, net: Net) -> MakeCoupling:
    """Return a factory of couplings by `map` with networks made by `net`."""
    return lambda C, split: Coupling(net(split, (C - split) * map.parameters), C, split, map)
