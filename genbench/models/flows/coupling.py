"""Couplings: one half of the entries is moved as the other half says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from genbench_kernels.affine_coupling import Scale, affine_coupling
from torch import Tensor, nn

from genbench.models.flows.affine import closed_affine
from genbench.models.flows.bijection import Bijection, Elementwise, Shape
from genbench.models.flows.closed import Closed, Step
from genbench.nets.mlp import Perceptron, anew, backpropagated, rectified, replayed

Net = Callable[[int, int], nn.Module]  # inputs, outputs -> a network that starts at zero
Couple = Callable[[int, int], Bijection]  # channels, and how many of them it sees -> a coupling
Sizes = tuple[int, int]  # channels that a coupling sees, and that it moves


class Coupling(Bijection):
    """y = (f(x2; net(x1)), x1), x1 the first `split` channels, f a monotone map of each entry (NICE, 2015, eq. 6).

    The halves change places, so that couplings in a row transform them in turn. `net` gives
    (channels - split) * map.parameters channels.
    """

    def __init__(self, net: nn.Module, channels: int, split: int, map: Elementwise) -> None:
        super().__init__()
        self.net, self.sizes, self.map = net, (split, channels - split), map

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if step := self.step(x):
            return step(x)
        x1, x2 = x.split(self.sizes, 1)
        y2, logdet = self.map.forward(x2, self.net(x1))
        return torch.cat((y2, x1), 1), logdet

    def step(self, x: Tensor) -> Step | None:
        return None if self.map.closed is None else coupled(x, self.net, self.sizes, self.map.closed)

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
        if step := self.step(x):
            return step(x)
        x1, x2 = x.split(self.sizes, 1)
        y2, logdet = affine_coupling(x2, self.net(x1), scale=self.scale, gain=self.gain)
        return torch.cat((y2, x1), 1), logdet

    def step(self, x: Tensor) -> Step | None:
        return coupled(x, self.net, self.sizes, closed_affine("chunk", self.scale), self.gain)

    def inverse(self, y: Tensor) -> Tensor:
        y2, x1 = y.split(self.sizes[::-1], 1)
        x2, _ = affine_coupling(y2, self.net(x1), scale=self.scale, gain=self.gain, inverse=True)
        return torch.cat((x1, x2), 1)


def coupled(x: Tensor, net: nn.Module, sizes: Sizes, map: Closed, of_map: Tensor | None = None) -> Step | None:
    """Return a coupling by `map`, which has `of_map` itself, as a step, where `net` has a closed form for x."""
    if not isinstance(net, Perceptron) or (weights := net.closed(x)) is None:
        return None
    dropout = net.rate()
    return Step(Coupled, (sizes, map, dropout), (of_map, *weights), drawn=dropout > 0)


class Coupled(torch.autograd.Function):
    """x, (sizes, map, dropout), what the map has, W_1, b_1, ... -> y, logdet: coupling and perceptron as one step."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, options: tuple[Sizes, Closed, float], of_map: Tensor | None, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.sizes, ctx.map, ctx.dropout = sizes, map, dropout = options
        x1, x2 = torch.split_with_sizes(x, sizes, 1)
        *h, params = rectified(x1, dropout, weights)
        y2, logdet, needed = map.value(x2, params, of_map)
        ctx.save_for_backward(x, of_map, *h[1:], *weights, *needed)
        ctx.layers = len(h)
        return torch.cat((y2, x1), 1), logdet

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (gy, glogdet), (x, of_map, *rest), n = cotangents, ctx.saved_tensors, ctx.layers
        x1, x2 = torch.split_with_sizes(x, ctx.sizes, 1)
        h, weights, needed = [x1, *rest[: n - 1]], rest[n - 1 : 3 * n - 1], rest[3 * n - 1 :]
        if torch.is_grad_enabled():
            y2, logdet = ctx.map.plain(x2, replayed(h, ctx.dropout, weights), of_map)
            outputs = torch.cat((y2, x1), 1), logdet
            return anew(outputs, cotangents, (x, None, of_map, *weights), ctx.needs_input_grad)
        gy2, g1 = torch.split_with_sizes(gy, ctx.sizes[::-1], 1)
        g2, g, g_map = ctx.map.gradients(gy2, glogdet, x2, of_map, needed)
        g1_net, found = backpropagated(g, h, ctx.dropout, weights, wanted=ctx.needs_input_grad[0])
        gx = None if g1_net is None else torch.cat((g1_net.add_(g1), g2), 1)
        return gx, None, g_map, *found


def couplings_of(shape: Shape, n: int, couple: Couple, *before: Callable[[Shape], list[Bijection]]) -> list[Bijection]:
    """Return n couplings of the two halves of the channels (or dimensions) in turn, each after what is `before` it."""
    C, steps = shape[0], list[Bijection]()
    for i in range(n):
        coupling = couple(C, (C - i % 2 + 1) // 2)
        steps += [*(f for make in before for f in make(shape)), coupling]
    return steps


def affine_by(net: Net) -> Couple:
    """Return how affine couplings by networks of `net` are made, s = gain tanh."""
    return lambda C, split: AffineCoupling(net(split, 2 * (C - split)), C, split)


def moved_by(map: Elementwise, net: Net) -> Couple:
    """Return how couplings by `map`, told its parameters by networks of `net`, are made."""
    return lambda C, split: Coupling(net(split, (C - split) * map.parameters), C, split, map)
