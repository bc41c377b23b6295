"""Contrastive losses: the cross-entropy of identifying the matching item among all items of a batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from genbench.nets.precision import at_least_float32, full_precision


def nt_xent(a: Tensor, b: Tensor, tau: float) -> Tensor:
    """Return the normalized temperature-scaled cross-entropy () of two views a, b (B, Z) of B points.

    A Simple Framework for Contrastive Learning of Visual Representations (2020), eq. 1, averaged over all 2B views:
    -log exp(s_ij / tau) / sum_(k != i) exp(s_ik / tau), s cosines, i and j the two views of a point.
    """
    z, N = normalize(at_least_float32(torch.cat((a, b))), dim=1), len(a) + len(b)
    diagonal = torch.eye(N, dtype=torch.bool, device=z.device)
    with full_precision(z):
        logits = (z @ z.T / tau).masked_fill(diagonal, -torch.inf)
    return cross_entropy(logits, torch.arange(N, device=z.device).roll(len(a)))


def symmetric_cross_entropy(logits: Tensor, positive: Tensor) -> Tensor:
    """Return the cross-entropy () of matching rows with columns and columns with rows, logits, `positive` (I, J) bool.

    Learning Transferable Visual Models From Natural Language Supervision (2021), figure 3, where `positive` is the
    identity. If a row has several positive columns, its target is uniform over them, and likewise for columns, so that
    positive pairs never repel each other. Every row and every column must have a positive.
    """
    return (uniform_target_cross_entropy(logits, positive) + uniform_target_cross_entropy(logits.T, positive.T)) / 2


def uniform_target_cross_entropy(logits: Tensor, positive: Tensor) -> Tensor:
    """Return the mean over rows i () of -1/|P(i)| sum_(p in P(i)) log softmax_p, logits (I, J), `positive` (I, J) bool.

    P(i) are the positive columns of row i. Supervised Contrastive Learning (2020), eq. 2; for images and texts, Unified
    Contrastive Learning in Image-Text-Label Space (2022), eq. 3 and 4. The minimum, mean log |P(i)|, is reached where
    the softmax of each row is uniform over P(i).
    """
    targets = positive / positive.sum(1, keepdim=True)
    return -(targets * logits.log_softmax(1)).sum(1).mean()
