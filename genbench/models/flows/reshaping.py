"""Bijections that only rearrange entries, with log-determinant zero; and the multi-scale architecture."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from genbench.models.flows.bijection import Bijection, Chain, Shape


class Permutation(Bijection):
    """y_i = x_order[i] along the channels."""

    order: Tensor
    inverse_order: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order)
        self.register_buffer("inverse_order", order.argsort())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.index_select(1, self.order), x.new_zeros(())

    def inverse(self, y: Tensor) -> Tensor:
        return y.index_select(1, self.inverse_order)


def alternating(shape: Shape) -> Tensor:
    """Return the order (D,) of the dimensions of `shape` with the even ones first: on images, a checkerboard."""
    indices = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    return (torch.stack(indices).sum(0).flatten() % 2).argsort(stable=True)


class Squeeze(Bijection):
    """(B, C, H, W) -> (B, 4C, H/2, W/2): the four pixels of each 2x2 square become channels, in `order`.

    The order determines which pixels a coupling of the two halves of the channels transforms: (0, 3, 1, 2), the
    diagonal first, gives the checkerboard mask (Real NVP, 2017, figure 3); (0, 1, 2, 3) gives the rows.
    """

    def __init__(self, order: tuple[int, int, int, int] = (0, 1, 2, 3)) -> None:
        super().__init__()
        self.order = order
        self.inverse_order = tuple(order.index(i) for i in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        B, C, H, W = x.shape
        y = x.view(B, C, H // 2, 2, W // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(B, 4, C, H // 2, W // 2)
        return y[:, self.order].flatten(1, 2), x.new_zeros(())

    def inverse(self, y: Tensor) -> Tensor:
        B, C, H, W = y.shape
        x = y.view(B, 4, C // 4, H, W)[:, self.inverse_order].view(B, 2, 2, C // 4, H, W)
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
    """(B, C, H, W) -> (B, D): the first half of the channels is factored out, the second goes through `rest`.

    Real NVP (2017), eq. 13-16.
    """

    def __init__(self, shape: Shape, rest: Chain) -> None:
        super().__init__()
        self.factored_out = (shape[0] // 2, *shape[1:])
        self.rest = rest

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x1, x2 = x.split((self.factored_out[0], x.shape[1] - self.factored_out[0]), 1)
        y2, logdet = self.rest(x2)
        return torch.cat((x1.flatten(1), y2), 1), logdet

    def inverse(self, y: Tensor) -> Tensor:
        D = math.prod(self.factored_out)
        return torch.cat((y[:, :D].view(-1, *self.factored_out), self.rest.inverse(y[:, D:])), 1)


def multi_scale(shape: Shape, scales: int, steps: Callable[[Shape], list[Bijection]]) -> list[Bijection]:
    """Return, scale by scale, a squeeze, the steps for images of that shape, and the split of half the channels."""
    C, H, W = shape
    squeezed = (4 * C, H // 2, W // 2)
    scale = [Squeeze(), *steps(squeezed)]
    if scales == 1:
        return [*scale, Flatten(squeezed)]
    return [*scale, MultiScale(squeezed, Chain(multi_scale((2 * C, H // 2, W // 2), scales - 1, steps)))]


def divisible(shape: Shape, **times: int) -> Shape:
    """Return `shape` (C, H, W); raises ValueError if its sides cannot be halved the given number of times."""
    [(name, n)] = times.items()
    if any(side % 2**n for side in shape[1:]):
        raise ValueError(f"{name}={n} needs sides divisible by {2**n}, got {shape[1]}x{shape[2]}")
    return shape
