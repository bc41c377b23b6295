"""Properties of Gaussianization: rotations, and initialization from the first batch."""

from __future__ import annotations

import pytest
import torch

from genbench.dataset import Space
from genbench.models.flows.gaussianization import ROTATIONS, Gaussianization, Rotation


@pytest.mark.parametrize("D", [1, 2, 5])
@pytest.mark.parametrize("learned", [True, False])
def test_rotation_is_orthogonal_for_all_reflections(D: int, learned: bool) -> None:
    layer = Rotation((D,), learned=learned).double()
    assert len(list(layer.parameters())) == learned
    for _ in range(3):
        Q = layer.matrix()
        torch.testing.assert_close(Q @ Q.T, torch.eye(D).double())
        with torch.no_grad():
            layer.A += torch.randn_like(layer.A)


def test_rotation_is_the_product_of_its_reflections() -> None:
    layer = Rotation((4,)).double()
    Q = torch.eye(4).double()
    for i in range(3):
        v = torch.cat((torch.zeros(i), torch.ones(1))).double()
        v = torch.cat((v, layer.A[i + 1 :, i]))
        Q = Q @ (torch.eye(4).double() - 2 * torch.outer(v, v) / v.dot(v))
    torch.testing.assert_close(layer.matrix(), Q)


def test_gradient_of_the_rotation_agrees_with_finite_differences() -> None:
    A = torch.randn(4, 3).double().requires_grad_()
    layer, x = Rotation((4,)).double(), torch.randn(2, 4).double()
    assert torch.autograd.gradcheck(lambda A: torch.func.functional_call(layer, {"A": A}, (x,))[0], (A,))


@pytest.mark.parametrize("rotation", ROTATIONS)
def test_initialization_from_the_first_batch_makes_a_ring_nearly_normal(rotation: str) -> None:
    """The first pass is the iteration of 2000, without any training."""
    angle = torch.rand(4000) * 6.2832
    x = (2 + 0.2 * torch.randn(4000, 1)) * torch.stack((angle.cos(), angle.sin()), 1)
    with torch.no_grad():
        nats = [Gaussianization(Space((2,)), layers=n, components=8, rotation=rotation).loss(x).item() for n in (1, 12)]
    assert nats[1] < nats[0] - 0.4
