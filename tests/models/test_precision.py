"""Every model trains in bfloat16 on a CPU, and its loss agrees with float32 up to rounding."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from genbench.dataset import Dataset, Space
from genbench.model import Model, OptimizedLoss
from genbench.models.autoregressive.made import MADE
from genbench.models.flows.gaussianization import Rotation
from genbench.models.flows.lu import LULinear
from genbench.records.artifacts import Work
from genbench.registry import find, names
from genbench.suite import Run
from genbench.train import reseed, train

MLP = {"hidden": (16,)}
TOKENS = {"channels": 8, "heads": 2}
VECTORS: list[tuple[str, dict[str, Any]]] = [
    ("flows.linear:Linear", {}),
    ("flows.one_dimensional:OneDimensional", {"components": 4}),
    ("flows.one_dimensional:OneDimensional", {"components": 4, "base": "beta"}),
    ("flows.nice:NICE", {"couplings": 2, **MLP}),
    ("flows.realnvp:RealNVP", {"couplings": 2, "marginals": 3, **MLP}),
    ("flows.realnvp:RealNVP", {"couplings": 2, "norm": "batch", **MLP}),
    ("flows.glow:Glow", {"depth": 2, **MLP}),
    ("flows.maf:MAF", {"layers": 2, **MLP}),
    ("flows.maf:MAF", {"layers": 2, "scale": "sigmoid", **MLP}),
    ("flows.iaf:IAF", {"layers": 2, **MLP}),
    ("flows.nsf:NSF", {"couplings": 2, **MLP}),
    ("flows.nsf:AutoregressiveNSF", {"layers": 2, "linear": "lu", **MLP}),
    ("flows.gaussianization:Gaussianization", {"layers": 2, "components": 3}),
    ("flows.gaussianization:Gaussianization", {"layers": 2, "components": 3, "rotation": "lu"}),
    ("flows.residual:ResidualFlow", {"blocks": 2, "hidden": (8,)}),
    ("flows.residual:ResidualFlow", {"blocks": 2, "hidden": (8,), "determinant": "exact"}),
    ("flows.flowpp:FlowPP", {"couplings": 2, "components": 3, **MLP}),
    ("flows.ffjord:FFJORD", {"hidden": (8,)}),
    ("flows.ffjord:FFJORD", {"hidden": (8,), "training": None, "gradient": "adjoint", "penalty": 0.1}),
    ("flows.tarflow:TarFlow", {"blocks": 2, "layers": 1, **TOKENS}),
    ("flows.tarflow:TarFlow", {"blocks": 2, "layers": 1, "components": 3, **TOKENS}),
    ("mixtures.gmm:GMM", {"components": 2}),
    ("vaes.vae:VAE", {"latent": 3, "beta": 2.0, "draws": 2, **MLP}),
    ("vaes.vae:GECO", {"latent": 3, "distortion": 3.0, **MLP}),
    ("vaes.iwae:IWAE", {"latent": 3, "k": 4, **MLP}),
    ("vaes.hierarchical:HierarchicalVAE", {"layers": (2, 3), "width": 16}),
    ("vaes.score:ScoreVAE", {"latent": 3, **MLP}),
    ("vaes.score:ScoreVAE", {"latent": 3, "baseline": "none", **MLP}),
    ("vaes.unamortised:UnamortisedVAE", {"latent": 3, "svi_max_steps": 8, **MLP}),
    ("vaes.vqvae:FlatVQVAE", {"codes": 4, **MLP}),
    ("autoencoders.pca:PCA", {"latent": 1}),
    ("autoencoders.autoencoder:Autoencoder", {"latent": 2, **MLP}),
    ("autoencoders.autoencoder:Denoising", {"latent": 2, "sigma": 0.5, **MLP}),
    ("autoencoders.autoencoder:Sparse", {"latent": 8, **MLP}),
    ("autoencoders.autoencoder:Sparse", {"latent": 8, "penalty": "l1", **MLP}),
    ("autoencoders.autoencoder:Contractive", {"latent": 8}),
    ("gans.gan:GAN", {"spectral": True, "objective": "hinge", **MLP}),
    ("gans.gan:GAN", {"objective": "wasserstein", "penalty": 1.0, "critic_steps": 2, **MLP}),
    ("gans.gan:GAN", {"objective": "kl", "lure": "saturating", "schedule": "simultaneous", **MLP}),
]
IMAGES: list[tuple[str, dict[str, Any]]] = [
    ("flows.realnvp:RealNVP", {"couplings": 3, "channels": 4}),
    ("flows.glow:Glow", {"depth": 2, "channels": 4}),
    ("flows.nsf:NSF", {"couplings": 2, "channels": 4}),
    ("flows.flowpp:FlowPP", {"stages": (1, 1, 1), "channels": 4, "blocks": 1, "heads": 2, "components": 2}),
    ("flows.flowpp:FlowPP", {"dequantization": "variational", "network": "mlp", "couplings": 2, **MLP}),
    ("flows.residual:ResidualFlow", {"blocks": 1, "channels": (4,)}),
    ("flows.ffjord:FFJORD", {"scales": 1, "channels": (4,)}),
    ("flows.tarflow:TarFlow", {"blocks": 2, "layers": 1, **TOKENS}),
    ("mixtures.gmm:GMM", {"components": 2, "floor": 1e-2}),
    ("vaes.vae:VAE", {"latent": 3, "network": "convnet", "channels": 4}),
    ("vaes.vae:VAE", {"latent": 3, "observation": "categorical", **MLP}),
    ("vaes.unamortised:UnamortisedVAE", {"latent": 3, "svi_max_steps": 8, **MLP}),
    ("vaes.vqvae:VQVAE", {"codes": 4, "channels": 4}),
    ("vaes.vqvae2:VQVAE2", {"codes": 4, "channels": 4}),
    ("autoregressive.made:MADE", {"orders": 2, **MLP}),
    ("autoregressive.pixelcnn:PixelCNN", {"channels": 4, "layers": 2}),
    ("autoregressive.transformer:PixelTransformer", {"channels": 8, "layers": 1, "heads": 2}),
    ("gans.gan:GAN", {"network": "dcgan", "channels": 4, "objective": "wasserstein", "penalty": 1.0}),
    ("gans.gan:GAN", {"network": "dcgan", "channels": 4, "spectral": True, "type_ii": 2.0}),
    ("contrastive.simclr:SimCLR", {"latent": 4, "channels": 4}),
]
SPACES = {
    "line": Space((1,)),
    "reals": Space((5,)),
    "binary": Space((1, 8, 8), 2),
    "levels": Space((3, 8, 8), 256),
    "many levels": Space((1, 8, 8), 1000),
    "named": Space((69,), 27),
}
NO_LINE = ("nice", "realnvp", "glow", "nsf:NSF", "flowpp", "vqvae")  # couplings and codes of halves
ROWS = [
    *((model, options, "reals") for model, options in VECTORS),
    *((model, options, "line") for model, options in VECTORS if not any(name in model for name in NO_LINE)),
    *((model, options, "levels") for model, options in IMAGES),
    *((model, options, "many levels") for model, options in IMAGES if model.startswith(("auto", "vaes", "gans"))),
    ("contrastive.clip:CLIP", {"latent": 4, "channels": 4, "width": 8, "heads": 2}, "named"),
]
NOISY = ("residual", "gans", "ffjord")  # losses with cancelling terms, and power iterations


def points(space: Space, n: int = 48) -> Dataset:
    """Return a data set of `space`."""
    generator = torch.Generator().manual_seed(0)
    if space.levels is None:
        x = 1 + 2 * torch.randn(n, *space.shape, generator=generator)
    else:
        x = torch.randint(0, space.levels, (n, *space.shape), generator=generator)
        x = x.to(torch.uint8 if space.levels <= 256 else torch.int64)
    return Dataset(space, x[:32], x[32:40], x[40:])


def trained(model: str, options: dict[str, Any], space: Space, precision: str, folder: Any) -> tuple[Any, list[float]]:
    """Return a model after two steps, and the loss of each."""
    run = Run(suite="s", name="n", model=model, data="digits", precision=precision, steps=2, batch=8, checks=2)
    reseed(0, "weights")
    instance, data = find("models", model)(space, **options), points(space)
    progress = train(instance, data, run, Work(str(folder)), code=precision)
    instance.fit_closed_form(data.train)
    return instance.eval(), [point.loss for point in progress.curve if point.loss is not None]


def optimized(model: Model) -> list[OptimizedLoss]:
    """Return every loss of a model with its optimizer."""
    phases = model.configure_optimizers(partial(torch.optim.SGD, lr=0.0))
    return [loss for phase in phases for loss in (phase if isinstance(phase, tuple) else (phase,))]


@pytest.mark.parametrize(
    ("model", "options", "space"), ROWS, ids=[f"{m.split(':')[1]}-{s}-{i}" for i, (m, _, s) in enumerate(ROWS)]
)
def test_bfloat16_training_agrees_with_float32(model: str, options: dict[str, Any], space: str, tmp_path) -> None:
    trained_model, losses = trained(model, options, SPACES[space], "bfloat16", tmp_path / "a")
    _, expected = trained(model, options, SPACES[space], "float32", tmp_path / "b")
    assert len(losses) == len(expected)
    assert all(math.isfinite(loss) for loss in losses)
    slack = 0.1 if any(name in model for name in NOISY) else 0.02
    assert losses[:1] == pytest.approx(expected[:1], rel=slack, abs=slack)  # same weights, batch and random numbers
    with torch.autocast("cpu", torch.bfloat16):
        values = [each.loss(points(SPACES[space]).train[:8]) for each in optimized(trained_model)]
    assert all(loss.dtype is torch.float32 for loss in values)
    if trained_model.likelihood is not None:
        with torch.no_grad():
            log_p = trained_model.log_prob(points(SPACES[space]).test)
        assert log_p.dtype in (torch.float32, torch.float64)
        assert log_p.isfinite().all()


def test_every_model_is_covered() -> None:
    covered = {model for model, _, _ in ROWS}
    assert {name for name in names("models") if not name.startswith("peers")} == covered


@pytest.mark.parametrize("make", [LULinear, Rotation])
@pytest.mark.parametrize("shape", [(5,), (3, 4, 4)])
def test_linear_maps_are_inverted_under_autocast(make: Any, shape: tuple[int, ...]) -> None:
    """Products in bfloat16 would not be invertible."""
    if make is Rotation and len(shape) > 1:
        pytest.skip("rotations are of vectors")
    flow, x = make(shape), torch.randn(7, *shape)
    plain, _ = flow(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, logdet = flow(x)
    assert y.dtype is logdet.dtype is torch.float32
    torch.testing.assert_close(y, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(flow.inverse(y), x, rtol=1e-4, atol=1e-4)


def test_levels_above_256_are_distinguished_under_autocast() -> None:
    """bfloat16 cannot represent 999 and would select the logit of another level."""
    model, levels = MADE(Space((1,), 1000), hidden=(8,)), torch.arange(1000)
    with torch.no_grad():
        bias: Tensor = list(model.parameters())[-1]
        bias.copy_(8.0 * (levels % 2))
        with torch.autocast("cpu", torch.bfloat16):
            log_p = model.log_prob(levels[:, None])
    torch.testing.assert_close(log_p, bias - bias.logsumexp(0))
