"""Improved Variational Inference with Inverse Autoregressive Flow (2016)."""

from __future__ import annotations

from genbench.models.flows.autoregressive import AffineAutoregressive, InverseAutoregressive

__all__ = ["IAF"]


class IAF(AffineAutoregressive):
    """The inverse of MAF: a sample takes one pass of each layer, a density D steps; trained by maximum likelihood.

    With the scale "sigmoid" it is the inverse of the paper's gate (eq. 12-13).
    """

    layer = InverseAutoregressive
