"""The VAEs of pythae that are timed beside ours: the same architecture, the same function."""

from __future__ import annotations

import pytest
import torch

from genbench.dataset import Space
from genbench.models.vaes.vae import VAE

pythae_vaes = pytest.importorskip("peers.pythae_vaes", exc_type=ModuleNotFoundError)


@pytest.mark.parametrize("pair", pythae_vaes.PAIRS.values(), ids=pythae_vaes.PAIRS)
def test_timed_vaes_have_as_many_parameters_and_all_are_trained(pair) -> None:
    ours, theirs = pair.ours(), pair.theirs()
    assert sum(p.numel() for p in ours.parameters) == sum(p.numel() for p in theirs.parameters)
    x = torch.bernoulli(torch.full((4, *pythae_vaes.SHAPE), 0.13))
    for made in (ours, theirs):
        gradients = torch.autograd.grad(made.loss(x), made.parameters)
        assert all(g.isfinite().all() for g in gradients)
        assert sum(g.abs().sum() > 0 for g in gradients) == len(gradients)


def test_the_timed_vae_is_the_same_function_of_its_weights() -> None:
    model = VAE(Space(pythae_vaes.SHAPE, levels=2), **pythae_vaes.VAES)
    their = pythae_vaes.pythae.VAE(pythae_vaes.pythae.VAEConfig(reconstruction_loss="bce", **pythae_vaes.THEIRS))
    weights = list(model.encoder.parameters())
    halves = [half for p in weights[2:] for half in p.chunk(2)]
    ordered = [*model.decoder.parameters(), *weights[:2], halves[0], halves[2], halves[1], halves[3]]
    with torch.no_grad():
        for p, q in zip(their.parameters(), ordered, strict=True):
            p.copy_(q)
    x = torch.bernoulli(torch.full((4, *pythae_vaes.SHAPE), 0.13))
    losses = []
    for loss in (model.eval().loss, pythae_vaes.theirs(their).loss):
        torch.manual_seed(0)
        losses.append(loss(x))
    torch.testing.assert_close(*losses)
