"""Residual convolutional networks that preserve the size of an image."""

from __future__ import annotations

from torch import Tensor, nn

from genbench.nets.activations import ACTIVATIONS, Activation, zeroed


class ResidualBlock(nn.Module):
    """A residual block, x (B, C, H, W) -> as x, which starts as the identity.

    Identity Mappings in Deep Residual Networks (2016), figure 4(e); its last layer starts at zero, which replaces
    normalization (Fixup Initialization: Residual Learning Without Normalization, 2019).
    """

    def __init__(self, channels: int, *, activation: Activation = "relu", dropout: float = 0.0) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            ACTIVATIONS[activation](),
            nn.Conv2d(channels, channels, 3, padding=1),
            ACTIVATIONS[activation](),
            *([nn.Dropout2d(dropout)] if dropout else []),
            zeroed(nn.Conv2d(channels, channels, 3, padding=1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return x + branch(x)."""
        residual: Tensor = self.branch(x)
        return x + residual


def resnet(
    inputs: int,
    outputs: int,
    channels: int = 32,
    blocks: int = 2,
    *,
    activation: Activation = "relu",
    dropout: float = 0.0,
    zero: bool = False,
) -> nn.Sequential:
    """Return a 3x3 stem, `blocks` residual blocks and a 1x1 head: (B, inputs, H, W) -> (B, outputs, H, W).

    With `zero` it starts as the zero function.
    """
    last = nn.Conv2d(channels, outputs, 1)
    return nn.Sequential(
        nn.Conv2d(inputs, channels, 3, padding=1),
        *(ResidualBlock(channels, activation=activation, dropout=dropout) for _ in range(blocks)),
        ACTIVATIONS[activation](),
        zeroed(last) if zero else last,
    )
