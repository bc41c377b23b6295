"""Plain convolutional networks that preserve the size of an image."""

from __future__ import annotations

from torch import nn

from genbench.nets.activations import ACTIVATIONS, Activation, zeroed


def convnet(
    inputs: int,
    outputs: int,
    channels: int = 64,
    *,
    activation: Activation = "relu",
    dropout: float = 0.0,
    zero: bool = False,
) -> nn.Sequential:
    """Return convolutions 3x3, 1x1, 3x3: (B, inputs, H, W) -> (B, outputs, H, W).

    The network of Glow (Glow: Generative Flow with Invertible 1x1 Convolutions, 2018, section 4). With `zero` it
    starts as the zero function.
    """
    last = nn.Conv2d(channels, outputs, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(inputs, channels, 3, padding=1),
        ACTIVATIONS[activation](),
        nn.Conv2d(channels, channels, 1),
        ACTIVATIONS[activation](),
        *([nn.Dropout2d(dropout)] if dropout else []),
        zeroed(last) if zero else last,
    )
