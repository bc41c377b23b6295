"""The linear layer y = x W^T + b."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from genbench.fastpath import accelerated


@accelerated
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b, x (..., I), weight (O, I), bias (O,) -> (..., O), as torch.nn.functional.linear does."""
    return functional.linear(x, weight, bias)


class Dense(nn.Linear):
    """torch.nn.Linear, by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return x W^T + b, x (..., in_features) -> (..., out_features)."""
        return linear(input, self.weight, self.bias)
