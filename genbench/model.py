"""What a model is: something with a loss, samples and, where it has one, a likelihood."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genbench.dataset import Space
from genbench.standardization import Standardization
from genbench.suite import Kind

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


class Diverged(ArithmeticError):
    """The loss or likelihood of a model is not finite, or cannot be computed.

    A model may raise it; whatever else goes wrong in one, a division by zero included, is an error.
    """


@dataclass(frozen=True)
class OptimizedLoss:
    """A loss and the optimizer that minimizes it over its parameters.

    Attributes:
        loss: x (B, *shape) -> (), to be minimized.
        repeats: updates per step, each on a batch of its own.
        start, stop: the part of the run in which the loss is active, as shares from 0 to 1.
    """

    loss: Callable[[Tensor], Tensor]
    optimizer: Optimizer
    repeats: int = 1
    start: float = 0.0
    stop: float = 1.0

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters of the optimizer."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def trainable(self) -> list[nn.Parameter]:
        """Those of them that are not frozen."""
        return [p for p in self.parameters if p.requires_grad]


class Model(nn.Module, ABC):
    """A model of points of `space`.

    Attributes:
        likelihood: what `log_prob` is: exact, a lower bound, an estimate, or None where there is none. A class
            says it for real data; an instance may say otherwise (a density on integers is a bound).
        generative: whether it has samples; a learner of representations has codes alone.
    """

    likelihood: Kind | None = None
    generative: bool = True

    def __init__(self, space: Space) -> None:
        """A subclass adds its options as keyword arguments with types and defaults: suites are checked against them."""
        super().__init__()
        self.space = space

    @property
    def device(self) -> torch.device:
        """The device of the first parameter or buffer; the CPU if there is none."""
        return next((tensor.device for tensor in chain(self.parameters(), self.buffers())), torch.device("cpu"))

    def sample(self, n: int) -> Tensor:
        """Return n samples (n, *shape) in the data's own space: integers where `space.levels` is set."""
        raise NotImplementedError(f"{type(self).__name__} has no samples; define sample, or set generative = False")

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) in nats, x (B, *shape) -> (B,); of the integers where `space.levels` is set."""
        raise NotImplementedError(f"{type(self).__name__} has no likelihood; define log_prob, or set likelihood = None")

    def log_weights(self, x: Tensor, k: int, first: int = 0) -> Tensor:
        """Return logs (k', B) of independent weights w with E w = p(x), x (B, *shape): k of them, one without latents.

        log p(x) >= E log 1/k sum_i w_i (Importance Weighted Autoencoders, 2016, eq. 8). By default log p(x) itself.
        Where draws are functions of the point, those numbered `first`, `first` + 1, ... are taken.
        """
        return self.log_prob(x).unsqueeze(0)

    def loss(self, x: Tensor) -> Tensor:
        """Return the training loss (), x (B, *shape); the mean negative log-likelihood in nats by default."""
        return -self.log_prob(x).mean()

    def configure_optimizers(self, optimizer: MakeOptimizer) -> list[OptimizedLoss | tuple[OptimizedLoss, ...]]:
        """Return the losses to minimize, in order of their updates; those of a tuple are updated simultaneously.

        By default that is `loss` over all parameters. `optimizer` makes, from parameters, the optimizer that the run
        specifies.
        """
        return [OptimizedLoss(self.loss, optimizer(self.parameters()))]

    def prepare(self, x: Tensor) -> None:
        """Fit the standardization of real data to the training split x (N, *shape); called once, before training."""
        for module in self.modules():
            if isinstance(module, Standardization) and self.space.levels is None:
                module.fit(x)

    def fit_closed_form(self, x: Tensor) -> None:
        """Fit in closed form what training leaves, to the training split x (N, *shape); nothing by default.

        It is called once, after training.
        """
