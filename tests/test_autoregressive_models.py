"""Truths about exact models of integers: who tells whom, mass that sums to one, samples of the right law."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from genbench.dataset import Space
from genbench.models.autoregressive.discrete import Autoregressive, raster
from genbench.models.autoregressive.made import MADE, orders_of
from genbench.models.autoregressive.pixelcnn import PixelCNN
from genbench.models.autoregressive.transformer import PixelTransformer

Make = Callable[..., Autoregressive]
Row = tuple[Make, dict[str, object]]

MODELS: dict[str, Row] = {
    "MADE": (MADE, {"hidden": (70, 70), "activation": "tanh"}),
    "MADE residual": (MADE, {"hidden": (70, 70), "activation": "tanh", "residual": True, "dropout": 0.2}),
    "PixelCNN": (PixelCNN, {"channels": 12, "layers": 5, "dropout": 0.2}),
    "PixelCNN wide": (PixelCNN, {"channels": 12, "layers": 3, "kernel": 5}),
    "PixelTransformer": (PixelTransformer, {"channels": 8, "heads": 2, "dropout": 0.2}),
}
MIXTURE = {"MADE of 3 orders": (MADE, {"hidden": (70,), "orders": 3})}
ordered = pytest.mark.parametrize("row", MODELS.values(), ids=MODELS)
every_model = pytest.mark.parametrize("row", {**MODELS, **MIXTURE}.values(), ids=[*MODELS, *MIXTURE])
SPACES = {"binary": Space((1, 5, 4), 2), "levels": Space((1, 5, 5), 7), "colour": Space((3, 3, 4), 4)}
TINY = {"binary": Space((1, 2, 3), 2), "levels": Space((1, 2, 2), 3), "colour": Space((3, 1, 2), 2)}
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
every_tiny = pytest.mark.parametrize("space", TINY.values(), ids=TINY)


def built(row: Row, space: Space) -> Autoregressive:
    """Return a model far from its start, in float64 and evaluation mode."""
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


def everything(space: Space) -> Tensor:
    """Return every point of a small space, x (K^D, *shape)."""
    assert space.levels is not None
    x = torch.tensor(list(itertools.product(range(space.levels), repeat=space.dims)))
    return x.view(-1, *space.shape).to(torch.uint8)


def test_dimensions_come_row_by_row_and_the_channels_of_a_pixel_together() -> None:
    """Places in memory are (channel, row, column); the order is (row, column, channel)."""
    assert raster((2, 2, 3)).tolist() == [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]
    assert raster((4,)).tolist() == [0, 1, 2, 3]
    first, second, third = orders_of((2, 1, 2), 3)
    assert (first, second) == ([0, 2, 1, 3], [3, 1, 2, 0])
    assert sorted(third) == [0, 1, 2, 3]
    assert third not in (first, second)
    assert orders_of((2, 1, 2), 3) == [first, second, third]


def test_each_order_of_a_mixture_has_masks_of_its_own() -> None:
    """Network m sees in order m: what moves the logits of a dimension are those before it there, and no other."""
    space = Space((1, 2, 3), 3)
    model, D = built((MADE, {"hidden": (70,), "orders": 3}), space), space.dims
    assert isinstance(model, MADE)
    x = points(space, 1).flatten()
    flipped = x.repeat(D, 1)
    flipped[range(D), range(D)] = (x + 1) % 3
    for net, order in zip(
        model.nets, ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], orders_of(space.shape, 3)[2]), strict=True
    ):
        with torch.no_grad():
            moved = (model.given(net, flipped) - model.given(net, x[None])).abs().amax(1).mT > 1e-15
        assert torch.equal(moved[order][:, order], torch.ones(D, D).tril(-1).bool())


@ordered
@every_space
def test_each_dimension_is_told_by_all_before_it_and_no_other(row: Row, space: Space) -> None:
    """Flip x_j: the logits of i move if and only if j comes before i; no blind spot, no leak between channels."""
    model, D, order = built(row, space), space.dims, raster(space.shape)
    assert space.levels is not None
    told = torch.zeros(D, D, dtype=torch.bool)
    with torch.no_grad():
        for x in points(space, 10):
            flipped = x.flatten().repeat(D, 1)
            flipped[range(D), range(D)] = (x.flatten() + 1) % space.levels
            difference = model.logits(flipped.view(D, *space.shape)) - model.logits(x.expand(D, *space.shape))
            told |= difference.abs().amax(1).mT > 1e-15
    assert torch.equal(told[order][:, order], torch.ones(D, D).tril(-1).bool())


@every_model
@every_tiny
def test_mass_sums_to_one(row: Row, space: Space) -> None:
    with torch.no_grad():
        total = built(row, space).log_prob(everything(space)).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-10)


@every_model
@every_tiny
def test_samples_follow_the_mass(row: Row, space: Space) -> None:
    """Chi-square over all points, those expected fewer than 5 times together; 5 standard deviations of its law."""
    model, n, x = built(row, space), 4000, everything(space)
    with torch.no_grad():
        p = model.log_prob(x).exp()
        samples = model.sample(n)
    place = torch.tensor([space.levels**k for k in range(space.dims)]).flip(0)
    counts = torch.bincount(samples.flatten(1).long() @ place, minlength=len(x)).double()
    rare = n * p < 5
    expected = torch.cat((n * p[~rare], n * p[rare].sum(0, keepdim=True)))
    seen = torch.cat((counts[~rare], counts[rare].sum(0, keepdim=True)))
    statistic, freedom = ((seen - expected) ** 2 / expected.clamp(min=1e-9)).sum().item(), len(expected) - 1
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5 + 5


@every_model
@every_space
def test_samples_lie_in_the_space(row: Row, space: Space) -> None:
    x = built(row, space).float().sample(40)
    assert x.shape == (40, *space.shape)
    assert x.dtype == torch.uint8
    assert x.max().item() == (space.levels or 0) - 1


@every_model
@every_space
def test_batch_mates_do_not_matter(row: Row, space: Space) -> None:
    model, x = built(row, space), points(space)
    with torch.no_grad():
        alone = torch.cat([model.log_prob(one[None]) for one in x])
        torch.testing.assert_close(model.log_prob(x), alone)


@every_model
@every_space
def test_every_parameter_is_trained(row: Row, space: Space) -> None:
    """And dropout, where there is any, draws in training alone."""
    model, x = built(row, space).train(), points(space, 32)
    gradients = torch.autograd.grad(model.loss(x), list(model.parameters()))
    assert all(g.abs().sum() > 0 for g in gradients)
    model.eval()
    assert model.loss(x).item() == model.loss(x).item()


@every_model
def test_training_reaches_the_entropy_of_a_law_of_two_points(row: Row) -> None:
    """Two points of equal chance: log 2 nats, and never fewer."""
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
def test_reals_are_refused_in_one_line(row: Row) -> None:
    make, options = row
    with pytest.raises(ValueError, match="gives probabilities of integers, and these data are reals"):
        make(Space((1, 4, 4)), **options)


def test_mixture_is_the_mean_of_what_its_orders_say() -> None:
    space = TINY["levels"]
    model = built(MIXTURE["MADE of 3 orders"], space)
    assert isinstance(model, MADE)
    x = everything(space)
    torch.testing.assert_close(model.log_prob(x).exp(), model.of_each(x).exp().mean(0))
    torch.testing.assert_close(model.of_each(x).exp().sum(1), torch.ones(3).double())
    orders = orders_of((3, 3, 4), 4)
    assert orders[0] == orders[1][::-1] == raster((3, 3, 4)).tolist()
    assert all(sorted(order) == list(range(36)) for order in orders)


def test_vectors_are_modelled_and_pixelcnn_asks_for_images() -> None:
    space = Space((4,), 3)
    for make, options in (MODELS["MADE"], MODELS["PixelTransformer"]):
        model = built((make, options), space)
        assert model.log_prob(everything(space)).exp().sum().item() == pytest.approx(1, abs=1e-10)
        assert model.sample(5).shape == (5, 4)
    with pytest.raises(ValueError, match=r"PixelCNN models images \(C, H, W\), and these data are \(4,\)"):
        PixelCNN(space)
    with pytest.raises(ValueError, match="kernel=4 must be odd"):
        PixelCNN(SPACES["binary"], kernel=4)
    with pytest.raises(ValueError, match="orders=0 must be 1 or more"):
        MADE(space, orders=0)
