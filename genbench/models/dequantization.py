"""Dequantization: noise u in [0, 1)^D that makes integers real, and its density.

A note on the evaluation of generative models (2016), section 3.1: with x = (k + u) / levels, u of density q in
[0, 1)^D, log P(k) >= E log p(x) - log q(x | k), with the density q(x | k) = q(u | k) levels^D.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from genbench.dataset import Space

DequantizationName = Literal["uniform", "variational"]  # the second is in models/flows/variational.py
GOLDEN = -7046029254386353131  # 2^64 / the golden ratio, as int64
EDGE = 2.0**-15  # the smallest u and 1 - u with which k + u of up to 256 levels does not round to another integer


class Dequantization(nn.Module, ABC):
    """A density q of u in [0, 1)^D given the integers k, and thus of x = (k + u) / levels in [0, 1)^D."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        self.levels = space.levels or 1
        self.log_volume = -space.dims * math.log(self.levels)  # of the cube of x that belongs to one k

    @abstractmethod
    def forward(self, k: Tensor, draw: int = 0) -> tuple[Tensor, Tensor | float]:
        """Return x and log q(x | k) in nats, k (B, *shape) -> x (B, *shape) float, log q (B,) or a number.

        In evaluation, x is a function of k and the number `draw` only.
        """

    def uniform(self, k: Tensor, draw: int) -> Tensor:
        """Return u ~ U[0, 1)^D as k: random in training, in evaluation a function of the point and `draw` only.

        A point's log-likelihood then depends neither on the rest of its batch nor on when it is computed.
        """
        return torch.rand(k.shape, device=k.device) if self.training else noise_from_point(k, draw)

    def inverse(self, x: Tensor) -> Tensor:
        """Return the integers k whose cube contains x, (B, *shape) -> as x; outside [0, 1), those at the edge."""
        return (x * self.levels).floor().clamp(0, self.levels - 1).to(self.space.dtype)


class UniformDequantization(Dequantization):
    """u ~ U[0, 1)^D."""

    def forward(self, k: Tensor, draw: int = 0) -> tuple[Tensor, float]:
        return (k + self.uniform(k, draw).clamp(EDGE, 1 - EDGE)) / self.levels, -self.log_volume


def noise_from_point(k: Tensor, draw: int = 0) -> Tensor:
    """Return noise u that is a function of each point, uniform on [0, 1)^D over points: k (B, ...) -> u as k, float32.

    A counter-based generator: the key is the hash of the point, the counter is the dimension, continued for other
    values of `draw`; they are mixed by splitmix64 (Fast splittable pseudorandom number generators, 2014).
    """
    D = k[0].numel()
    count = torch.arange(1, D + 1, device=k.device)
    key = _mix(_mix(count * GOLDEN) * (k.flatten(1).long() + 1)).sum(1, keepdim=True)
    bits = _mix(_mix(key) + (count + draw * D) * GOLDEN) >> 40 & 0xFFFFFF
    return (bits.float() / 2**24).view(k.shape)


def _mix(x: Tensor) -> Tensor:
    """Return the final mixing function of splitmix64 at x, int64 modulo 2^64."""
    x = (x ^ _shift(x, 30)) * -4658895280553007687
    x = (x ^ _shift(x, 27)) * -7723592293110705685
    return x ^ _shift(x, 31)


def _shift(x: Tensor, n: int) -> Tensor:
    """Return x shifted right by n bits, filled with zeros."""
    return x >> n & (1 << 64 - n) - 1
