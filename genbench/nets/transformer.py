"""The causal transformer: each token is told by those before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from genbench.nets.activations import zeroed
from genbench.nets.dropout import Dropout
from genbench.nets.linear import Dense

Past = dict[
    nn.Module, tuple[Tensor, Tensor]
]  # of each attention, keys and values (B, heads, t, width / heads) of the tokens so far


def extended(past: tuple[Tensor, Tensor] | None, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and values with k and v (B, heads, 1, width / heads) after those of the past."""
    return (torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)) if past else (k, v)


class Attention(nn.Module):
    """Causal attention of each token to itself and those before it, (B, T, width) -> as x.

    Attention Is All You Need (2017), section 3.2. Given a `past`, x follows it one token at a time.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = Dense(width, 3 * width), Dense(width, width)

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        """Return what the tokens up to each say to it; keys and values of x are added to `past`."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if past is not None:
            k, v = past[self] = extended(past.get(self), k, v)
        y = scaled_dot_product_attention(q, k, v, is_causal=past is None)
        mixed: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return mixed


class Layer(nn.Module):
    """Attention and a perceptron of each token, both residual: (B, T, width) -> as x.

    Normalised before, not after (On Layer Normalization in the Transformer Architecture, 2020, figure 1b).
    """

    def __init__(self, width: int, heads: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(Dense(width, expansion * width), nn.GELU(), Dense(expansion * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        """Return x + attention, + perceptron; x (B, T, width), or (B, 1, width) after `past`."""
        x = x + self.dropout(self.attention(self.norms[0](x), past))
        out: Tensor = x + self.dropout(self.mlp(self.norms[1](x)))
        return out


class Transformer(nn.Module):
    """A causal transformer, x (B, T, inputs) -> (B, T, outputs): output t is told by x_1 .. x_(t-1) alone.

    Positions are learned; the first output, told by nothing, is that of the first position. With `zero` it is the zero
    function until it is trained.

    Args:
        length: T.
        width, depth, heads: of the tokens inside, of the stack of layers, and of their attention.
        expansion: of the perceptrons, over the width.
        dropout: on every residual branch.
        positions: standard deviation of the embeddings of positions at the start, beside tokens of about 1. Where they
            are much smaller, attention learns late, or not at all, to look at a place.

    Raises:
        ValueError: `heads` does not divide `width`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        length: int,
        *,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        expansion: int = 4,
        dropout: float = 0.0,
        zero: bool = False,
        positions: float = 0.02,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide the width, got {heads} and {width}")
        self.embed = Dense(inputs, width)
        self.positions = nn.Parameter(positions * torch.randn(length, width))
        self.layers = nn.ModuleList(Layer(width, heads, expansion, dropout) for _ in range(depth))
        last = Dense(width, outputs)
        self.head = nn.Sequential(nn.LayerNorm(width), zeroed(last) if zero else last)

    def forward(self, x: Tensor) -> Tensor:
        """Return every output at once, x (B, T, inputs) -> (B, T, outputs); x_T is not looked at."""
        h = pad(self.embed(x[:, :-1]), (0, 0, 1, 0)) + self.positions
        for layer in self.layers:
            h = layer(h)
        out: Tensor = self.head(h)
        return out

    def step(self, x: Tensor, t: int, past: Past) -> Tensor:
        """Return output t (B, outputs), counted from 0, told by x_(t-1) (B, inputs) and `past`, to which it is added.

        At t = 0, with an empty past, only the size of x is looked at.
        """
        h = (self.embed(x) if t else x.new_zeros(len(x), len(self.positions[0]))) + self.positions[t]
        h = h.unsqueeze(1)
        for layer in self.layers:
            h = layer(h, past)
        out: Tensor = self.head(h.squeeze(1))
        return out
