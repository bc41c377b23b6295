"""Importance weighted autoencoders: trained and evaluated by the bound L_k."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from genbench.dataset import Space
from genbench.models.vaes.single_layer import EncoderVAE

__all__ = ["IWAE"]


class IWAE(EncoderVAE):
    """The importance weighted autoencoder: log p(x) >= L_k = E log 1/k sum_i w_i with k samples.

    Importance Weighted Autoencoders (2016), eq. 8; its gradient, eq. 14, is that of log-sum-exp itself.
    """

    def __init__(self, space: Space, *, k: int = 8, **options: Any) -> None:
        super().__init__(space, **options)
        self.k = k

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log 1/k sum_i w_i in nats, x (B, *shape) -> (B,)."""
        return self.log_weights(x, self.k).logsumexp(0) - math.log(self.k)
