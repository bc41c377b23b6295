"""Autoregressive models of integers: causality, probabilities that sum to one, samples that follow them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from genbench.dataset import Space
from genbench.models.autoregressive.discrete import AutoregressiveModel, raster_order
from genbench.models.autoregressive.made import MADE, dimension_orders
from genbench.models.autoregressive.pixelcnn import PixelCNN
from genbench.models.autoregressive.transformer import PixelTransformer

Make = Callable[..., AutoregressiveModel]
Row = tuple[Make, dict[str, object]]

MODELS: dict[str, Row] = {
    "MADE": (MADE, {"hidden": (70, 70), "activation": "tanh"}),
    "MADE residual": (MADE, {"hidden": (70, 70), "activation": "tanh", "residual": True, "dropout": 0.2}),
    "PixelCNN": (PixelCNN, {"channels": 12, "layers": 5, "dropout": 0.2}),
    "PixelCNN wide": (PixelCNN, {"channels": 12, "layers": 3, "kernel": 5}),
    "PixelTransformer": (PixelTransformer, {"channels": 8, "heads": 2, "dropout": 0.2}),
}
MIXTURE = {"MADE of 3 orders": (MADE, {"hidden": (70,), "orders": 3})}
each_single_order = pytest.mark.parametrize("row", MODELS.values(), ids=MODELS)
every_model = pytest.mark.parametrize("row", {**MODELS, **MIXTURE}.values(), ids=[*MODELS, *MIXTURE])
SPACES = {"binary": Space((1, 5, 4), 2), "levels": Space((1, 5, 5), 7), "color": Space((3, 3, 4), 4)}
TINY = {"binary": Space((1, 2, 3), 2), "levels": Space((1, 2, 2), 3), "color": Space((3, 1, 2), 2)}
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
every_tiny = pytest.mark.parametrize("space", TINY.values(), ids=TINY)


def build(row: Row, space: Space) -> AutoregressiveModel:
    """Return a model with perturbed parameters, in float64 and evaluation mode."""
    make, options = row
    model = make(space, **options).double()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn_like(p)
    return model.eval()


def points(space: Space, n: int = 6) -> Tensor:
    """Return points x (n, *shape) of a space."""
    assert space.levels is not None
    return torch.randint(0, space.levels, (n, *space.shape)).to(torch.uint8)


def all_points(space: Space) -> Tensor:
    """Return every point of a small space, x (K^D, *shape)."""
    assert space.levels is not None
    x = torch.tensor(list(itertools.product(range(space.levels), repeat=space.dims)))
    return x.view(-1, *space.shape).to(torch.uint8)


def test_raster_order_keeps_the_channels_of_a_pixel_together() -> None:
    """Memory order is (channel, row, column); raster order is (row, column, channel)."""
    assert raster_order((2, 2, 3)).tolist() == [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]
    assert raster_order((4,)).tolist() == [0, 1, 2, 3]
    first, second, third = dimension_orders((2, 1, 2), 3)
    assert (first, second) == ([0, 2, 1, 3], [3, 1, 2, 0])
    assert sorted(third) == [0, 1, 2, 3]
    assert third not in (first, second)
    assert dimension_orders((2, 1, 2), 3) == [first, second, third]


def test_each_network_of_a_mixture_is_causal_in_its_own_order() -> None:
    """In network m, the logits of a dimension change with exactly those before it in order m."""
    space = Space((1, 2, 3), 3)
    model, D = build((MADE, {"hidden": (70,), "orders": 3}), space), space.dims
    assert isinstance(model, MADE)
    x = points(space, 1).flatten()
    flipped = x.repeat(D, 1)
    flipped[range(D), range(D)] = (x + 1) % 3
    for net, order in zip(
        model.nets, ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], dimension_orders(space.shape, 3)[2]), strict=True
    ):
        with torch.no_grad():
            depends = (model.logits_of(net, flipped) - model.logits_of(net, x[None])).abs().amax(1).mT > 1e-15
        assert torch.equal(depends[order][:, order], torch.ones(D, D).tril(-1).bool())


@each_single_order
@every_space
def test_each_dimension_depends_on_all_before_it_and_no_other(row: Row, space: Space) -> None:
    """Changing x_j changes the logits of i if and only if j comes before i: no blind spot, no leak between channels."""
    model, D, order = build(row, space), space.dims, raster_order(space.shape)
    assert space.levels is not None
    depends = torch.zeros(D, D, dtype=torch.bool)
    with torch.no_grad():
        for x in points(space, 10):
            flipped = x.flatten().repeat(D, 1)
            flipped[range(D), range(D)] = (x.flatten() + 1) % space.levels
            difference = model.logits(flipped.view(D, *space.shape)) - model.logits(x.expand(D, *space.shape))
            depends |= difference.abs().amax(1).mT > 1e-15
    assert torch.equal(depends[order][:, order], torch.ones(D, D).tril(-1).bool())


@every_model
@every_tiny
def test_probabilities_sum_to_one(row: Row, space: Space) -> None:
    with torch.no_grad():
        total = build(row, space).log_prob(all_points(space)).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-10)


@every_model
@every_tiny
def test_samples_follow_the_probabilities(row: Row, space: Space) -> None:
    """Chi-square over all points, pooling those expected fewer than 5 times; within 5 standard deviations."""
    model, n, x = build(row, space), 4000, all_points(space)
    with torch.no_grad():
        p = model.log_prob(x).exp()
        samples = model.sample(n)
    digit = torch.tensor([space.levels**k for k in range(space.dims)]).flip(0)
    counts = torch.bincount(samples.flatten(1).long() @ digit, minlength=len(x)).double()
    rare = n * p < 5
    expected = torch.cat((n * p[~rare], n * p[rare].sum(0, keepdim=True)))
    observed = torch.cat((counts[~rare], counts[rare].sum(0, keepdim=True)))
    statistic, freedom = ((observed - expected) ** 2 / expected.clamp(min=1e-9)).sum().item(), len(expected) - 1
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5 + 5


@every_model
@every_space
def test_samples_have_the_shape_and_range_of_the_data(row: Row, space: Space) -> None:
    x = build(row, space).float().sample(40)
    assert x.shape == (40, *space.shape)
    assert x.dtype == torch.uint8
    assert x.max().item() == (space.levels or 0) - 1


@every_model
@every_space
def test_log_prob_of_a_point_ignores_the_rest_of_the_batch(row: Row, space: Space) -> None:
    model, x = build(row, space), points(space)
    with torch.no_grad():
        one_by_one = torch.cat([model.log_prob(point[None]) for point in x])
        torch.testing.assert_close(model.log_prob(x), one_by_one)


@every_model
@every_space
def test_every_parameter_is_trained(row: Row, space: Space) -> None:
    """Also, dropout is active only in training."""
    model, x = build(row, space).train(), points(space, 32)
    gradients = torch.autograd.grad(model.loss(x), list(model.parameters()))
    assert all(g.abs().sum() > 0 for g in gradients)
    model.eval()
    assert model.loss(x).item() == model.loss(x).item()


@every_model
def test_training_approaches_the_entropy_of_two_points(row: Row) -> None:
    """The entropy of two equally likely points is log 2 nats, a lower bound of the loss."""
    make, options = row
    model = make(SPACES["binary"], **{k: v for k, v in options.items() if k != "dropout"})
    x = points(SPACES["binary"], 2).repeat(4, 1, 1, 1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        model.loss(x).backward()
        optimizer.step()
    nats = -model.log_prob(x).mean().item()
    assert math.log(2) <= nats < 1.1


@every_model
def test_reals_are_rejected(row: Row) -> None:
    make, options = row
    with pytest.raises(ValueError, match="needs integer data, got reals"):
        make(Space((1, 4, 4)), **options)


def test_mixture_is_the_mean_over_orders() -> None:
    space = TINY["levels"]
    model = build(MIXTURE["MADE of 3 orders"], space)
    assert isinstance(model, MADE)
    x = all_points(space)
    torch.testing.assert_close(model.log_prob(x).exp(), model.log_prob_per_order(x).exp().mean(0))
    torch.testing.assert_close(model.log_prob_per_order(x).exp().sum(1), torch.ones(3).double())
    orders = dimension_orders((3, 3, 4), 4)
    assert orders[0] == orders[1][::-1] == raster_order((3, 3, 4)).tolist()
    assert all(sorted(order) == list(range(36)) for order in orders)


def test_vectors_are_supported_except_by_pixelcnn() -> None:
    space = Space((4,), 3)
    for make, options in (MODELS["MADE"], MODELS["PixelTransformer"]):
        model = build((make, options), space)
        assert model.log_prob(all_points(space)).exp().sum().item() == pytest.approx(1, abs=1e-10)
        assert model.sample(5).shape == (5, 4)
    with pytest.raises(ValueError, match=r"PixelCNN needs images \(C, H, W\), got data of shape \(4,\)"):
        PixelCNN(space)
    with pytest.raises(ValueError, match=r"kernel must be odd, .* got kernel=4"):
        PixelCNN(SPACES["binary"], kernel=4)
    with pytest.raises(ValueError, match="orders=0 must be 1 or more"):
        MADE(space, orders=0)
