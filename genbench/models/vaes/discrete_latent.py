"""The base of VQ-VAEs: codebooks, a decoder of code vectors, and a prior over codes trained as the second stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from genbench.dataset import Space
from genbench.model import MakeOptimizer, OptimizedLoss
from genbench.models.observations import ObservationName, observation_of
from genbench.models.vaes.codebook import Codebook, Learning, QuantizerOutput
from genbench.models.vaes.decoder import DecoderModel
from genbench.nets.transformer import KVCache, Transformer

Quantizer = Callable[[Codebook, Tensor], QuantizerOutput]  # a method of Codebook


class CodePrior(nn.Module):
    """p(c) = prod_t p(c_t | c_1 .. c_(t-1)) of codes c (B, T) by a causal transformer; uniform before training.

    The codes of all levels form one sequence, so that p(c_1) p(c_2 | c_1) ... is over levels too. Each level has its
    own embeddings.

    Args:
        size: K, the number of codes in a codebook.
        lengths: the number of codes of each level; T in total.
    """

    offsets: Tensor

    def __init__(
        self, size: int, lengths: Sequence[int], *, width: int, depth: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        levels = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        self.register_buffer("offsets", size * levels, persistent=False)  # index of code 0's embedding, (T,)
        self.embedding = nn.Embedding(size * len(lengths), width)
        self.net = Transformer(
            width, size, sum(lengths), width=width, depth=depth, heads=heads, dropout=dropout, zero=True
        )

    def log_prob(self, c: Tensor) -> Tensor:
        """Return log p(c) in nats, c (B, T) -> (B,)."""
        logits: Tensor = self.net(self.embedding(c + self.offsets))
        return -cross_entropy(logits.mT, c, reduction="none").sum(1)

    def sample(self, n: int) -> Tensor:
        """Return n samples (n, T), one code at a time with a cache of keys and values."""
        past: KVCache = {}
        codes, token = list[Tensor](), self.embedding.weight.new_zeros(n, self.embedding.embedding_dim)
        for t, offset in enumerate(self.offsets):
            probabilities = self.net.step(token, t, past).softmax(1)
            codes.append(torch.multinomial(probabilities, 1).squeeze(1))
            token = self.embedding(codes[-1] + offset)
        return torch.stack(codes, 1)


class DiscreteLatentModel(DecoderModel):
    """p(x) = sum_c p(c) p(x | c) over codes c, with an encoder that maps each x to one c(x).

    Neural Discrete Representation Learning (2017), eq. 2 and 3. The likelihood is the bound by one term of the sum,

        log p(x) >= log p(c(x)) + log p(x | c(x)).

    `log_weights` samples codes near c(x), which stand for many terms. Training has two stages: encoder, decoder and
    codebooks for the first `share` of the run, then the prior over codes (section 3.3). z is the concatenation of the
    code vectors of all levels, each (d, *grid) flattened.

    Args:
        codes, dim: K and d of every codebook.
        codebook, beta, decay, restart: how codebooks are learned, as in `Codebook`.
        observation, sigma: p(x | z), as in `observation_of`.
        near: train the prior on codes sampled near c(x) in each step, instead of c(x); this regularizes it on small
            data sets.
        width, depth, heads: of the prior's transformer.
        dropout: of decoder and prior; the encoder has none, because the codes must not be random.

    Raises:
        ValueError: `share` is not in (0, 1], or `observation_of` or the transformer rejects an option.
    """

    encoder: nn.Module  # x (B, *shape) -> (B, d, *grid), in models of one level

    def __init__(
        self,
        space: Space,
        grids: Sequence[tuple[int, ...]],
        /,
        *,
        codes: int = 64,
        dim: int = 16,
        codebook: Learning = "ema",
        beta: float = 0.25,
        decay: float = 0.99,
        restart: float = 0.03,
        share: float = 0.75,
        observation: ObservationName = "auto",
        sigma: float | None = None,
        near: bool = True,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.3,
    ) -> None:
        """Subclasses pass `grids`, the shape of the codes of each level, top level first."""
        super().__init__(space, observation_of(space, observation, sigma))
        if not 0 < share <= 1:
            raise ValueError(f"share={share} must be above 0 and at most 1")
        self.size, self.dim, self.dropout, self.grids = codes, dim, dropout, list(grids)
        self.share, self.near = share, near
        self.codebooks = nn.ModuleList(
            Codebook(codes, dim, learning=codebook, beta=beta, decay=decay, restart=restart) for _ in grids
        )
        lengths = [math.prod(grid) for grid in grids]
        self.prior = CodePrior(codes, lengths, width=width, depth=depth, heads=heads, dropout=dropout)

    @property
    def codebook_list(self) -> list[Codebook]:
        """The codebooks, top level first."""
        return [book for book in self.codebooks if isinstance(book, Codebook)]

    def quantize(self, x: Tensor, quantizer: Quantizer = Codebook.quantize) -> list[QuantizerOutput]:
        """Return the encoding of x (B, *shape) after quantization, top level first."""
        return [quantizer(self.codebook_list[0], self.encoder(self.scaled(x)))]

    def loss(self, x: Tensor) -> Tensor:
        """Return -log p(x | z) plus the losses of the codebooks (eq. 3) in nats, x (B, *shape) -> ()."""
        levels = self.quantize(x, Codebook.quantize_and_update if self.training else Codebook.quantize)
        z = torch.cat([level.z.flatten(1) for level in levels], 1)
        return torch.stack([level.loss for level in levels]).sum() - self.log_likelihood(x, z).mean()

    def prior_loss(self, x: Tensor) -> Tensor:
        """Return -log p(c) in nats, c = c(x) or sampled near it, x (B, *shape) -> ()."""
        return -self.log_prior(self.codes(x, Codebook.sample if self.near else Codebook.quantize)).mean()

    def configure_optimizers(self, optimizer: MakeOptimizer) -> list[OptimizedLoss | tuple[OptimizedLoss, ...]]:
        """Return the two stages: encoder, decoder and codebooks; then the prior."""
        first = [p for name, p in self.named_parameters() if not name.startswith("prior.")]
        return [
            OptimizedLoss(self.loss, optimizer(first), stop=self.share),
            OptimizedLoss(self.prior_loss, optimizer(self.prior.parameters()), start=self.share),
        ]

    @torch.no_grad()
    def codes(self, x: Tensor, quantizer: Quantizer = Codebook.quantize) -> list[Tensor]:
        """Return the codes of x (B, *shape), one tensor (B, *grid) for each level, top level first."""
        return [level.codes for level in self.quantize(x, quantizer)]

    def log_prior(self, codes: list[Tensor]) -> Tensor:
        """Return log p(c) in nats, codes as from `codes` -> (B,)."""
        return self.prior.log_prob(torch.cat([c.flatten(1) for c in codes], 1))

    def embed(self, codes: list[Tensor]) -> Tensor:
        """Return z (B, Z), the code vectors of all levels."""
        books = zip(self.codebook_list, codes, strict=True)
        return torch.cat([book.embed(c).flatten(1) for book, c in books], 1)

    def rate_and_distortion(self, x: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return -log p(c(x)) and -log p(x | c(x)) in nats, x (B, *shape) -> (B,), (B,); `k` has no effect."""
        codes = self.codes(x)
        return -self.log_prior(codes), -self.log_likelihood(x, self.embed(codes))

    def log_weights(self, x: Tensor, k: int, first: int = 0) -> Tensor:
        """Return log p(c) p(x | c) / q(c | x) in nats for k samples of codes, x (B, *shape) -> (k, B)."""
        x = x.expand(k, *x.shape).flatten(0, 1)
        levels = self.quantize(x, Codebook.sample)
        codes = [level.codes for level in levels]
        log_joint = self.log_prior(codes) + self.log_likelihood(x, self.embed(codes))
        return (log_joint - sum(level.log_q for level in levels)).view(k, -1)

    def sample(self, n: int) -> Tensor:
        """Return n samples (n, *shape) of p(x | c), c from the prior."""
        parts = self.prior.sample(n).split([math.prod(grid) for grid in self.grids], 1)
        codes = [c.view(n, *grid) for c, grid in zip(parts, self.grids, strict=True)]
        return self.sample_x(self.embed(codes))

    def encode(self, x: Tensor) -> Tensor:
        """Return the code vectors of x, x (B, *shape) -> (B, Z)."""
        return self.embed(self.codes(x))
