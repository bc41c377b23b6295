"""Optional abilities of models, one Protocol each, and the metrics that use them.

A metric checks for the ability it needs, as in ``isinstance(model, HasEncoder)``, and returns no measurements for other
models. A model gets the metric by defining the methods; there is nothing to inherit or to register. The page
docs/capabilities.md is this module's table:

    python -m genbench.capabilities > docs/capabilities.md
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from genbench.dataset import Space
from genbench.registry import find, names, origin

if TYPE_CHECKING:
    from genbench.model import Model
    from genbench.models.vaes.svi import Optimum

# Attributes of a Protocol must be plain values or properties: from Python 3.12 on, `isinstance` looks them up without
# `nn.Module.__getattr__`, and so does not see submodules, parameters or buffers.


@runtime_checkable
class HasEncoder(Protocol):
    """Codes z of points, in any shape."""

    def encode(self, x: Tensor) -> Tensor:
        """Return z (B, ...), or its mean where it is random, x (B, *shape)."""


@runtime_checkable
class HasReconstruction(Protocol):
    """Latents z and reconstructions E[x | z]."""

    def encode(self, x: Tensor) -> Tensor:
        """Return z (B, Z), or its mean where it is random, x (B, *shape)."""

    def decode(self, z: Tensor) -> Tensor:
        """Return E[x | z] in the data's own units, z (B, Z) -> (B, *shape) float."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return E[x | z] at z = encode(x), x (B, *shape) -> (B, *shape) float."""


@runtime_checkable
class HasPrior(Protocol):
    """Samples decoded from z of a prior, N(0, I) or another of independent coordinates with mean 0.

    The metric `samples` then draws interpolations, too.
    """

    @property
    def latent(self) -> int:
        """Z, the number of dimensions of z."""

    def prior(self, n: int) -> Tensor:
        """Return n draws (n, Z) from the prior."""

    def decode(self, z: Tensor) -> Tensor:
        """Return x in the data's own units, z (B, Z) -> (B, *shape) float."""


@runtime_checkable
class HasGenerator(Protocol):
    """An implicit model x = G(z), z ~ N(0, I), without a density p(x | z)."""

    space: Space

    @property
    def latent(self) -> int:
        """Z, the number of dimensions of z."""

    def generate(self, z: Tensor) -> Tensor:
        """Return G(z) in the units of the networks, z (B, Z) -> (B, *shape)."""

    def decode(self, z: Tensor) -> Tensor:
        """Return G(z) in the data's own units, z (B, Z) -> (B, *shape) float."""


@runtime_checkable
class HasDecoder(Protocol):
    """A density or probability p(x | z) of x given z ~ N(0, I)."""

    @property
    def latent(self) -> int:
        """Z, the number of dimensions of z."""

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x | z) in nats, x (B, *shape), z (..., B, Z) -> (..., B)."""

    def sample_x(self, z: Tensor) -> Tensor:
        """Return one draw from p(x | z) for each z (B, Z) -> (B, *shape), in the data's own type."""


