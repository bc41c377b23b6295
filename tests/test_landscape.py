"""Pictures of games: what moments hold, where a critic's colours are centred, the way from draw to draw."""

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
from genbench.metrics.landscape import landscape, reach
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
PLANE = Dataset(Space((2,)), X, X, X)
PIXELS = torch.randint(0, 17, (64, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
IMAGES = Dataset(Space((1, 8, 8), 17), PIXELS, PIXELS, PIXELS)
RUN = Run(suite="s", name="n", model="gans.gan:GAN", data="toys:moons", steps=20, batch=16, options={"hidden": [8]})


class Slope(Model):
    """A critic that rises by 1 to the right and by 10 upwards, and samples at (1, 2)."""

    def critic_score(self, x: Tensor) -> Tensor:
        return x[:, 0] + 10 * x[:, 1]

    def sample(self, n: int) -> Tensor:
        return torch.tensor([1.0, 2.0]).expand(n, 2)


def test_a_moment_holds_the_critic_by_first_and_second_coordinate() -> None:
    kept = snapshot(Slope(PLANE.space), PLANE)
    middle = extent(PLANE) * (1 - 1 / SIDE)
    axis = torch.linspace(-middle, middle, SIDE)
    torch.testing.assert_close(kept["critic"], axis[:, None] + 10 * axis[None])
    assert kept["samples"].shape == (POINTS, 2)
    assert X.abs().max() < extent(PLANE)


def test_moments_lie_ever_further_apart_from_start_to_end() -> None:
    steps = sorted(steps_of(1000))
    assert steps == [10 * k * k for k in range(11)]
    assert {0, 1, 2, 3} == steps_of(3)
    assert steps_of(0) == {0}


def test_most_models_and_data_keep_nothing() -> None:
    assert snapshot(Linear(PLANE.space), PLANE) == {}
    assert snapshot(GAN(IMAGES.space, hidden=(4,)), IMAGES) == {}


def test_colours_are_centred_between_data_and_samples_and_reach_both() -> None:
    """On v = u + 10 w, data at u = -1 and samples at u = 1: half way is 0, and 1 either way, but for a cell."""
    edge, side = 3.0, 96
    v = Slope(PLANE.space).critic_score(lattice(edge, side)).view(side, side)
    real, fake = torch.tensor([[-1.0, 0.0]]).expand(50, 2), torch.tensor([[1.0, 0.0]]).expand(50, 2)
    middle, far = reach(v, real, fake, edge)
    cell = 2 * edge / side
    assert middle == pytest.approx(0, abs=11 * cell / 2)
    assert far == pytest.approx(1, abs=cell)
    assert reach(v + 5, real, fake, edge) == pytest.approx((middle + 5, far)), "only differences of v say something"
    assert reach(torch.zeros(8, 8), real, fake, edge)[1] > 0
    assert all(map(math.isfinite, reach(v, real, 1e9 * fake, edge))), "samples far off count as of the nearest cell"


def test_pictures_of_the_critic_and_of_the_training() -> None:
    torch.manual_seed(0)
    model = GAN(PLANE.space, hidden=(8,)).eval()
    with torch.no_grad():
        kept = {step: snapshot(model, PLANE) for step in range(6)}
    evaluation = Evaluation(model, PLANE, RUN, kept)
    assert landscape.measure(evaluation) == {}
    assert set(evaluation.files) == {"critic.png", "training.png"}
    wide, high = Image.open(io.BytesIO(evaluation.files["training.png"])).size
    assert wide / high == pytest.approx(4 * 1.75 / (2 * 1.95), rel=0.01), "seven panels are two rows of four"
    assert max(map(len, evaluation.files.values())) < 200_000
    for other, data in ((Linear(PLANE.space), PLANE), (GAN(IMAGES.space, hidden=(4,)), IMAGES)):
        evaluation = Evaluation(other.eval(), data, RUN)
        assert (landscape.measure(evaluation), evaluation.files) == ({}, {})


def test_what_is_trained_already_still_has_its_moments(tmp_path: Path) -> None:
    metrics = {"metrics": ("samples", "landscape"), "options": {"hidden": (8,)}}
    first = perform(RUN.model_copy(update=metrics), work=str(tmp_path))
    again = perform(RUN.model_copy(update=metrics), work=str(tmp_path))
    assert first.status == "ok", first.error
    assert set(first.files) == {"samples.png", "critic.png", "training.png"}
    assert again.timings["train"] < first.timings["train"]
    assert again.files == first.files, "the same bytes"


# ------------------------------------------------------------------------------------------ from draw to draw


def test_an_arc_goes_from_one_draw_to_the_other_on_the_sphere() -> None:
    z = arc(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]]), 7)[0]
    angles = torch.linspace(0, math.pi / 2, 7)
    torch.testing.assert_close(z, 3 * torch.stack((angles.cos(), angles.sin()), 1))


def test_on_an_arc_draws_stay_draws() -> None:
    torch.manual_seed(0)
    z = arc(torch.randn(40_000, 2), torch.randn(40_000, 2), 5)
    for step in range(5):
        assert z[:, step].mean(0).abs().max() < 0.02
        torch.testing.assert_close(torch.cov(z[:, step].T), torch.eye(2), atol=0.03, rtol=0)
    straight = torch.lerp(z[:, 0], z[:, -1], 0.5)
    assert straight.var().item() == pytest.approx(0.5, abs=0.02), "straight on, half the variance is lost"


@pytest.mark.parametrize("make", [GAN, VAE, Linear])
def test_rows_lead_from_one_sample_to_another(make: type[Model]) -> None:
    model = make(IMAGES.space).eval()
    torch.manual_seed(3)
    rows = interpolations(model, side=4).view(4, 4, 1, 8, 8)
    torch.manual_seed(3)
    with torch.no_grad():
        start, end = (model.decode(z) for z in model.prior(8).split(4))
    for found, expected in ((rows[:, 0], start), (rows[:, -1], end)):
        torch.testing.assert_close(found.float(), expected.float(), atol=1e-4, rtol=0)
    evaluation = Evaluation(model, IMAGES, RUN)
    samples.measure(evaluation)
    assert set(evaluation.files) == {"samples.png", "sample-interpolations.png"}


@pytest.mark.parametrize("make", [VQVAE, PCA])
def test_a_model_whose_z_is_of_another_kind_has_no_such_rows(make: type[Model]) -> None:
    evaluation = Evaluation(make(IMAGES.space).eval(), IMAGES, RUN)
    samples.measure(evaluation)
    assert set(evaluation.files) == {"samples.png"}
