"""Improved Variational Inference with Inverse Autoregressive Flow (2016)."""

from __future__ import annotations

from genbench.models.flows.autoregressive import AffineAutoregressive, InverseAutoregressive

__all__ = ["IAF"]


class IAF(AffineAutoregressive):
    """MAF the other way round: a sample is one pass of each layer, a density D steps; here it is fitted by density.

    With the scale "sigmoid" it is the paper's gate (eq. 12-13) seen from the data.
    """

    layer = InverseAutoregressive
