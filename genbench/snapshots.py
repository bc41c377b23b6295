"""Moments of a training that are kept to be drawn: in the plane, where a game stands.

What a critic makes of the plane and where the samples are is a small tensor, while the weights that gave it are gone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genbench.capabilities import HasCritic
from genbench.dataset import Dataset
from genbench.model import Model

SNAPSHOTS = 11  # of a training, its start and its end among them
POINTS, SIDE = 512, 48  # samples of a moment; values of the critic along a side of the plane: 13 kB in all

Snapshots = dict[int, dict[str, Tensor]]  # by the steps that were done


def steps_of(steps: int) -> set[int]:
    """Return after how many of `steps` a moment is kept: ever further apart, for most is to be seen at first."""
    return {round(steps * (k / (SNAPSHOTS - 1)) ** 2) for k in range(SNAPSHOTS)}


def snapshot(model: Model, dataset: Dataset) -> dict[str, Tensor]:
    """Return samples (512, 2) and v (48, 48) on the lattice of `extent`, on the CPU.

    Nothing for a model without a critic or for data that are not points of the plane.
    """
    if not isinstance(model, HasCritic) or dataset.space.shape != (2,):
        return {}
    plane = lattice(extent(dataset), SIDE).to(next((p.device for p in model.parameters()), torch.device("cpu")))
    v = model.critic_score(plane).view(SIDE, SIDE)
    return {"samples": model.sample(POINTS).cpu(), "critic": v.cpu()}


def extent(dataset: Dataset) -> float:
    """Return half the side of the square around 0 that is drawn of the plane: all training points and a tenth more."""
    return dataset.train.abs().max().item() * 1.1


def lattice(edge: float, side: int) -> Tensor:
    """Return the middles of side^2 cells of [-edge, edge]^2, the second coordinate the faster, (side^2, 2)."""
    axis = (torch.arange(side) + 0.5) / side * 2 * edge - edge
    return torch.cartesian_prod(axis, axis)
