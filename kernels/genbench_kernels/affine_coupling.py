"""Affine coupling with its log-determinant (Density estimation using Real NVP, 2017, eq. 7-8)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Scale = Literal["exp", "tanh", "sigmoid", "sigmoid_inv"]


def affine_coupling(
    x: Tensor,
    params: Tensor,
    *,
    layout: Literal["chunk", "interleave"] = "chunk",
    scale: Scale = "exp",
    gain: Tensor | None = None,
    mask: Tensor | None = None,
    inverse: bool = False,
    backend: Literal["auto", "fused", "reference"] = "auto",
) -> tuple[Tensor, Tensor]:
    """Return y = x e^s + t and logdet = sum s; x (B, C, ...), params (B, 2C, ...) -> y as x, logdet (B,) float32."""
    if layout == "chunk":
        s, t = params.chunk(2, dim=1)
    else:
        s, t = params[:, 0::2], params[:, 1::2]
    if scale == "tanh":
        s = torch.tanh(s)
        if gain is not None:
            s = s * gain.view(1, -1, *[1] * (x.ndim - 2))
    elif scale == "sigmoid":
        s = logsigmoid(s + 2)
    elif scale == "sigmoid_inv":
        s = -logsigmoid(s + 2)
    if mask is not None:
        s, t = s * mask, t * mask
    y = (x - t) * torch.exp(-s) if inverse else x * torch.exp(s) + t
    logdet = s.flatten(1).sum(1)
    return y, -logdet if inverse else logdet
