"""Every model of reals fits data of any mean and scale as well as of zero mean and unit variance."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from genbench.dataset import Dataset, Space
from genbench.model import Model
from genbench.models.autoencoders.autoencoder import Autoencoder, Contractive, Denoising
from genbench.models.autoencoders.pca import PCA
from genbench.models.contrastive.simclr import SimCLR
from genbench.models.flows.one_dimensional import OneDimensional
from genbench.models.flows.tarflow import TarFlow
from genbench.models.gans.gan import GAN
from genbench.models.mixtures.gmm import GMM
from genbench.models.vaes.hierarchical import HierarchicalVAE
from genbench.models.vaes.iwae import IWAE
from genbench.models.vaes.score import ScoreVAE
from genbench.models.vaes.unamortised import UnamortisedVAE
from genbench.models.vaes.vae import VAE
from genbench.models.vaes.vqvae import FlatVQVAE
from genbench.records.artifacts import Work
from genbench.standardization import Standardization
from genbench.suite import Run
from genbench.train import reseed, train
from tests.models.test_flows import FLOWS

Row = tuple[Callable[..., Model], dict[str, object]]
NETS: dict[str, object] = {"hidden": (8,), "latent": 2}
COLUMNS = torch.tensor([1.0, 2.0**-20, 2.0**14]), torch.tensor([128.0, 0.0, -(2.0**18)])  # a and b of a x + b
ALIKE = torch.full((3,), 2.0**-10), torch.full((3,), 4.0)

DENSITIES: dict[str, Row] = {
    **FLOWS,
    "GMM": (GMM, {"components": 3}),
    "GMM gradient": (GMM, {"components": 3, "fit": "gradient"}),
    "VAE": (VAE, NETS),
    "IWAE": (IWAE, {"k": 2, **NETS}),
    "Score": (ScoreVAE, NETS),
    "Unamortised": (UnamortisedVAE, {"svi_steps": 2, "svi_max_steps": 2, **NETS}),
    "Hierarchical": (HierarchicalVAE, {"layers": (1, 2), "width": 8}),
    "VQVAE": (FlatVQVAE, {"codes": 4, "positions": 2, "hidden": (8,), "width": 8, "heads": 2}),
}
OTHERS: dict[str, Row] = {
    "GAN": (GAN, {"hidden": (8,), "latent": 2}),
    "Autoencoder": (Autoencoder, NETS),
    "Denoising": (Denoising, {"sigma": 0.0, **NETS}),
    "Contractive": (Contractive, {"latent": 2}),
}


def points(n: int = 200) -> Tensor:
    """Return x (2n, 3), correlated, in steps of 2^-8 and with mean zero, so that a x + b is exact in float32."""
    z = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    x = (torch.stack((z[:, 0], z[:, 0] + z[:, 1], z[:, 2].abs()), 1) * 256).round() / 256
    return torch.cat((x, -x))[torch.randperm(2 * n, generator=torch.Generator().manual_seed(1))]


def trained(row: Row, x: Tensor, folder: Path, steps: int = 6, batch: int = 50, lr: float = 1e-3) -> Model:
    """Return the model trained on x (N, *shape) from a given seed, as a run trains it."""
    data = Dataset(Space(tuple(x.shape[1:])), x, x[:40], x[:40])
    run = Run(suite="s", name="n", model="m", data="d", steps=steps, batch=batch, checks=1, optimizer={"lr": lr})
    reseed(0)
    model = row[0](data.space, **row[1])
    train(model, data, run, Work(folder), code="c")
    reseed(1)
    model.fit_closed_form(data.train)
    return model.eval()


def evaluated(model: Model, x: Tensor) -> Tensor:
    """Return log p(x) (B,), its draws from a given seed."""
    reseed(2)
    with torch.no_grad():
        return model.log_prob(x).double()


def drawn(model: Model) -> Tensor:
    """Return samples (20, *shape) from a given seed."""
    reseed(3)
    with torch.no_grad():
        return model.sample(20)


@pytest.mark.parametrize("row", DENSITIES.values(), ids=DENSITIES)
def test_a_density_moves_with_its_data(row: Row, tmp_path: Path) -> None:
    """log p'(a x + b) = log p(x) - sum log a and x' = a x + b, p' trained on a x + b and p on x."""
    x, (a, b) = points(), COLUMNS
    first, second = trained(row, x, tmp_path / "1"), trained(row, a * x + b, tmp_path / "2")
    expected = evaluated(first, x[:20]) - a.double().log().sum()
    torch.testing.assert_close(evaluated(second, a * x[:20] + b), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close((drawn(second) - b) / a, drawn(first), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("row", OTHERS.values(), ids=OTHERS)
def test_samples_move_with_the_data(row: Row, tmp_path: Path) -> None:
    x, (a, b) = points(), COLUMNS
    first, second = trained(row, x, tmp_path / "1"), trained(row, a * x + b, tmp_path / "2")
    torch.testing.assert_close((drawn(second) - b) / a, drawn(first), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("make", [lambda s: (VAE, {"sigma": s, **NETS}), lambda s: (PCA, {"latent": 2})])
def test_what_is_in_the_units_of_data_moves_with_one_scale_for_all(make: Callable[..., Row], tmp_path: Path) -> None:
    """A VAE of a fixed sigma, and PCA, whose noise is as large in every dimension."""
    x, (a, b) = points(), ALIKE
    first, second = trained(make(0.5), x, tmp_path / "1"), trained(make(0.5 * 2.0**-10), a * x + b, tmp_path / "2")
    expected = evaluated(first, x[:20]) - a.double().log().sum()
    torch.testing.assert_close(evaluated(second, a * x[:20] + b), expected, rtol=1e-4, atol=1e-4)


def test_codes_of_images_of_reals_do_not_move_with_the_data(tmp_path: Path) -> None:
    x = torch.randn(64, 1, 8, 8)
    x = torch.cat((x, -x))
    first, second = (trained((SimCLR, {"channels": 4}), y, tmp_path / str(i)) for i, y in enumerate((x, 4 * x)))
    torch.testing.assert_close(second.encode(4 * x[:5]), first.encode(x[:5]))


@pytest.mark.parametrize(
    "row", [(TarFlow, {"channels": 8, "heads": 1, "blocks": 2, "layers": 1}), (OneDimensional, {})], ids=["T", "1-D"]
)
@pytest.mark.parametrize(("mean", "std"), [(100, 1), (0, 1e-3), (1e4, 1e3), (-3, 1e-8)])
def test_gaussians_of_any_mean_and_scale_are_fitted(row: Row, mean: float, std: float, tmp_path: Path) -> None:
    y = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    x = mean + std * y if std > 1e-6 * abs(mean) else std * y
    nats = -evaluated(trained(row, x, tmp_path, steps=60, batch=200, lr=2e-2), x).mean().item()
    assert nats == pytest.approx(2 * (math.log(std) + 0.5 * math.log(2 * math.pi * math.e)), abs=0.15)


# ------------------------------------------------------------------------------------------------------ the map


def test_the_map_is_undone_and_has_the_moments_of_the_training_split() -> None:
    x = torch.tensor([5.0, -1.0]) + torch.tensor([1e-6, 300.0]) * torch.randn(500, 2).double()
    unit = Standardization(Space((2,))).double()
    assert torch.equal(unit(x), x)
    unit.fit(x)
    y = unit(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(2).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(y.std(0, correction=0), torch.ones(2).double())
    torch.testing.assert_close(unit.inverse(y), x)
    torch.testing.assert_close(unit.log_scale, x.std(0, correction=0).log().sum())


def test_dimensions_that_do_not_vary_keep_their_scale() -> None:
    """Nor does one that varies in a single point of the training split, and in no batch, become large."""
    x = torch.randn(100_000, 3)
    x[:, 0], x[:, 1] = 0.1, 0.0
    x[7, 1] = 1.0
    unit = Standardization(Space((3,)))
    unit.fit(x)
    assert unit.scale[0] == 1
    assert unit(x)[:, 0].abs().max() < 1e-6
    assert unit.scale[1] == pytest.approx(1e-5**0.5, rel=1e-3)


def test_moments_of_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x, units = 1e4 + torch.randn(1000, 2, 3), [Standardization(Space((2, 3))) for _ in range(2)]
    units[0].fit(x)
    monkeypatch.setattr("genbench.standardization.CHUNK_VALUES", 42)
    units[1].fit(x)
    torch.testing.assert_close(units[1].state_dict(), units[0].state_dict())


@pytest.mark.parametrize("row", [DENSITIES["NICE"], DENSITIES["VAE"], DENSITIES["GMM"]], ids=["NICE", "VAE", "GMM"])
def test_a_loaded_model_has_the_same_likelihood(row: Row, tmp_path: Path) -> None:
    x, (a, b) = points(), COLUMNS
    model, loaded = trained(row, a * x + b, tmp_path), row[0](Space((3,)), **row[1]).eval()
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(evaluated(loaded, a * x + b), evaluated(model, a * x + b))
