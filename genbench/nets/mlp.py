"""Multilayer perceptrons for vectors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from genbench.nets.activations import ACTIVATIONS, Activation, zeroed
from genbench.nets.linear import Linear


def mlp(
    inputs: int,
    outputs: int,
    hidden: Sequence[int] = (256, 256),
    *,
    activation: Activation = "relu",
    dropout: float = 0.0,
    zero: bool = False,
) -> nn.Sequential:
    """Return a perceptron (B, inputs) -> (B, outputs); with `zero` it is the zero function until it is trained."""
    layers: list[nn.Module] = []
    for a, b in pairwise((inputs, *hidden)):
        layers += [Linear(a, b), ACTIVATIONS[activation]()]
        layers += [nn.Dropout(dropout)] if dropout else []
    last = Linear((inputs, *hidden)[-1], outputs)
    return nn.Sequential(*layers, zeroed(last) if zero else last)
