"""Couplings: one half of the entries is moved as the other half says."""

from __future__ import annotations

import torch
from genbench_kernels.affine_coupling import Scale, affine_coupling
from torch import Tensor, nn

from genbench.models.flows.bijection import Bijection, Elementwise


class Coupling(Bijection):
    """y = (f(x2; net(x1)), x1), x1 the first `split` channels, f a monotone map of each entry (NICE, 2015, eq. 6).

    The halves change places, so that couplings in a row transform them in turn. `net` gives
    (channels - split) * map.parameters channels.
    """

    def __init__(self, net: nn.Module, channels: int, split: int, map: Elementwise) -> None:
        super().__init__()
        self.net, self.sizes, self.map = net, (split, channels - split), map

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x1, x2 = x.split(self.sizes, 1)
        y2, logdet = self.map.forward(x2, self.net(x1))
        return torch.cat((y2, x1), 1), logdet

    def inverse(self, y: Tensor) -> Tensor:
        y2, x1 = y.split(self.sizes[::-1], 1)
        return torch.cat((x1, self.map.inverse(y2, self.net(x1))), 1)


class AffineCoupling(Bijection):
    """y = (e^s x2 + t, x1) with (s, t) = net(x1), x1 the first `split` channels (Real NVP, 2017, eq. 7-8).

    `scale` says what is made of the network's s: with "tanh" it is gain tanh s, the gain learned (section 4.1
    there); with "sigmoid", e^s is sigmoid(s + 2) (the code of Glow, 2018).
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
