"""Pictures of GAN training: snapshots, the color scale of the critic, interpolation between samples."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from genbench.dataset import Dataset, Space
from genbench.evaluation import Evaluation
from genbench.metrics.landscape import color_range, landscape
from genbench.metrics.samples import arc, interpolations, samples
from genbench.model import Model
from genbench.models.autoencoders.pca import PCA
from genbench.models.flows.linear import Linear
from genbench.models.gans.gan import GAN
from genbench.models.vaes.vae import VAE
from genbench.models.vaes.vqvae import VQVAE
from genbench.runner.worker import perform
from genbench.snapshots import POINTS, SIDE, extent, lattice, snapshot, steps_of
from genbench.suite import Run

X = torch.randn(600, 2, generator=torch.Generator().manual_seed(0))
DATA_2D = Dataset(Space((2,)), X, X, X)
PIXELS = torch.randint(0, 17, (64, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
IMAGE_DATA = Dataset(Space((1, 8, 8), 17), PIXELS, PIXELS, PIXELS)
RUN = Run(suite="s", name="n", model="gans.gan:GAN", data="toys:moons", steps=20, batch=16, options={"hidden": [8]})


class LinearCritic(Model):
    """A model with critic score x_1 + 10 x_2 and all samples at (1, 2)."""

    def critic_score(self, x: Tensor) -> Tensor:
        return x[:, 0] + 10 * x[:, 1]

    def sample(self, n: int) -> Tensor:
        return torch.tensor([1.0, 2.0]).expand(n, 2)


def test_snapshot_has_the_critic_indexed_by_first_and_second_coordinate() -> None:
    state = snapshot(LinearCritic(DATA_2D.space), DATA_2D)
    center = extent(DATA_2D) * (1 - 1 / SIDE)
    axis = torch.linspace(-center, center, SIDE)
    torch.testing.assert_close(state["critic"], axis[:, None] + 10 * axis[None])
    assert state["samples"].shape == (POINTS, 2)
    assert X.abs().max() < extent(DATA_2D)


def test_intervals_between_snapshots_grow() -> None:
    steps = sorted(steps_of(1000))
    assert steps == [10 * k * k for k in range(11)]
    assert {0, 1, 2, 3} == steps_of(3)
    assert steps_of(0) == {0}


def test_models_without_critic_and_image_data_have_no_snapshots() -> None:
    assert snapshot(Linear(DATA_2D.space), DATA_2D) == {}
    assert snapshot(GAN(IMAGE_DATA.space, hidden=(4,)), IMAGE_DATA) == {}


def test_color_scale_is_centered_between_data_and_samples_and_covers_both() -> None:
    """For v = u + 10 w, data at u = -1 and samples at u = 1: center 0 and half-width 1, up to one cell."""
    edge, side = 3.0, 96
    v = LinearCritic(DATA_2D.space).critic_score(lattice(edge, side)).view(side, side)
    real, fake = torch.tensor([[-1.0, 0.0]]).expand(50, 2), torch.tensor([[1.0, 0.0]]).expand(50, 2)
    center, radius = color_range(v, real, fake, edge)
    cell = 2 * edge / side
    assert center == pytest.approx(0, abs=11 * cell / 2)
    assert radius == pytest.approx(1, abs=cell)
    assert color_range(v + 5, real, fake, edge) == pytest.approx((center + 5, radius)), "only differences of v matter"
    assert color_range(torch.zeros(8, 8), real, fake, edge)[1] > 0
    assert all(map(math.isfinite, color_range(v, real, 1e9 * fake, edge))), "distant samples use the nearest cell"


def test_pictures_of_the_critic_and_of_the_training() -> None:
    torch.manual_seed(0)
    model = GAN(DATA_2D.space, hidden=(8,)).eval()
    with torch.no_grad():
        snapshots = {step: snapshot(model, DATA_2D) for step in range(6)}
    evaluation = Evaluation(model, DATA_2D, RUN, snapshots)
    assert landscape.measure(evaluation) == {}
    assert set(evaluation.files) == {"critic.png", "training.png"}
    wide, high = Image.open(io.BytesIO(evaluation.files["training.png"])).size
    assert wide / high == pytest.approx(4 * 1.75 / (2 * 1.95), rel=0.01), "seven panels take two rows of four"
    assert max(map(len, evaluation.files.values())) < 200_000
    for other, data in ((Linear(DATA_2D.space), DATA_2D), (GAN(IMAGE_DATA.space, hidden=(4,)), IMAGE_DATA)):
        evaluation = Evaluation(other.eval(), data, RUN)
        assert (landscape.measure(evaluation), evaluation.files) == ({}, {})


def test_snapshots_are_restored_with_a_trained_model(tmp_path: Path) -> None:
    metrics = {"metrics": ("samples", "landscape"), "options": {"hidden": (8,)}}
    first = perform(RUN.model_copy(update=metrics), work=str(tmp_path))
    again = perform(RUN.model_copy(update=metrics), work=str(tmp_path))
    assert first.status == "ok", first.error
    assert set(first.files) == {"samples.png", "critic.png", "training.png"}
    assert again.timings["train"] < first.timings["train"]
    assert again.files == first.files, "the files are byte-identical"


# ------------------------------------------------------------------------------------------ interpolation


def test_arc_interpolates_on_the_sphere() -> None:
    z = arc(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]]), 7)[0]
    angles = torch.linspace(0, math.pi / 2, 7)
    torch.testing.assert_close(z, 3 * torch.stack((angles.cos(), angles.sin()), 1))


def test_points_on_an_arc_are_distributed_as_the_prior() -> None:
    torch.manual_seed(0)
    z = arc(torch.randn(40_000, 2), torch.randn(40_000, 2), 5)
    for step in range(5):
        assert z[:, step].mean(0).abs().max() < 0.02
        torch.testing.assert_close(torch.cov(z[:, step].T), torch.eye(2), atol=0.03, rtol=0)
    straight = torch.lerp(z[:, 0], z[:, -1], 0.5)
    assert straight.var().item() == pytest.approx(0.5, abs=0.02), "a straight line loses half the variance"


@pytest.mark.parametrize("make", [GAN, VAE, Linear])
def test_rows_interpolate_between_two_samples(make: type[Model]) -> None:
    model = make(IMAGE_DATA.space).eval()
    torch.manual_seed(3)
    rows = interpolations(model, side=4).view(4, 4, 1, 8, 8)
    torch.manual_seed(3)
    with torch.no_grad():
        start, end = (model.decode(z) for z in model.prior(8).split(4))
    for actual, expected in ((rows[:, 0], start), (rows[:, -1], end)):
        torch.testing.assert_close(actual.float(), expected.float(), atol=1e-4, rtol=0)
    evaluation = Evaluation(model, IMAGE_DATA, RUN)
    samples.measure(evaluation)
    assert set(evaluation.files) == {"samples.png", "sample-interpolations.png"}


@pytest.mark.parametrize("make", [VQVAE, PCA])
def test_models_without_a_gaussian_prior_have_no_interpolations(make: type[Model]) -> None:
    evaluation = Evaluation(make(IMAGE_DATA.space).eval(), IMAGE_DATA, RUN)
    samples.measure(evaluation)
    assert set(evaluation.files) == {"samples.png"}
