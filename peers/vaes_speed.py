"""Training speed of VAEs in genbench and pythae: same architecture, data, optimizer and process.

Binary 28x28 images in batches of 128, float32, fused Adam. The networks are the defaults of pythae: ReLU MLPs
784-512-z and z-512-784 with 16 latents. The VAEs have Bernoulli decoders. The VQ-VAE minimizes squared error, and each
of its 16 latents is a one-dimensional vector with one of 512 codes. Decoders of pythae return a probability or an
intensity by a sigmoid, those of genbench a logit or a mean. The prior over codes is not trained: in pythae it is a
separate model.

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
from peers.rounds import Pair, TrainingTask, compare, training_task

SHAPE, BATCH = (1, 28, 28), 128
HIDDEN, LATENT, K, CODES = (512,), 16, 10, 512  # pythae's defaults, except LATENT, which has none
BINARY, REAL = Space(SHAPE, levels=2), Space(SHAPE)
VAE_OPTIONS: dict[str, Any] = {"latent": LATENT, "hidden": HIDDEN}
PYTHAE_CONFIG: dict[str, Any] = {"input_dim": SHAPE, "latent_dim": LATENT}


def genbench_task(model: VAE | IWAE) -> TrainingTask:
    """Return the training task of a genbench VAE."""
    return training_task(model, model.loss)


def genbench_vqvae_task() -> TrainingTask:
    """Return the task of training the first stage of genbench's VQ-VAE."""
    model = FlatVQVAE(REAL, positions=LATENT, dim=1, codes=CODES, hidden=HIDDEN, dropout=0, sigma=0.5**0.5)
    first = [p for part in (model.encoder, model.decoder) for p in part.parameters()]
    return TrainingTask(first, model.loss)


def pythae_task(model: pythae.BaseAE) -> TrainingTask:
    """Return the training task of a pythae model, with the loss of its trainer."""
    return training_task(model, lambda x: model(DatasetOutput(data=x)).loss)


PAIRS = {
    "VAE": Pair(
        "pythae",
        lambda: genbench_task(VAE(BINARY, **VAE_OPTIONS)),
        lambda: pythae_task(pythae.VAE(pythae.VAEConfig(reconstruction_loss="bce", **PYTHAE_CONFIG))),
    ),
    f"IWAE, k = {K}": Pair(
        "pythae",
        lambda: genbench_task(IWAE(BINARY, k=K, **VAE_OPTIONS)),
        lambda: pythae_task(
            pythae.IWAE(pythae.IWAEConfig(reconstruction_loss="bce", number_samples=K, **PYTHAE_CONFIG))
        ),
    ),
    "VQ-VAE": Pair(
        "pythae",
        genbench_vqvae_task,
        lambda: pythae_task(pythae.VQVAE(pythae.VQVAEConfig(use_ema=True, num_embeddings=CODES, **PYTHAE_CONFIG))),
    ),
}


def main(file: str | None = None) -> None:
    """Print the table; write a record with every round to `file`, if given."""
    x = torch.bernoulli(torch.full((BATCH, *SHAPE), 0.13))
    settings = {"shape": SHAPE, "hidden": HIDDEN, "latent": LATENT, "k": K, "codes": CODES}
    compare(PAIRS, x, ["pythae"], settings, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
