"""Masked Autoregressive Flow for Density Estimation (2017)."""

from __future__ import annotations

from genbench.models.flows.autoregressive import AffineAutoregressive, MaskedAutoregressive

__all__ = ["MAF"]


class MAF(AffineAutoregressive):
    """z_i = e^s x_i + t with (s, t) computed from the dimensions before i, in an order reversed with each layer.

    A density takes one pass of each layer, a sample D steps. In the paper norm is "batch" and scale "exp".
    """

    layer = MaskedAutoregressive
