"""CLIP: unit vectors of images and of texts, near where they belong together."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot, pad

from genbench.dataset import Space
from genbench.model import MakeOptimizer, Model, OptimizedLoss
from genbench.models.contrastive.losses import matching
from genbench.nets.augmentations import Augmentation
from genbench.nets.coders import Networks
from genbench.nets.precision import at_least_float32, full_precision
from genbench.nets.transformer import Transformer

__all__ = ["CLIP"]

START, TOP = 0.07, 100.0  # temperature at the start, and largest factor on cosines (section 2.5)


class CLIP(Model):
    """Learning Transferable Visual Models From Natural Language Supervision (2021), figure 3: it has codes alone.

    A point is the levels of an image, flattened, and then the letters of its text. A convolutional encoder turns
    images into unit vectors; a causal transformer reads letters, and its output after the last is the text's, as in
    section 2.4. Both are learned from nothing. Where texts of a batch are equal, theirs are no negative pairs: targets
    are spread over equal texts (`matching`).

    Args:
        image: channels, height and width.
        shades: levels of a pixel.
        latent: dimensions of the vectors.
        channels: of the image encoder's convolutions.
        width, depth, heads: of the transformer.
        shift, rotation, scale: furthest changes of a training image, as in `Augmentation`.

    Raises:
        ValueError: points of `space` are not integers, or not longer than the image.
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
            raise ValueError(f"an image of shape {image} and letters, all integers, are no points of {space}")
        self.letters, self.symbols = space.dims - self.pixels, space.levels
        self.augmented = Augmentation(shift, rotation, scale, noise=0, erasing=0)
        self.seeing = Networks("convnet", channels=channels).encoder(Space(image), latent)
        self.reading = Transformer(self.symbols, latent, self.letters + 1, width=width, depth=depth, heads=heads)
        self.t = nn.Parameter(torch.tensor(math.log(1 / START)))

    def parted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (B, *image), float in [0, 1], and texts (B, letters) of points x (B, D)."""
        pixels, texts = x.split((self.pixels, self.letters), 1)
        return pixels.float().view(-1, *self.image) / (self.shades - 1), texts

    def embed_images(self, images: Tensor) -> Tensor:
        """Return unit vectors (B, latent) of images (B, *image), float in [0, 1]."""
        return normalize(at_least_float32(self.seeing(images)), dim=1)

    def embed_texts(self, texts: Tensor) -> Tensor:
        """Return unit vectors (B, latent) of texts (B, letters) of integers: what is said after the last letter."""
        letters = one_hot(texts.long(), self.symbols).float()
        return normalize(at_least_float32(self.reading(pad(letters, (0, 0, 0, 1)))[:, -1]), dim=1)

    def similarity(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return cosines (I, T) of images (I, *image) with texts (T, letters)."""
        a, b = self.embed_images(images), self.embed_texts(texts)
        with full_precision(a):
            return a @ b.T

    def encode(self, x: Tensor) -> Tensor:
        """Return the unit vectors of the images of points, x (B, D) -> (B, latent)."""
        return self.embed_images(self.parted(x)[0])

    def loss(self, x: Tensor) -> Tensor:
        """Return the symmetric cross-entropy () of finding changed images' texts and texts' images, x (B, D)."""
        images, texts = self.parted(x)
        together = (texts[:, None] == texts[None]).all(2)
        return matching(self.t.exp() * self.similarity(self.augmented(images), texts), together)

    def configure_optimizers(self, optimizer: MakeOptimizer) -> list[OptimizedLoss | tuple[OptimizedLoss, ...]]:
        """Return one, after whose every move the factor is clipped."""
        moves = optimizer(self.parameters())
        moves.register_step_post_hook(self.clip)
        return [OptimizedLoss(self.loss, moves)]

    @torch.no_grad()
    def clip(self, *_: Any) -> None:
        """Let the factor on cosines be at most 100."""
        self.t.clamp_(max=math.log(TOP))
