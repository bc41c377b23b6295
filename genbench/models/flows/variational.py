"""Variational dequantization: the noise that makes integers real is a flow of its own, conditioned on the integers.

Flow++: Improving Flow-Based Generative Models with Variational Dequantization and Architecture Design (2019), section
3.1: log P(k) >= E log p(k + u) - log q(u | k), the expectation over u ~ q(u | k).
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from genbench.dataset import Space
from genbench.models.dequantization import EDGE, Dequantization
from genbench.models.flows.bijection import Chain
from genbench.models.flows.checkerboard import DIAGONAL_FIRST
from genbench.models.flows.coupling import Net
from genbench.models.flows.elementwise import Elementwise
from genbench.models.flows.mixture_cdf import MixtureLogit
from genbench.models.flows.reshaping import Flatten, Permutation, Squeeze, alternating
from genbench.nets.mlp import mlp
from genbench.nets.resnet import resnet

SMALL = 256  # dimensions up to which an image is treated as a vector


class ConditionalCoupling(nn.Module):
    """v -> (f(v2; net(v1, h)), v1), v1 the first `split` channels: a coupling that is conditioned on h, too."""

    def __init__(self, net: nn.Module, channels: int, split: int, map: Elementwise) -> None:
        super().__init__()
        self.net, self.sizes, self.map = net, (split, channels - split), map

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the transformed v and log|det| in nats, (B,); v (B, channels, ...), h (B, features, ...)."""
        v1, v2 = v.split(self.sizes, 1)
        y2, logdet = self.map(v2, self.net(torch.cat((v1, h), 1)))
        return torch.cat((y2, v1), 1), logdet


def logistic_log_prob(v: Tensor) -> Tensor:
    """Return the log-density of independent logistics, which is log du/dv of u = sigmoid v; v (B, ...) -> (B,) nats."""
    return (logsigmoid(v) + logsigmoid(-v)).flatten(1).sum(1)


class VariationalDequantization(Dequantization):
    """u = sigmoid(v), v logistic noise transformed by couplings conditioned on k; it starts as uniform noise.

    In evaluation the logistic noise is a function of the point, and so is u. u is in [EDGE, 1 - EDGE), and its density
    accounts for that. Vectors and small images have MLPs, other images convolutions on the halves of a checkerboard.
    """

    def __init__(self, space: Space, *, couplings: int = 2, components: int = 1, dropout: float = 0.3) -> None:
        super().__init__(space)
        map = MixtureLogit(components)
        net: Net
        if space.is_image and space.dims > SMALL and not any(side % 2 for side in space.shape[1:]):
            self.order, C = Chain([Squeeze(DIAGONAL_FIRST)]), 4 * space.shape[0]
            net = partial(resnet, channels=32, blocks=2, dropout=dropout, zero=True)
        else:
            self.order, C = Chain([Flatten(space.shape), Permutation(alternating(space.shape))]), space.dims
            net = partial(mlp, hidden=(128,), dropout=dropout, zero=True)
        splits = [(C - i % 2 + 1) // 2 for i in range(couplings)]
        self.couplings = nn.ModuleList(
            ConditionalCoupling(net(split + C, (C - split) * map.parameters), C, split, map) for split in splits
        )

    def forward(self, k: Tensor, draw: int = 0) -> tuple[Tensor, Tensor]:
        dtype = next(self.parameters()).dtype
        v, _ = self.order(self.uniform(k, draw).clamp(2.0**-24, 1 - 2.0**-24).to(dtype).logit())
        h, _ = self.order((k.to(dtype) + 0.5) * (2 / self.levels) - 1)
        log_q = logistic_log_prob(v) - self.space.dims * math.log1p(-2 * EDGE) - self.log_volume
        for coupling in self.couplings:
            v, logdet = coupling(v, h)
            log_q = log_q - logdet
        u = EDGE + (1 - 2 * EDGE) * self.order.inverse(v).sigmoid()
        return (k + u) / self.levels, log_q - logistic_log_prob(v)