@runtime_checkable
class HasELBO(Protocol):
    """An evidence lower bound in two parts."""

    def rate_and_distortion(self, x: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return KL(q(z | x), p(z)) and -E_q log p(x | z) by k draws, x (B, *shape) -> (B,), (B,) nats."""


@runtime_checkable
class HasPosterior(Protocol):
    """An approximate posterior q(z | x) = N(mu, e^logvar), diagonal.

    The metric `latents:gradients` also needs a network `encoder`.
    """

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and logvar, x (B, *shape) -> (B, Z), (B, Z)."""

    def elbo_of(self, x: Tensor, mu: Tensor, logvar: Tensor, k: int = 1) -> Tensor:
        """Return the ELBO of N(mu, e^logvar) by k draws, x (B, *shape), mu and logvar (B, Z) -> (B,) nats."""

    def optimize_posterior(self, x: Tensor, mu: Tensor, logvar: Tensor, tolerance: float, max_steps: int) -> Optimum:
        """Return the q of highest ELBO for each x (B, *shape), to `tolerance` nats, from mu and logvar (B, Z)."""

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x | z) in nats, x (B, *shape), z (..., B, Z) -> (..., B)."""

    def surrogate(self, x: Tensor, baseline: Callable[[Tensor], Tensor] | float | None = None) -> Tensor:
        """Return a loss () whose gradient estimates that of the negative ELBO: reparameterized if `baseline` is None.

        Otherwise by the log-derivative (REINFORCE) with that baseline, x (B, *shape).
        """


@runtime_checkable
class HasCodebook(Protocol):
    """Discrete codes 0..K-1 of points, K = `size`."""

    size: int

    def codes(self, x: Tensor) -> list[Tensor]:
        """Return the codes of each level of a hierarchy, from the top, x (B, *shape) -> (B, ...) each."""


@runtime_checkable
class HasSimilarity(Protocol):
    """Points that are an image and a text each, and how similar images and texts are.

    Texts are letters: 1..26 for a to z, 0 for a blank.
    """

    def split_pairs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W) in [0, 1] and texts (B, letters) of points x (B, D)."""

    def similarity(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return the similarity (I, T) of images (I, C, H, W) to texts (T, letters)."""


@runtime_checkable
class HasCritic(Protocol):
    """A critic or discriminator v(x)."""

    def critic_score(self, x: Tensor) -> Tensor:
        """Return v(x), higher for what looks real, x (B, *shape) in the data's own units -> (B,)."""


@runtime_checkable
class HasNFE(Protocol):
    """A count of network evaluations, as of an ODE solver."""

    @property
    def evaluations(self) -> int:
        """The number of evaluations of the network for the last batch."""


# ------------------------------------------------------------------------------------------------------- the table


class Ability(NamedTuple):
    """An optional ability of models.

    Attributes:
        protocol: the methods and attributes it takes.
        metrics: those that use it, as suites name them.
    """

    protocol: Any
    metrics: tuple[str, ...]


ANOMALIES = ("anomalies", *(f"anomalies:{name}" for name in ("binary", "digits", "ising", "nine")))
ABILITIES = (
    Ability(HasEncoder, ("representation:linear_probe", "representation:clustering")),
    Ability(HasReconstruction, ("latents", *ANOMALIES, "restoration:denoising", "restoration:compression")),
    Ability(HasPrior, ("samples",)),
    Ability(HasGenerator, ("ais", "ais:quick")),
    Ability(HasDecoder, ("ais", "ais:quick")),
    Ability(HasELBO, ("latents",)),
    Ability(HasPosterior, ("latents:amortisation", "latents:gradients")),
    Ability(HasCodebook, ("codebook",)),
    Ability(HasSimilarity, ("retrieval",)),
    Ability(HasCritic, ("landscape",)),
    Ability(HasNFE, ("nfe",)),
)


def members(protocol: Any) -> list[str]:
    """Return the methods of `protocol`, written as ``encode(x)``, and its attributes, written as ``latent``."""
    attributes = list(inspect.get_annotations(protocol))
    methods = {name: value for name, value in vars(protocol).items() if not name.startswith("_")}
    return attributes + [name + (_arguments(value) if callable(value) else "") for name, value in methods.items()]


def _arguments(method: Callable[..., Any]) -> str:
    _, *parameters = inspect.signature(method).parameters.values()
    return f"({', '.join(p.name if p.default is p.empty else f'{p.name}={p.default}' for p in parameters)})"


# -------------------------------------------------------------------------------------------------------- the page

SPACES = (Space((2,)), Space((1, 8, 8), 17), Space((72,), 27))  # reals, images, and images with letters
PAGE = """\
# What a model can do, and which metrics use it

Every model has a loss. One with `likelihood` set also has `log_prob`, and one that is `generative` has `sample`; the
metrics of likelihood and of sample quality need no more. The abilities below are optional: define the methods, and
the metrics apply. Shapes and units are in the docstrings of
[genbench/capabilities.py](../genbench/capabilities.py).

This page is generated: `python -m genbench.capabilities > docs/capabilities.md`.

"""


def page() -> str:
    """Return docs/capabilities.md: each ability with its methods, its metrics and the models of genbench that have it.

    An ability is a matter of instances, so every registered model is built, small and untrained.
    """
    models = [example(find("models", name)) for name in names("models") if origin("models", name) is None]
    rows = ["| Ability | Methods and attributes | Metrics | Models |", "|---|---|---|---|"]
    for protocol, metrics in ABILITIES:
        having = sorted({type(model).__name__ for model in models if isinstance(model, protocol)})
        about = " ".join((inspect.getdoc(protocol) or "").split()).replace("|", "\\|")
        cells = f"**{protocol.__name__}**: {about}", _code(members(protocol)), _code(metrics), ", ".join(having)
        rows.append(f"| {' | '.join(cells)} |")
    return PAGE + "\n".join(rows) + "\n"


def _code(texts: list[str] | tuple[str, ...]) -> str:
    return ", ".join(f"`{text}`" for text in texts)


def example(model: type[Model]) -> Model:
    """Return a `model` of the first of `SPACES` that it accepts, with 1 for options that have no default."""
    parameters = inspect.signature(model).parameters.values()
    options = {p.name: 1.0 for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty}
    for space in SPACES:
        with suppress(ValueError):
            return model(space, **options)
    raise ValueError(f"{model.__name__} accepts none of {SPACES}")


if __name__ == "__main__":
    print(page(), end="")
