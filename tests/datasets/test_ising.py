"""The Ising model: probabilities, entropy and samples compared with sums over all states."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from genbench.datasets.ising import CRITICAL, entropy, ising, log_partition, log_prob, sample

ALL_STATES = torch.cartesian_prod(*[torch.tensor([0, 1], dtype=torch.uint8)] * 9).view(-1, 1, 3, 3)


def truth(x: Tensor, side: int, beta: float) -> Tensor:
    """Return log p of x."""
    return log_prob(x, beta=beta, log_z=log_partition(side, beta))


@pytest.mark.parametrize("beta", [-0.7, 0.0, 0.2, CRITICAL, 1.5])
def test_probabilities_sum_to_one_and_have_the_computed_entropy(beta: float) -> None:
    log_p = truth(ALL_STATES, 3, beta)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert -(log_p.exp() * log_p).sum().item() == pytest.approx(entropy(3, beta), abs=1e-12)


def test_every_site_has_four_neighbors_with_periodic_edges() -> None:
    up = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
    flipped = up.clone()
    flipped[0, 0, 0, 7] = 0
    assert (truth(up, 8, 0.3) - truth(flipped, 8, 0.3)).item() == pytest.approx(0.3 * 4 * 2)
    assert truth(1 - up, 8, 0.3).item() == pytest.approx(truth(up, 8, 0.3).item())


def test_entropy_without_coupling_and_at_low_temperature() -> None:
    assert entropy(8, 0.0) == pytest.approx(64 * math.log(2))
    assert entropy(8, 3.0) == pytest.approx(math.log(2), abs=1e-6)


def test_samples_follow_the_probabilities() -> None:
    n = 40_000
    x = sample(n, 3, 0.3, torch.Generator().manual_seed(3))
    codes = (x.flatten(1).long() * 2 ** torch.arange(8, -1, -1)).sum(1)
    counts = torch.bincount(codes, minlength=512)
    assert chisquare(counts, n * truth(ALL_STATES, 3, 0.3).exp()).pvalue > 1e-3


def test_mean_log_prob_of_the_data_set_is_minus_the_entropy() -> None:
    data = ising()
    log_p = data.log_prob(data.test)
    stderr = log_p.std().item() / len(log_p) ** 0.5
    assert -log_p.mean().item() == pytest.approx(data.entropy, abs=3 * stderr)
    assert data.entropy / 64 == pytest.approx(0.2824, abs=1e-4)  # below 0.3065 of the infinite lattice (Onsager)
    assert data.train.float().mean().item() == pytest.approx(0.5, abs=0.02)
