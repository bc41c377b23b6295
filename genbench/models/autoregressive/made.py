"""MADE: Masked Autoencoder for Distribution Estimation (2015)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genbench.dataset import Space
from genbench.models.autoregressive.discrete import Autoregressive, raster
from genbench.nets import masked
from genbench.nets.activations import Activation
from genbench.nets.precision import at_least_float32

__all__ = ["MADE"]


def orders_of(shape: tuple[int, ...], count: int) -> list[list[int]]:
    """Return `count` orders of the dimensions: row by row, that backwards, and then random ones, ever the same."""
    first, generator = raster(shape), torch.Generator().manual_seed(0)
    drawn = [torch.randperm(len(first), generator=generator) for _ in range(count - 2)]
    return [order.tolist() for order in (first, first.flip(0), *drawn)][:count]


class MADE(Autoregressive):
    """One masked perceptron gives every conditional; with several orders, the mixture of one network for each.

    The paper's ensemble (section 4.2) shares one network among its orders, which here have one each, trained apart:
    log p(x) = log 1/M sum_m p_m(x) is exact. Levels go in as numbers from -1 to 1.

    Args:
        hidden: widths of the layers; D - 1 or more in each, or some dimension is not told of all before it.
        orders: M, how many: row by row, that backwards, then random ones.
        residual: h + f(h) in place of f(h), between layers of equal width.

    Raises:
        ValueError: the space is of reals, or there is no order.
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
            masked.MADE(
                space.dims,
                self.conditional.parameters,
                hidden,
                order=order,
                activation=activation,
                dropout=dropout,
                residual=residual,
                zero=True,
            )
            for order in orders_of(space.shape, orders)
        )

    def given(self, net: nn.Module, x: Tensor) -> Tensor:
        """Return the logits that one network says, x (B, *shape) -> (B, 1 or K, D)."""
        theta = at_least_float32(net(self.scaled(x.flatten(1))))
        return theta.view(len(x), self.space.dims, -1).mT

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits in the first order, x (B, *shape) -> (B, 1 or K, D)."""
        return self.given(self.nets[0], x)

    def of_each(self, x: Tensor) -> Tensor:
        """Return log p_m(x) in nats of each order, x (B, *shape) -> (M, B)."""
        levels = x.flatten(1).to(next(self.parameters()).dtype)
        return torch.stack([self.conditional.log_prob(self.given(net, x), levels).sum(1) for net in self.nets])

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) = log 1/M sum_m p_m(x) in nats, x (B, *shape) -> (B,)."""
        return self.of_each(x).logsumexp(0) - math.log(len(self.nets))

    def loss(self, x: Tensor) -> Tensor:
        """Return the mean of -log p_m(x) over orders and batch, (): each network learns as if alone."""
        return -self.of_each(x).mean(1).sum()

    def sample(self, n: int) -> Tensor:
        """Return n samples (n, *shape), each by a network drawn for it, one dimension after another."""
        of = torch.randint(len(self.nets), (n,), device=next(self.parameters()).device)
        x = torch.empty(n, self.space.dims, dtype=self.conditional.dtype, device=of.device)
        for m, net in enumerate(self.nets):
            assert isinstance(net, masked.MADE)
            x[of == m] = self.unrolled(net, int((of == m).sum()))
        return x.view(n, *self.space.shape)

    def unrolled(self, net: masked.MADE, n: int) -> Tensor:
        """Return n samples (n, D) of one network."""
        drawn: dict[int, Tensor] = {}

        def choose(i: int, y: Tensor) -> Tensor:
            drawn[i] = self.conditional.sample(y.unsqueeze(2))
            return self.scaled(drawn[i])

        net.unroll(n, choose)
        return torch.cat([drawn[i] for i in range(self.space.dims)], 1)
