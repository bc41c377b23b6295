"""Snapshots of a GAN on the plane during training: samples and values of the critic, for pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from genbench.capabilities import HasCritic
from genbench.dataset import Dataset
from genbench.model import Model

SNAPSHOTS = 11  # per training run, including its start and its end
POINTS, SIDE = 512, 48  # samples, and values of the critic along each side of the plane: 13 kB per snapshot

Snapshots = dict[int, dict[str, Tensor]]  # by step


def steps_of(steps: int) -> set[int]:
    """Return the steps, of `steps` in all, at which snapshots are taken: denser at the start, where most changes."""
    return {round(steps * (k / (SNAPSHOTS - 1)) ** 2) for k in range(SNAPSHOTS)}


def snapshot(model: Model, dataset: Dataset) -> dict[str, Tensor]:
    """Return samples (512, 2) and v (48, 48) on the lattice of `extent`, on the CPU.

    Nothing for a model without a critic, or for data that are not 2-D points.
    """
    if not isinstance(model, HasCritic) or dataset.space.shape != (2,):
        return {}
    plane = lattice(extent(dataset), SIDE).to(next((p.device for p in model.parameters()), torch.device("cpu")))
    v = model.critic_score(plane).view(SIDE, SIDE)
    return {"samples": model.sample(POINTS).cpu(), "critic": v.cpu()}


def extent(dataset: Dataset) -> float:
    """Return half the side of the square around 0 that pictures show: all training points and a margin of a tenth."""
    return dataset.train.abs().max().item() * 1.1


def lattice(edge: float, side: int) -> Tensor:
    """Return the centers (side^2, 2) of the cells of a grid on [-edge, edge]^2; the second coordinate varies faster."""
    axis = (torch.arange(side) + 0.5) / side * 2 * edge - edge
    return torch.cartesian_prod(axis, axis)
