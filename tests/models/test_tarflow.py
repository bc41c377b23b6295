"""Properties of the causal transformer and TarFlow: dependencies of outputs, and decoding token by token."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from genbench.dataset import Space
from genbench.models.flows.tarflow import TarFlow, TokenAutoregressive, patches, strided
from genbench.nets.transformer import KVCache, Transformer

T, INPUTS, OUTPUTS = 6, 3, 5


def transformer(**options: object) -> tuple[Transformer, torch.Tensor]:
    """Return a transformer with perturbed parameters, in float64, and x (4, T, INPUTS)."""
    torch.manual_seed(0)
    net = Transformer(INPUTS, OUTPUTS, T, width=8, heads=2, depth=2, **options).double()
    with torch.no_grad():
        for p in net.parameters():
            p += 0.3 * torch.randn_like(p)
    return net, torch.randn(4, T, INPUTS, dtype=torch.float64)


def test_output_depends_on_exactly_the_tokens_before_it() -> None:
    net, x = transformer()
    J = torch.autograd.functional.jacobian(lambda v: net(v[None])[0].sum(-1), x[0])  # (T, T, INPUTS)
    depends = J.abs().sum(-1) > 0
    assert torch.equal(depends, torch.ones(T, T).tril(-1).bool())


def test_steps_with_cached_keys_and_values_agree_with_the_parallel_pass() -> None:
    net, x = transformer()
    cache: KVCache = {}
    steps = [net.step(x[:, max(t - 1, 0)], t, cache) for t in range(T)]
    torch.testing.assert_close(torch.stack(steps, 1), net(x))
    assert all(k.shape == v.shape == (4, 2, T, 4) for k, v in cache.values())


def test_zero_transformer_starts_as_the_zero_function_and_can_leave_it() -> None:
    net, x = Transformer(INPUTS, OUTPUTS, T, width=8, heads=2, zero=True), torch.randn(4, T, INPUTS)
    assert torch.equal(net(x), torch.zeros(4, T, OUTPUTS))
    gradients = torch.autograd.grad((net(x) - 1).square().sum(), list(net.parameters()))
    assert any(g.abs().sum() > 0 for g in gradients)


def test_dropout_acts_in_training_only() -> None:
    net, x = transformer(dropout=0.5)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


def test_heads_that_do_not_divide_the_width_are_rejected() -> None:
    with pytest.raises(ValueError, match="heads must divide the width, got 3 and 8"):
        Transformer(1, 1, 2, width=8, heads=3)


def test_patches_are_squares_row_by_row() -> None:
    image = torch.arange(2 * 4 * 6).view(2, 4, 6)
    order = patches((2, 4, 6), 2)
    assert order.shape == (6, 8)
    assert torch.equal(order[0], image[:, :2, :2].flatten())
    assert torch.equal(order[1], image[:, :2, 2:4].flatten())
    assert torch.equal(order[5], image[:, 2:, 4:].flatten())
    assert torch.equal(order.flatten().sort().values, torch.arange(48))
    assert torch.equal(patches((5,), 2), torch.arange(5).view(5, 1))


def test_strided_tokens_are_pixels_far_apart() -> None:
    image = torch.arange(2 * 4 * 6).view(2, 4, 6)
    order = strided((2, 4, 6), 2)
    assert torch.equal(order[0], image[:, ::2, ::3].flatten())
    assert torch.equal(order[4], image[:, 1::2, 1::3].flatten())
    assert torch.equal(order.flatten().sort().values, torch.arange(48))


def test_patches_that_do_not_tile_the_image_are_rejected() -> None:
    with pytest.raises(ValueError, match="patch=3 must divide the sides of 28x28"):
        TarFlow(Space((1, 28, 28), 256), patch=3)


@pytest.mark.parametrize("blocks", [1, 2])
def test_blocks_alternate_between_forward_and_reverse_order(blocks: int) -> None:
    """In one block dz_t/dx_s = 0 for later patches s; with a second, in reverse, each patch depends on all."""
    torch.manual_seed(0)
    model = TarFlow(Space((1, 4, 4)), blocks=blocks, channels=8, heads=2).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn_like(p)
    x = torch.randn(16, dtype=torch.float64)
    J = torch.autograd.functional.jacobian(lambda v: model.encode(v.view(1, 1, 4, 4))[0], x)
    order = patches((1, 4, 4), 2).flatten()
    J = J[order][:, order].view(4, 4, 4, 4).abs().sum((1, 3)) > 0
    assert torch.equal(J, torch.ones(4, 4).tril().bool() if blocks == 1 else torch.ones(4, 4).bool())


def test_attention_learns_the_row_above_in_a_hundred_steps() -> None:
    """Each row of patches is the one above plus a little noise, so only tokens one row back are informative.

    With position embeddings much smaller than tokens, 98 of 137 nats are missing after as many steps, and the rows of
    images do not match.
    """
    torch.manual_seed(0)
    sigma, rows = 0.1, [torch.randn(2000, 1, 2, 8)]
    for _ in range(3):
        rows.append(rows[-1] + sigma * torch.randn(2000, 1, 2, 8))
    x = torch.cat(rows, 2)
    entropy = 64 * 0.5 * math.log(2 * math.pi * math.e) + 48 * math.log(sigma)
    model = TarFlow(Space((1, 8, 8)), blocks=1, layers=1, channels=32, heads=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for i in range(100):
        optimizer.zero_grad()
        model.loss(x[50 * (i % 38) :][:50]).backward()
        optimizer.step()
    with torch.no_grad():
        assert 0 < model.eval().loss(x[1900:]).item() - entropy < 40


def perturbed(blocks: int = 3) -> TarFlow:
    """Return a TarFlow on images, with parameters perturbed as far as training moves them."""
    torch.manual_seed(0)
    model = TarFlow(Space((1, 6, 6)), blocks=blocks, channels=16, heads=2)
    with torch.no_grad():
        for net in (f.net for f in model.bijection if isinstance(f, TokenAutoregressive)):
            for p in net.parameters():
                p += 0.3 * torch.randn_like(p)
            net.head[-1].weight *= 0.3
    return model.eval()


def test_decoding_token_by_token_is_the_inverse_up_to_rounding() -> None:
    """In float32 and float64: errors do not grow from token to token."""
    model, z = perturbed(), torch.randn(64, 36)
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        x, truth = model.decode(z), exact.decode(z.double())
        torch.testing.assert_close(exact.encode(truth), z.double(), rtol=1e-9, atol=1e-9)
        error = (x - truth).abs().flatten(1)[:, patches((1, 6, 6), 2).flatten()].view(64, 9, 4)
        assert (error.amax((0, 2)) < 1e-4 * truth.abs().max()).all()
        torch.testing.assert_close(model.encode(x), z, rtol=1e-3, atol=1e-3)
