"""Cross-entropies of finding, for each of a batch, what belongs to it among all of the batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from genbench.nets.precision import at_least_float32, full_precision


def nt_xent(a: Tensor, b: Tensor, tau: float) -> Tensor:
    """Return the normalised temperature-scaled cross-entropy () of two views a, b (B, Z) of B points.

    A Simple Framework for Contrastive Learning of Visual Representations (2020), eq. 1, averaged over all 2B views:
    -log exp(s_ij / tau) / sum_(k != i) exp(s_ik / tau), s cosines, j the other view of the point of i.
    """
    z, N = normalize(at_least_float32(torch.cat((a, b))), dim=1), len(a) + len(b)
    itself = torch.eye(N, dtype=torch.bool, device=z.device)
    with full_precision(z):
        logits = (z @ z.T / tau).masked_fill(itself, -torch.inf)
    return cross_entropy(logits, torch.arange(N, device=z.device).roll(len(a)))


def matching(logits: Tensor, together: Tensor) -> Tensor:
    """Return the symmetric cross-entropy () of matching rows with columns, logits (I, J), `together` (I, J) bool.

    Learning Transferable Visual Models From Natural Language Supervision (2021), figure 3, where `together` is the
    identity. A row that belongs with several columns has its target spread evenly over them, and a column over rows,
    so that pairs which belong together are never pushed apart. Every row and column belongs with some other.
    """
    return (spread_cross_entropy(logits, together) + spread_cross_entropy(logits.T, together.T)) / 2


def spread_cross_entropy(logits: Tensor, positive: Tensor) -> Tensor:
    """Return the mean over rows i () of -1/|P(i)| sum_(p in P(i)) log softmax_p, logits (I, J), `positive` (I, J) bool.

    Supervised Contrastive Learning (2020), eq. 2, and of images and texts Unified Contrastive Learning in
    Image-Text-Label Space (2022), eq. 3 and 4. It is least where a row's softmax is even over P(i): mean log |P(i)|.
    """
    targets = positive / positive.sum(1, keepdim=True)
    return -(targets * logits.log_softmax(1)).sum(1).mean()
