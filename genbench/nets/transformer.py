"""The causal transformer: the output for each token depends on the tokens before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from genbench.nets.activations import zeroed
from genbench.nets.dropout import Dropout
from genbench.nets.linear import Dense

KVCache = dict[nn.Module, tuple[Tensor, Tensor]]  # attention layer -> keys and values (B, heads, t, width / heads)


def appended(cached: tuple[Tensor, Tensor] | None, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cached keys and values followed by k and v (B, heads, 1, width / heads)."""
    return (torch.cat((cached[0], k), 2), torch.cat((cached[1], v), 2)) if cached else (k, v)


class Attention(nn.Module):
    """Causal attention of each token to itself and those before it, (B, T, width) -> as x.

    Attention Is All You Need (2017), section 3.2. With a `cache`, x is the next token, (B, 1, width).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = Dense(width, 3 * width), Dense(width, width)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return the attention output for each token; keys and values of x are added to `cache`."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if cache is not None:
            k, v = cache[self] = appended(cache.get(self), k, v)
        y = scaled_dot_product_attention(q, k, v, is_causal=cache is None)
        mixed: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return mixed


class TransformerLayer(nn.Module):
    """Attention and an MLP for each token, both residual: (B, T, width) -> as x.

    Normalized before, not after (On Layer Normalization in the Transformer Architecture, 2020, figure 1b).
    """

    def __init__(self, width: int, heads: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(Dense(width, expansion * width), nn.GELU(), Dense(expansion * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return x + attention + MLP; x (B, T, width), or with a `cache` the next token, (B, 1, width)."""
        x = x + self.dropout(self.attention(self.norms[0](x), cache))
        out: Tensor = x + self.dropout(self.mlp(self.norms[1](x)))
        return out


class Transformer(nn.Module):
    """A causal transformer, x (B, T, inputs) -> (B, T, outputs): output t depends on x_1 .. x_(t-1) only.

    Position embeddings are learned; the first output depends on the first of them only. With `zero` it starts as the
    zero function.

    Args:
        length: T.
        width: of token embeddings.
        depth: number of layers.
        heads: of attention.
        expansion: hidden width of the MLPs, in units of `width`.
        dropout: on every residual branch.
        position_std: initial standard deviation of position embeddings, next to tokens of about 1. If they are much
            smaller, attention learns to use positions late, or not at all.

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
        position_std: float = 0.02,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide the width, got {heads} and {width}")
        self.embed = Dense(inputs, width)
        self.positions = nn.Parameter(position_std * torch.randn(length, width))
        self.layers = nn.ModuleList(TransformerLayer(width, heads, expansion, dropout) for _ in range(depth))
        last = Dense(width, outputs)
        self.head = nn.Sequential(nn.LayerNorm(width), zeroed(last) if zero else last)

    def forward(self, x: Tensor) -> Tensor:
        """Return every output at once, x (B, T, inputs) -> (B, T, outputs); x_T is not used."""
        h = pad(self.embed(x[:, :-1]), (0, 0, 1, 0)) + self.positions
        for layer in self.layers:
            h = layer(h)
        out: Tensor = self.head(h)
        return out

    def step(self, x: Tensor, t: int, cache: KVCache) -> Tensor:
        """Return output t (B, outputs), counted from 0, from x_(t-1) (B, inputs) and `cache`, which is extended.

        At t = 0, with an empty cache, only the size of x matters.
        """
        h = (self.embed(x) if t else x.new_zeros(len(x), len(self.positions[0]))) + self.positions[t]
        h = h.unsqueeze(1)
        for layer in self.layers:
            h = layer(h, cache)
        out: Tensor = self.head(h.squeeze(1))
        return out
