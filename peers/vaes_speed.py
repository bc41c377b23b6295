"""How fast VAEs train here and in pythae: same architecture, data, optimizer and process, by turns.

Binary images of 28x28 in batches of 128, float32, fused Adam. The networks are pythae's own defaults:
perceptrons 784-512-z and z-512-784 of ReLUs, 16 numbers of z, decoded to Bernoulli variables by the VAEs and by squared
error in the VQ-VAE, where each of the 16 numbers is a vector of one dimension with a code of 512. Theirs decode to a
probability or an intensity by a sigmoid, ours to a logit or a mean. Our prior over codes is a stage of its own, which
theirs leaves to other classes, and is not trained here.

Run:  make peers   (or python -W ignore -m peers.vaes_speed [FILE], with `pip install 'genbench[peers]'`)
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from pythae import models as pythae
from pythae.data.datasets import DatasetOutput

from genbench.dataset import Space
from genbench.models.vaes.iwae import IWAE
from genbench.models.vaes.vae import VAE
from genbench.models.vaes.vqvae import FlatVQVAE
from peers.rounds import Pair, Trained, compare, trained

SHAPE, BATCH = (1, 28, 28), 128
HIDDEN, LATENT, K, CODES = (512,), 16, 10, 512  # pythae's defaults, but for LATENT, which has none
BINARY, REAL = Space(SHAPE, levels=2), Space(SHAPE)
VAES: dict[str, Any] = {"latent": LATENT, "hidden": HIDDEN}
THEIRS: dict[str, Any] = {"input_dim": SHAPE, "latent_dim": LATENT}


def ours(model: VAE | IWAE) -> Trained:
    """Return a VAE of genbench's and its loss."""
    return trained(model, model.loss)


def ours_quantised() -> Trained:
    """Return the first stage of genbench's VQ-VAE."""
    model = FlatVQVAE(REAL, positions=LATENT, dim=1, codes=CODES, hidden=HIDDEN, dropout=0, sigma=0.5**0.5)
    first = [p for part in (model.encoder, model.decoder) for p in part.parameters()]
    return Trained(first, model.loss)


def theirs(model: pythae.BaseAE) -> Trained:
    """Return a model of pythae's, and the loss that its trainer takes."""
    return trained(model, lambda x: model(DatasetOutput(data=x)).loss)


PAIRS = {
    "VAE": Pair(
        "pythae",
        lambda: ours(VAE(BINARY, **VAES)),
        lambda: theirs(pythae.VAE(pythae.VAEConfig(reconstruction_loss="bce", **THEIRS))),
    ),
    f"IWAE, k = {K}": Pair(
        "pythae",
        lambda: ours(IWAE(BINARY, k=K, **VAES)),
        lambda: theirs(pythae.IWAE(pythae.IWAEConfig(reconstruction_loss="bce", number_samples=K, **THEIRS))),
    ),
    "VQ-VAE": Pair(
        "pythae",
        ours_quantised,
        lambda: theirs(pythae.VQVAE(pythae.VQVAEConfig(use_ema=True, num_embeddings=CODES, **THEIRS))),
    ),
}


def main(file: str | None = None) -> None:
    """Print the table, and write the record with every round to `file`."""
    x = torch.bernoulli(torch.full((BATCH, *SHAPE), 0.13))
    settings = {"shape": SHAPE, "hidden": HIDDEN, "latent": LATENT, "k": K, "codes": CODES}
    compare(PAIRS, x, ["pythae"], settings, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
