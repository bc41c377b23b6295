"""CLIP: unit vectors of images and texts, similar for matching pairs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot, pad

from genbench.dataset import Space
from genbench.model import MakeOptimizer, Model, OptimizedLoss
from genbench.models.contrastive.losses import symmetric_cross_entropy
from genbench.nets.augmentations import Augmentation
from genbench.nets.coders import Networks
from genbench.nets.precision import at_least_float32, full_precision
from genbench.nets.transformer import Transformer

__all__ = ["CLIP"]

INITIAL_TEMPERATURE = 0.07  # section 2.5
MAX_LOGIT_SCALE = 100.0  # section 2.5


class CLIP(Model):
    """Learning Transferable Visual Models From Natural Language Supervision (2021), figure 3. It cannot generate.

    A data point is the levels of an image, flattened, followed by the letters of its text. A convolutional encoder maps
    images to unit vectors; a causal transformer reads the letters, and its output after the last one is mapped to the
    unit vector of the text (section 2.4). Both are trained from scratch. Equal texts in a batch are not negatives of
    each other: the target distribution is uniform over equal texts (`symmetric_cross_entropy`).

    Args:
        image: channels, height and width.
        shades: levels of a pixel.
        latent: dimension of the unit vectors.
        channels: of the image encoder's convolutions.
        width, depth, heads: of the transformer.
        shift, rotation, scale: largest changes of a training image, as in `Augmentation`.

    Raises:
        ValueError: the data are not vectors of integers, or not longer than the image.
    """

    generative = False

    def __init__(
        self,
        space: Space,
        *,
        image: tuple[int, int, int] = (1, 8, 8),
        shades: int = 17,
        latent: int = 32,
        channels: int = 32,
        width: int = 32,
        depth: int = 1,
        heads: int = 4,
        shift: float = 0.1,
        rotation: float = 15.0,
        scale: float = 0.15,
    ) -> None:
        super().__init__(space)
        self.image, self.shades, self.pixels = image, shades, math.prod(image)
        if space.levels is None or len(space.shape) != 1 or space.dims <= self.pixels:
            raise ValueError(f"CLIP needs integer vectors of {self.pixels} pixels and at least one letter, got {space}")
        self.letters, self.symbols = space.dims - self.pixels, space.levels
        self.augment = Augmentation(shift, rotation, scale, noise=0, erasing=0)
        self.image_encoder = Networks("convnet", channels=channels).encoder(Space(image), latent)
        self.text_encoder = Transformer(self.symbols, latent, self.letters + 1, width=width, depth=depth, heads=heads)
        self.t = nn.Parameter(torch.tensor(math.log(1 / INITIAL_TEMPERATURE)))  # log of the factor on cosines

    def split_pairs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (B, *image), float in [0, 1], and texts (B, letters) of points x (B, D)."""
        pixels, texts = x.split((self.pixels, self.letters), 1)
        return pixels.float().view(-1, *self.image) / (self.shades - 1), texts

    def embed_images(self, images: Tensor) -> Tensor:
        """Return unit vectors of images (B, *image), float in [0, 1] -> (B, latent)."""
        return normalize(at_least_float32(self.image_encoder(images)), dim=1)

    def embed_texts(self, texts: Tensor) -> Tensor:
        """Return unit vectors of texts (B, letters) of integers -> (B, latent): the output after the last letter."""
        letters = one_hot(texts.long(), self.symbols).float()
        return normalize(at_least_float32(self.text_encoder(pad(letters, (0, 0, 0, 1)))[:, -1]), dim=1)

    def similarity(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return the cosines of images (I, *image) and texts (T, letters), (I, T)."""
        a, b = self.embed_images(images), self.embed_texts(texts)
        with full_precision(a):
            return a @ b.T

    def encode(self, x: Tensor) -> Tensor:
        """Return the unit vectors of the images of points, x (B, D) -> (B, latent)."""
        return self.embed_images(self.split_pairs(x)[0])

    def loss(self, x: Tensor) -> Tensor:
        """Return the symmetric cross-entropy () of matching augmented images and texts, x (B, D)."""
        images, texts = self.split_pairs(x)
        positive = (texts[:, None] == texts[None]).all(2)
        return symmetric_cross_entropy(self.t.exp() * self.similarity(self.augment(images), texts), positive)

    def configure_optimizers(self, optimizer: MakeOptimizer) -> list[OptimizedLoss | tuple[OptimizedLoss, ...]]:
        """Return the loss, with an optimizer that limits the logit scale after each step."""
        adapted = optimizer(self.parameters())
        adapted.register_step_post_hook(self.limit_logit_scale)
        return [OptimizedLoss(self.loss, adapted)]

    @torch.no_grad()
    def limit_logit_scale(self, *_: Any) -> None:
        """Clamp the factor on cosines to at most 100."""
        self.t.clamp_(max=math.log(MAX_LOGIT_SCALE))
