"""Masked convolutions: the gated layers of PixelCNN, in two stacks that together see all pixels before each, no other.

Conditional Image Generation with PixelCNN Decoders (2016), section 2 and figure 2. The channels of a pixel come in
turn too: features are split into as many groups, and group g of a pixel sees groups up to g of that pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from genbench.nets.dropout import Dropout


def groups_of(features: int, groups: int) -> Tensor:
    """Return which group each of `features` belongs to, ascending and even, (features,)."""
    return torch.arange(features) * groups // features


class RowConv(nn.Conv2d):
    """Convolution along a row with the pixels to the left and, between `groups` that permit it, the pixel itself.

    x (B, I, H, W) -> (B, O, H, W). A weight of the pixel itself is there if its input's group is no later than its
    output's or, with `strict`, if it is earlier.

    Args:
        before, after: the group of each input, (I,), and of each output, (O,).
        reach: how many pixels to the left are seen.
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


def down(v: Tensor) -> Tensor:
    """Return v (B, p, H, W) one row down: what each row is told of those above."""
    return pad(v[:, :, :-1], (0, 0, 1, 0))


class GatedLayer(nn.Module):
    """One layer of both stacks: v (B, ., H, W), h (B, ., H, W) -> as many of `channels`.

    v of a row sees that row and those above, all columns and channels; h sees v of the rows above, the pixels to
    the left, and the pixel itself by groups. h is residual; in the first layer the inputs are the image's own channels,
    the pixel itself is seen by later groups alone, and nothing is residual.
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
        out = self.out(self.dropout(gate(self.horizontal(h) + self.across(down(above)))))
        return self.dropout(gate(above)), out if self.first else h + out
