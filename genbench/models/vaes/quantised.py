"""What models of codes share: codebooks, a decoder of their vectors, and a prior over codes as the second stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from genbench.dataset import Space
from genbench.model import MakeOptimizer, OptimizedLoss
from genbench.models.observations import ObservationName, observation_of
from genbench.models.vaes.codebook import Codebook, Learning, Quantised
from genbench.models.vaes.decoder import DecoderModel
from genbench.nets.transformer import Past, Transformer

Choose = Callable[[Codebook, Tensor], Quantised]


class Prior(nn.Module):
    """p(c) = prod_t p(c_t | c_1 .. c_(t-1)) of codes c (B, T) by a causal transformer; uniform until it is trained.

    The codes of several levels follow one another, and each level has embeddings of its own: p(c_1) p(c_2 | c_1) ...

    Args:
        size: K, how many codes there are.
        lengths: how many a point has, level by level; T in all.
    """

    first: Tensor

    def __init__(
        self, size: int, lengths: Sequence[int], *, width: int, depth: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        levels = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        self.register_buffer("first", size * levels, persistent=False)  # embedding of each place's code 0
        self.embedding = nn.Embedding(size * len(lengths), width)
        self.net = Transformer(
            width, size, sum(lengths), width=width, depth=depth, heads=heads, dropout=dropout, zero=True
        )

    def log_prob(self, c: Tensor) -> Tensor:
        """Return log p(c) in nats, c (B, T) -> (B,)."""
        logits: Tensor = self.net(self.embedding(c + self.first))
        return -cross_entropy(logits.mT, c, reduction="none").sum(1)

    def sample(self, n: int) -> Tensor:
        """Return n draws (n, T), code by code, with the keys and values of those drawn kept."""
        past: Past = {}
        drawn, token = list[Tensor](), self.embedding.weight.new_zeros(n, self.embedding.embedding_dim)
        for t, first in enumerate(self.first):
            probabilities = self.net.step(token, t, past).softmax(1)
            drawn.append(torch.multinomial(probabilities, 1).squeeze(1))
            token = self.embedding(drawn[-1] + first)
        return torch.stack(drawn, 1)


class QuantisedModel(DecoderModel):
    """p(x) = sum_c p(c) p(x | c) of codes c, with an encoder that gives one c for each x.

    Neural Discrete Representation Learning (2017), eq. 2 and 3. The likelihood is the bound of that one term,

        log p(x) >= log p(c(x)) + log p(x | c(x)),

    and its weights are those of codes drawn near c(x), which stand for many terms. Two players move one after the
    other: encoder, decoder and codebooks for the first `share` of the run, then the prior over the codes (section 3.3).
    z are the vectors of the codes, level by level, each (d, *places) flattened.

    Args:
        codes, dim: K and d of every codebook.
        codebook, beta, decay, restart: how codebooks follow, as in `Codebook`.
        observation, sigma: p(x | z), as in `observation_of`.
        near: the prior learns codes drawn near c(x), anew each time, in place of c(x): small data are soon overfitted.
        width, depth, heads: of the prior's transformer.
        dropout: of decoder and prior; the encoder has none, lest codes depend on it.

    Raises:
        ValueError: `share` is not above 0 and at most 1, or `observation_of` or the transformer refuses an option.
    """

    encoder: nn.Module  # x (B, *shape) -> (B, d, *places), of one level

    def __init__(
        self,
        space: Space,
        places: Sequence[tuple[int, ...]],
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
        """A subclass says `places`, the shape of each level's codes, from the top."""
        super().__init__(space, observation_of(space, observation, sigma))
        if not 0 < share <= 1:
            raise ValueError(f"share={share} must be above 0 and at most 1")
        self.size, self.dim, self.dropout, self.places = codes, dim, dropout, list(places)
        self.share, self.near = share, near
        self.codebooks = nn.ModuleList(
            Codebook(codes, dim, learning=codebook, beta=beta, decay=decay, restart=restart) for _ in places
        )
        lengths = [math.prod(shape) for shape in places]
        self.prior = Prior(codes, lengths, width=width, depth=depth, heads=heads, dropout=dropout)

    @property
    def books(self) -> list[Codebook]:
        """The codebooks, level by level from the top."""
        return [book for book in self.codebooks if isinstance(book, Codebook)]

    def quantised(self, x: Tensor, choose: Choose = Codebook.nearest) -> list[Quantised]:
        """Return x (B, *shape) quantised as `choose` does, level by level from the top."""
        return [choose(self.books[0], self.encoder(self.scaled(x)))]

    def loss(self, x: Tensor) -> Tensor:
        """Return -log p(x | z) and the losses of the codebooks (eq. 3), x (B, *shape) -> () nats."""
        levels = self.quantised(x, Codebook.learned if self.training else Codebook.nearest)
        z = torch.cat([level.z.flatten(1) for level in levels], 1)
        return torch.stack([level.loss for level in levels]).sum() - self.log_likelihood(x, z).mean()

    def prior_loss(self, x: Tensor) -> Tensor:
        """Return -log p(c) of c(x), or of a draw of codes near it, x (B, *shape) -> () nats."""
        return -self.log_prior(self.codes(x, Codebook.drawn if self.near else Codebook.nearest)).mean()

    def configure_optimizers(self, optimizer: MakeOptimizer) -> list[OptimizedLoss | tuple[OptimizedLoss, ...]]:
        """Return who learns the codes and, after it, who learns their prior."""
        first = [p for name, p in self.named_parameters() if not name.startswith("prior.")]
        return [
            OptimizedLoss(self.loss, optimizer(first), stop=self.share),
            OptimizedLoss(self.prior_loss, optimizer(self.prior.parameters()), start=self.share),
        ]

    @torch.no_grad()
    def codes(self, x: Tensor, choose: Choose = Codebook.nearest) -> list[Tensor]:
        """Return the codes of x (B, *shape), level by level from the top, each (B, *places)."""
        return [level.codes for level in self.quantised(x, choose)]

    def log_prior(self, codes: list[Tensor]) -> Tensor:
        """Return log p(c) in nats, each level (B, *places) -> (B,)."""
        return self.prior.log_prob(torch.cat([c.flatten(1) for c in codes], 1))

    def vectors(self, codes: list[Tensor]) -> Tensor:
        """Return z (B, Z) of codes."""
        return torch.cat([book.vectors(c).flatten(1) for book, c in zip(self.books, codes, strict=True)], 1)

    def rate_and_distortion(self, x: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return -log p(c(x)) and -log p(x | c(x)), x (B, *shape) -> (B,), (B,) nats; there is nothing to draw."""
        codes = self.codes(x)
        return -self.log_prior(codes), -self.log_likelihood(x, self.vectors(codes))

    def log_weights(self, x: Tensor, k: int, first: int = 0) -> Tensor:
        """Return log p(c) p(x | c) / q(c | x) of k draws of codes, x (B, *shape) -> (k, B) nats."""
        x = x.expand(k, *x.shape).flatten(0, 1)
        levels = self.quantised(x, Codebook.drawn)
        codes = [level.codes for level in levels]
        log_joint = self.log_prior(codes) + self.log_likelihood(x, self.vectors(codes))
        return (log_joint - sum(level.log_q for level in levels)).view(k, -1)

    def sample(self, n: int) -> Tensor:
        """Return n samples (n, *shape) of p(x | c), c of the prior."""
        parts = self.prior.sample(n).split([math.prod(shape) for shape in self.places], 1)
        return self.observed(self.vectors([c.view(n, *shape) for c, shape in zip(parts, self.places, strict=True)]))

    def encode(self, x: Tensor) -> Tensor:
        """Return z of the codes of x, x (B, *shape) -> (B, Z)."""
        return self.vectors(self.codes(x))
