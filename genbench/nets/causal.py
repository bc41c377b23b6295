"""Masked convolutions: the gated layers of PixelCNN, in two stacks that together cover exactly the pixels before each.

Conditional Image Generation with PixelCNN Decoders (2016), section 2 and figure 2. The channels of a pixel are ordered,
too: features are split into as many groups, and group g of a pixel depends on groups up to g of that pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from genbench.nets.dropout import Dropout


def groups_of(features: int, groups: int) -> Tensor:
    """Return the group of each feature, ascending, in groups of equal size, (features,)."""
    return torch.arange(features) * groups // features


class RowConv(nn.Conv2d):
    """Convolution along a row over the pixels to the left and, where the groups allow it, the pixel itself.

    x (B, I, H, W) -> (B, O, H, W). An output depends on inputs of the pixel itself whose group is not greater than its
    own or, with `strict`, is smaller.

    Args:
        before, after: the group of each input, (I,), and of each output, (O,).
        reach: the number of pixels to the left.
    """

    mask: Tensor

    def __init__(self, before: Tensor, after: Tensor, reach: int = 0, *, strict: bool = False) -> None:
        super().__init__(len(before), len(after), (1, reach + 1))
        self.reach = reach
        mask = torch.ones_like(self.weight)
        itself = after[:, None] > before if strict else after[:, None] >= before
        mask[:, :, 0, -1] = itself.to(mask)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution, x (B, I, H, W) -> (B, O, H, W)."""
        return conv2d(pad(input, (self.reach, 0)), self.weight * self.mask, self.bias)


def gate(a: Tensor) -> Tensor:
    """Return tanh(f) sigmoid(g), eq. 2, a = (f, g) (B, 2 p, H, W) -> (B, p, H, W)."""
    f, g = a.chunk(2, 1)
    return f.tanh() * g.sigmoid()


def shift_down(v: Tensor) -> Tensor:
    """Return v (B, p, H, W) shifted one row down, so that each row gets the features of the rows above."""
    return pad(v[:, :, :-1], (0, 0, 1, 0))


class GatedLayer(nn.Module):
    """One layer of both stacks: v (B, ., H, W), h (B, ., H, W) -> as many of `channels`.

    v of a row depends on that row and those above, all columns and channels; h depends on v of the rows above, the
    pixels to the left, and the pixel itself by groups. h is residual, except in the first layer, where the inputs are
    the channels of the image and a group depends only on smaller groups of the pixel itself.
    """

    def __init__(self, channels: int, groups: int, kernel: int, dropout: float, *, first: bool = False) -> None:
        super().__init__()
        inputs, self.reach, self.first = groups if first else channels, kernel // 2, first
        before, after = groups_of(inputs, groups), groups_of(channels, groups)
        self.vertical = nn.Conv2d(inputs, 2 * channels, (self.reach + 1, 2 * self.reach + 1))
        self.across = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.horizontal = RowConv(before, after.repeat(2), self.reach, strict=first)
        self.out = RowConv(after, after)
        self.dropout = Dropout(dropout)

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return both stacks after the layer."""
        above = self.vertical(pad(v, (self.reach, self.reach, self.reach, 0)))
        out = self.out(self.dropout(gate(self.horizontal(h) + self.across(shift_down(above)))))
        return self.dropout(gate(above)), out if self.first else h + out
