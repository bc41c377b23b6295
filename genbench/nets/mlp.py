"""Multilayer perceptrons for vectors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from genbench.fastpath import accelerated
from genbench.nets.activations import ACTIVATIONS, Activation, zeroed
from genbench.nets.dropout import Dropout
from genbench.nets.linear import Dense


class MLP(nn.Sequential):
    """Linear layers with an activation, and dropout, after each but the last.

    Attributes:
        activation: the one after every layer but the last; None where layers are arbitrary, as in a slice.
        dropout_p: the probability with which a unit is dropped in training.
    """

    activation: Activation | None = None
    dropout_p: float = 0.0

    @accelerated
    def forward(self, input: Tensor) -> Tensor:
        """Return y (B, outputs), input (B, inputs)."""
        y: Tensor = super().forward(input)  # type: ignore[no-untyped-call]
        return y


def mlp(
    inputs: int,
    outputs: int,
    hidden: Sequence[int] = (256, 256),
    *,
    activation: Activation = "relu",
    dropout: float = 0.0,
    zero: bool = False,
) -> MLP:
    """Return an MLP (B, inputs) -> (B, outputs); with `zero` it starts as the zero function."""
    layers: list[nn.Module] = []
    for a, b in pairwise((inputs, *hidden)):
        layers += [Dense(a, b), ACTIVATIONS[activation]()]
        layers += [Dropout(dropout)] if dropout else []
    last = Dense((inputs, *hidden)[-1], outputs)
    net = MLP(*layers, zeroed(last) if zero else last)
    net.activation, net.dropout_p = activation, dropout
    return net
