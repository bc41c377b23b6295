"""Suites with published GAN protocols: every row trains on images of its data set, with the published networks."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from genbench.dataset import Space
from genbench.models.gans.gan import GAN
from genbench.nets import dcgan
from genbench.suite import Run, read_suite, suite_path

SPACES = {"vision:MNIST": Space((1, 28, 28), 256), "vision:CIFAR10": Space((3, 32, 32), 256)}
SUITES = {name: read_suite(suite_path(name)) for name in ("gans-mnist", "gans-mnist-short", "gans-cifar10")}
RUNS = {f"{name}, {run.name}": run for name, suite in SUITES.items() for run in suite.runs(seeds=[0])}


def narrow_model(run: Run) -> GAN:
    """Return the model of a run with few channels."""
    torch.manual_seed(0)
    return GAN(SPACES[run.data], **run.options | {"channels": 8})


@pytest.mark.parametrize("name", RUNS)
def test_every_row_trains_one_step_and_samples_images(name):
    run = RUNS[name]
    model, space = narrow_model(run), SPACES[run.data]
    images = torch.randint(256, (4, *space.shape)).byte()
    for loss in model.configure_optimizers(partial(torch.optim.Adam, lr=1e-3)):
        before = [p.clone() for p in loss.parameters]
        for p, g in zip(loss.parameters, torch.autograd.grad(loss.loss(images), loss.parameters), strict=True):
            assert g.isfinite().all()
            p.grad = g
        loss.optimizer.step()
        changed = [not torch.equal(p, old) for p, old in zip(loss.parameters, before, strict=True)]
        assert sum(changed) > 0.8 * len(changed)  # the last bias of a Wasserstein critic has no gradient
    x = model.eval().sample(5)
    assert (x.shape, x.dtype) == ((5, *space.shape), torch.uint8)
    assert model.critic_score(x).shape == (5,)


def layer_shapes(net: nn.Sequential, x: torch.Tensor) -> list[tuple[int, ...]]:
    """Return the input and output shapes (C, H, W) of the convolutions of `net`, in order, without repeats."""
    shapes: list[tuple[int, ...]] = []
    for layer in net:
        y = layer(x)
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            shapes += [tuple(t.shape[1:]) for t in (x, y)]
        x = y
    return [shape for i, shape in enumerate(shapes) if i == 0 or shapes[i - 1] != shape]


def test_dcgan_with_64_channels_is_the_generator_of_spectral_normalization_table_3():
    shapes = layer_shapes(dcgan.generator(128, (3, 32, 32), 64), torch.randn(2, 128))
    assert shapes == [(512, 4, 4), (256, 8, 8), (128, 16, 16), (64, 32, 32), (3, 32, 32)]


def test_dcgan_with_32_channels_has_the_feature_maps_of_infogan_on_mnist():
    up = layer_shapes(dcgan.generator(64, (1, 28, 28), 32), torch.randn(2, 64))
    down = layer_shapes(dcgan.critic((1, 28, 28), 32), torch.randn(2, 1, 28, 28))
    assert up == [(128, 7, 7), (64, 14, 14), (32, 28, 28), (1, 28, 28)]
    assert down == up[::-1]


@pytest.mark.parametrize(("suite", "images"), [("gans-mnist", 50_000), ("gans-cifar10", 50_000)])
def test_steps_match_the_epochs_of_the_study(suite, images):
    """Are GANs Created Equal (2018): 20 and 100 epochs in batches of 64."""
    epochs = {"gans-mnist": 20, "gans-cifar10": 100}[suite]
    for name in ("GAN", "GAN, saturating", "LSGAN", "WGAN, clipping", "WGAN-GP"):
        run = RUNS[f"{suite}, {name}"]
        assert (run.steps, run.batch) == (epochs * images // 64, 64)


@pytest.mark.parametrize("name", ["gans-mnist", "gans-cifar10"])
def test_published_values_use_inception_features(name):
    for paper in SUITES[name].published.values():
        assert {key.partition("[")[2] for key in paper.values} == {"inception-v3-bilinear]"}
