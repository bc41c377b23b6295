"""MADE: Masked Autoencoder for Distribution Estimation (2015)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genbench.dataset import Space
from genbench.models.autoregressive.discrete import AutoregressiveModel, raster_order
from genbench.nets import masked
from genbench.nets.activations import Activation
from genbench.nets.precision import at_least_float32

__all__ = ["MADE"]


def dimension_orders(shape: tuple[int, ...], count: int) -> list[list[int]]:
    """Return `count` orders of the dimensions: row by row, its reverse, then fixed random permutations."""
    first, generator = raster_order(shape), torch.Generator().manual_seed(0)
    random = [torch.randperm(len(first), generator=generator) for _ in range(count - 2)]
    return [order.tolist() for order in (first, first.flip(0), *random)][:count]


class MADE(AutoregressiveModel):
    """A masked MLP that computes all conditionals at once; with several orders, a mixture of one MLP per order.

    The paper's ensemble (section 4.2) shares one network among orders. Here each order has its own, trained
    independently, and log p(x) = log 1/M sum_m p_m(x) is exact. Levels are scaled to [-1, 1].

    Args:
        hidden: widths of the hidden layers; below D - 1 units, some conditionals miss some earlier dimensions.
        orders: M, the number of orders: row by row, its reverse, then random ones.
        residual: use h + f(h) instead of f(h) between layers of equal width.

    Raises:
        ValueError: the data are reals, or `orders` is below 1.
    """

    def __init__(
        self,
        space: Space,
        *,
        hidden: Sequence[int] = (512, 512),
        orders: int = 1,
        activation: Activation = "relu",
        dropout: float = 0.0,
        residual: bool = False,
    ) -> None:
        super().__init__(space)
        if orders < 1:
            raise ValueError(f"orders={orders} must be 1 or more")
        self.nets = nn.ModuleList(
            masked.MaskedMLP(
                space.dims,
                self.conditional.parameters,
                hidden,
                order=order,
                activation=activation,
                dropout=dropout,
                residual=residual,
                zero=True,
            )
            for order in dimension_orders(space.shape, orders)
        )

    def logits_of(self, net: nn.Module, x: Tensor) -> Tensor:
        """Return the logits of one network, x (B, *shape) -> (B, 1 or K, D)."""
        theta = at_least_float32(net(self.scaled(x.flatten(1))))
        return theta.view(len(x), self.space.dims, -1).mT

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits in the first order, x (B, *shape) -> (B, 1 or K, D)."""
        return self.logits_of(self.nets[0], x)

    def log_prob_per_order(self, x: Tensor) -> Tensor:
        """Return log p_m(x) in nats for each order m, x (B, *shape) -> (M, B)."""
        levels = x.flatten(1).to(self.network_dtype)
        return torch.stack([self.conditional.log_prob(self.logits_of(net, x), levels).sum(1) for net in self.nets])

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) = log 1/M sum_m p_m(x) in nats, x (B, *shape) -> (B,)."""
        return self.log_prob_per_order(x).logsumexp(0) - math.log(len(self.nets))

    def loss(self, x: Tensor) -> Tensor:
        """Return the sum over orders of the mean of -log p_m(x) (), x (B, *shape): networks train independently."""
        return -self.log_prob_per_order(x).mean(1).sum()

    def sample(self, n: int) -> Tensor:
        """Return n samples (n, *shape), each by a random network, one dimension after another."""
        component = torch.randint(len(self.nets), (n,), device=self.device)
        x = torch.empty(n, self.space.dims, dtype=self.space.dtype, device=self.device)
        for m, net in enumerate(self.nets):
            assert isinstance(net, masked.MaskedMLP)
            x[component == m] = self.sample_from(net, int((component == m).sum()))
        return x.view(n, *self.space.shape)

    def sample_from(self, net: masked.MaskedMLP, n: int) -> Tensor:
        """Return n samples (n, D) of one network."""
        columns: dict[int, Tensor] = {}

        def sample_dimension(i: int, y: Tensor) -> Tensor:
            columns[i] = self.conditional.sample(y.unsqueeze(2))
            return self.scaled(columns[i])

        net.unroll(n, sample_dimension)
        return torch.cat([columns[i] for i in range(self.space.dims)], 1)
