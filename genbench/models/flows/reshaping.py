"""Bijections that only move entries about: their log-determinant is zero. And the split into scales."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from genbench.models.flows.bijection import Bijection, Chain, Shape


class Permutation(Bijection):
    """y_i = x_order[i] along the channels."""

    order: Tensor
    back: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order)
        self.register_buffer("back", order.argsort())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.index_select(1, self.order), x.new_zeros(())

    def inverse(self, y: Tensor) -> Tensor:
        return y.index_select(1, self.back)


def alternating(shape: Shape) -> Tensor:
    """Return the order (D,) of the dimensions of `shape` that puts the even ones first: on images, a checkerboard."""
    places = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    return (torch.stack(places).sum(0).flatten() % 2).argsort(stable=True)


class Squeeze(Bijection):
    """(B, C, H, W) -> (B, 4C, H/2, W/2): the four pixels of each 2x2 square become channels, in `order`.

    The order decides what a coupling of the two halves of the channels is: (0, 3, 1, 2) puts the diagonal first, which
    makes it the checkerboard mask of the image (Real NVP, 2017, figure 3); (0, 1, 2, 3) puts the upper row first.
    """

    def __init__(self, order: tuple[int, int, int, int] = (0, 1, 2, 3)) -> None:
        super().__init__()
        self.order = order
        self.back = tuple(order.index(i) for i in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        B, C, H, W = x.shape
        y = x.view(B, C, H // 2, 2, W // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(B, 4, C, H // 2, W // 2)
        return y[:, self.order].flatten(1, 2), x.new_zeros(())

    def inverse(self, y: Tensor) -> Tensor:
        B, C, H, W = y.shape
        x = y.view(B, 4, C // 4, H, W)[:, self.back].view(B, 2, 2, C // 4, H, W)
        return x.permute(0, 3, 4, 1, 5, 2).reshape(B, C // 4, 2 * H, 2 * W)


class Flatten(Bijection):
    """(B, *shape) -> (B, D)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.flatten(1), x.new_zeros(())

    def inverse(self, y: Tensor) -> Tensor:
        return y.view(-1, *self.shape)


class MultiScale(Bijection):
    """(B, C, H, W) -> (B, D): the first half of the channels is done, the second goes through `rest`.

    Real NVP (2017), eq. 13-16.
    """

    def __init__(self, shape: Shape, rest: Chain) -> None:
        super().__init__()
        self.done = (shape[0] // 2, *shape[1:])
        self.rest = rest

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x1, x2 = x.split((self.done[0], x.shape[1] - self.done[0]), 1)
        y2, logdet = self.rest(x2)
        return torch.cat((x1.flatten(1), y2), 1), logdet

    def inverse(self, y: Tensor) -> Tensor:
        D = math.prod(self.done)
        return torch.cat((y[:, :D].view(-1, *self.done), self.rest.inverse(y[:, D:])), 1)


def multi_scale(shape: Shape, scales: int, steps: Callable[[Shape], list[Bijection]]) -> list[Bijection]:
    """Return squeeze, the steps for images of that shape and the split of half the channels, scale by scale."""
    C, H, W = shape
    squeezed = (4 * C, H // 2, W // 2)
    scale = [Squeeze(), *steps(squeezed)]
    if scales == 1:
        return [*scale, Flatten(squeezed)]
    return [*scale, MultiScale(squeezed, Chain(multi_scale((2 * C, H // 2, W // 2), scales - 1, steps)))]


def divisible(shape: Shape, **times: int) -> Shape:
    """Return `shape` (C, H, W); raises ValueError if its sides cannot be halved the named number of times."""
    [(name, n)] = times.items()
    if any(side % 2**n for side in shape[1:]):
        raise ValueError(f"{name}={n} needs sides that {2**n} divides, got {shape[1]}x{shape[2]}")
    return shape
