"""Gated convolutions and self-attention for images (Flow++, 2019, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, glu, scaled_dot_product_attention

from genbench.nets.activations import zeroed


class ConcatELU(nn.Module):
    """x (B, C, ...) -> elu of (x, -x), (B, 2C, ...): PixelCNN++ (2017)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return elu of (x, -x) along the channels."""
        return elu(torch.cat((x, -x), 1))


class ChannelNorm(nn.LayerNorm):
    """Layer normalization of the channels at every position, (B, C, H, W) -> the same."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x normalized along its channels."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class GatedConv(nn.Module):
    """x -> norm(x + a sigmoid(b)), (a, b) by a 3x3 and a 1x1 convolution of x (B, C, H, W)."""

    def __init__(self, channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            ConcatELU(),
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            ConcatELU(),
            *([nn.Dropout2d(dropout)] if dropout else []),
            nn.Conv2d(2 * channels, 2 * channels, 1),
        )
        self.norm = ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, as x."""
        y: Tensor = self.norm(x + glu(self.branch(x), 1))
        return y


class GatedAttention(nn.Module):
    """x -> norm(x + a sigmoid(b)), (a, b) by self-attention between the positions of x (B, C, H, W).

    Learned embeddings of the positions are added to its input.
    """

    def __init__(self, channels: int, size: tuple[int, int], heads: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.position_embedding = nn.Parameter(0.01 * torch.randn(channels, *size))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, 2 * channels, 1)
        self.norm = ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, as x."""
        B, C, H, W = x.shape
        parts = self.qkv(x + self.position_embedding).view(B, 3, self.heads, C // self.heads, H * W).transpose(-1, -2)
        q, k, v = parts.unbind(1)
        mixed = scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        y: Tensor = self.norm(x + glu(self.out(mixed.transpose(-1, -2).reshape(B, C, H, W)), 1))
        return y


def gated_attention(
    inputs: int,
    outputs: int,
    channels: int = 32,
    blocks: int = 2,
    *,
    size: tuple[int, int],
    heads: int = 4,
    dropout: float = 0.0,
    zero: bool = False,
) -> nn.Sequential:
    """Return a 3x3 stem, `blocks` of gated convolution and attention and a 3x3 head, on images of `size` (H, W).

    (B, inputs, H, W) -> (B, outputs, H, W). With `zero` it starts as the zero function.

    Raises:
        ValueError: the heads do not divide the channels.
    """
    if channels % heads:
        raise ValueError(f"heads={heads} must divide channels={channels}")
    last = nn.Conv2d(channels, outputs, 3, padding=1)
    steps = [(GatedConv(channels, dropout), GatedAttention(channels, size, heads, dropout)) for _ in range(blocks)]
    return nn.Sequential(
        nn.Conv2d(inputs, channels, 3, padding=1),
        *(step for block in steps for step in block),
        zeroed(last) if zero else last,
    )
