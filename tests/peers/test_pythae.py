"""The VAEs compared with pythae have the same architecture and compute the same function."""

from __future__ import annotations

import pytest
import torch

from genbench.dataset import Space
from genbench.models.vaes.vae import VAE

vaes_speed = pytest.importorskip("peers.vaes_speed", exc_type=ModuleNotFoundError)


@pytest.mark.parametrize("pair", vaes_speed.PAIRS.values(), ids=vaes_speed.PAIRS)
def test_compared_vaes_have_equally_many_parameters_and_train_all_of_them(pair) -> None:
    ours, theirs = pair.ours(), pair.theirs()
    assert sum(p.numel() for p in ours.parameters) == sum(p.numel() for p in theirs.parameters)
    x = torch.bernoulli(torch.full((4, *vaes_speed.SHAPE), 0.13))
    for task in (ours, theirs):
        gradients = torch.autograd.grad(task.loss(x), task.parameters)
        assert all(g.isfinite().all() for g in gradients)
        assert sum(g.abs().sum() > 0 for g in gradients) == len(gradients)


def test_compared_vaes_are_the_same_function_of_their_weights() -> None:
    model = VAE(Space(vaes_speed.SHAPE, levels=2), **vaes_speed.VAE_OPTIONS)
    their_model = vaes_speed.pythae.VAE(
        vaes_speed.pythae.VAEConfig(reconstruction_loss="bce", **vaes_speed.PYTHAE_CONFIG)
    )
    weights = list(model.encoder.parameters())
    halves = [half for p in weights[2:] for half in p.chunk(2)]
    ordered = [*model.decoder.parameters(), *weights[:2], halves[0], halves[2], halves[1], halves[3]]
    with torch.no_grad():
        for p, q in zip(their_model.parameters(), ordered, strict=True):
            p.copy_(q)
    x = torch.bernoulli(torch.full((4, *vaes_speed.SHAPE), 0.13))
    losses = []
    for loss in (model.eval().loss, vaes_speed.pythae_task(their_model).loss):
        torch.manual_seed(0)
        losses.append(loss(x))
    torch.testing.assert_close(*losses)
