"""The VAEs of pythae that are timed beside ours: the same architecture, the same function."""

from __future__ import annotations

import pytest
import torch

from genbench.dataset import Space
from genbench.models.vaes.vae import VAE

vaes_speed = pytest.importorskip("peers.vaes_speed", exc_type=ModuleNotFoundError)


@pytest.mark.parametrize("pair", vaes_speed.PAIRS.values(), ids=vaes_speed.PAIRS)
def test_timed_vaes_have_as_many_parameters_and_all_are_trained(pair) -> None:
    ours, theirs = pair.ours(), pair.theirs()
    assert sum(p.numel() for p in ours.parameters) == sum(p.numel() for p in theirs.parameters)
    x = torch.bernoulli(torch.full((4, *vaes_speed.SHAPE), 0.13))
    for made in (ours, theirs):
        gradients = torch.autograd.grad(made.loss(x), made.parameters)
        assert all(g.isfinite().all() for g in gradients)
        assert sum(g.abs().sum() > 0 for g in gradients) == len(gradients)


def test_the_timed_vae_is_the_same_function_of_its_weights() -> None:
    model = VAE(Space(vaes_speed.SHAPE, levels=2), **vaes_speed.VAES)
    their = vaes_speed.pythae.VAE(vaes_speed.pythae.VAEConfig(reconstruction_loss="bce", **vaes_speed.THEIRS))
    weights = list(model.encoder.parameters())
    halves = [half for p in weights[2:] for half in p.chunk(2)]
    ordered = [*model.decoder.parameters(), *weights[:2], halves[0], halves[2], halves[1], halves[3]]
    with torch.no_grad():
        for p, q in zip(their.parameters(), ordered, strict=True):
            p.copy_(q)
    x = torch.bernoulli(torch.full((4, *vaes_speed.SHAPE), 0.13))
    losses = []
    for loss in (model.eval().loss, vaes_speed.theirs(their).loss):
        torch.manual_seed(0)
        losses.append(loss(x))
    torch.testing.assert_close(*losses)
