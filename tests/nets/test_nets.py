"""Networks have their output shapes, and those with `zero` start as the zero function."""

from __future__ import annotations

import pytest
import torch

from genbench.nets.activations import ACTIVATIONS, Activation
from genbench.nets.convnet import convnet
from genbench.nets.mlp import mlp
from genbench.nets.resnet import ResidualBlock, resnet

NETS = {
    "mlp": (lambda **kw: mlp(6, 4, (8, 8), **kw), (6,), (4,)),
    "convnet": (lambda **kw: convnet(6, 4, 8, **kw), (6, 5, 7), (4, 5, 7)),
    "resnet": (lambda **kw: resnet(6, 4, 8, 2, **kw), (6, 5, 7), (4, 5, 7)),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("net", NETS)
def test_shapes_and_gradients(net: str, activation: Activation) -> None:
    make, shape, out = NETS[net]
    model = make(activation=activation)
    x = torch.randn(3, *shape)
    y = model(x)
    assert y.shape == (3, *out)
    assert y.abs().sum() > 0
    gradients = torch.autograd.grad(y.square().sum(), list(model.parameters()), allow_unused=True)
    assert all(g is not None for g in gradients)


@pytest.mark.parametrize("net", NETS)
def test_zero_nets_start_as_the_zero_function_and_can_leave_it(net: str) -> None:
    make, shape, out = NETS[net]
    model = make(zero=True)
    y = model(torch.randn(3, *shape))
    assert torch.equal(y, torch.zeros(3, *out))
    gradients = torch.autograd.grad((y - 1).square().sum(), list(model.parameters()))
    assert any(g.abs().sum() > 0 for g in gradients)


@pytest.mark.parametrize("net", NETS)
def test_dropout_acts_in_training_only(net: str) -> None:
    make, shape, _ = NETS[net]
    model, x = make(dropout=0.5), torch.randn(3, *shape)
    for p in model.parameters():
        torch.nn.init.normal_(p)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_residual_block_starts_as_the_identity_and_does_not_change_its_input(activation: Activation) -> None:
    x = torch.randn(2, 4, 5, 5)
    before = x.clone()
    assert torch.equal(ResidualBlock(4, activation=activation)(x), x)
    assert torch.equal(x, before)
