"""Masked Autoregressive Flow for Density Estimation (2017)."""

from __future__ import annotations

from genbench.models.flows.autoregressive import AffineAutoregressive, MaskedAutoregressive

__all__ = ["MAF"]


class MAF(AffineAutoregressive):
    """Affine maps of each dimension as those before it say, z_i = e^s x_i + t, in an order that turns with each layer.

    A density is one pass of each layer, a sample D steps. The paper's norm is "batch", its scale "exp".
    """

    layer = MaskedAutoregressive
