"""The contract of metrics: what they get, a trained model with its data, and what they return."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from genbench.dataset import Dataset
from genbench.model import Model
from genbench.records.record import Measurement
from genbench.snapshots import Snapshots
from genbench.suite import Run
from genbench.train import reseed
from genbench.validation.datasets import true_log_prob
from genbench.validation.models import check_log_prob, check_log_weights, check_samples

__all__ = ["Evaluation", "Measurement", "Metric"]


@dataclass
class Evaluation:
    """A trained model, in evaluation mode on its device, and the data it was trained on.

    Attributes:
        snapshots: states saved during training, by step; empty for most models.
        files: pictures and other files that metrics draw, by name ("samples.png").
    """

    model: Model
    dataset: Dataset
    run: Run
    snapshots: Snapshots = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    _drawn: list[Tensor] = field(default_factory=list, init=False, repr=False)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((t.device for t in [*self.model.parameters(), *self.model.buffers()]), torch.device("cpu"))

    def batches(self, x: Tensor, size: int | None = None) -> Iterator[Tensor]:
        """Yield x (N, *shape) on the model's device in batches of `size`, or as many as are evaluated at once."""
        return (batch.to(self.device) for batch in torch.split(x, size or self.dataset.space.eval_batch_size))

    def log_prob_of(self, x: Tensor) -> Tensor:
        """Return log p(x) in nats, x (N, *shape) -> (N,) float64 on the CPU."""
        with torch.no_grad():
            parts = [check_log_prob(self.model, self.model.log_prob(batch), batch) for batch in self.batches(x)]
            return torch.cat([part.double().cpu() for part in parts])

    def log_weights_of(self, x: Tensor, k: int, first: int = 0) -> Tensor:
        """Return the logs (k', B) float64 of weights of x (B, *shape), on the model's device, as the model has them."""
        return check_log_weights(self.model, self.model.log_weights(x, k, first), x, k).double()

    @cached_property
    def log_prob(self) -> Tensor:
        """log p of the test split, (N,) float64, nats."""
        return self.log_prob_of(self.dataset.test)

    @cached_property
    def true_log_prob(self) -> Tensor | None:
        """The true log p of the test split, (N,) float64, nats; None where it is not known."""
        truth = self.dataset.log_prob
        return None if truth is None else true_log_prob(self.run.data, truth, self.dataset.test)

    @property
    def samples(self) -> Tensor:
        """1,000 samples (1000, *shape) in the data's own space, on the CPU."""
        return self.sampled(1000)

    def sampled(self, n: int) -> Tensor:
        """Return the first n samples (n, *shape) of the run's seed, in the data's own space, on the CPU.

        They are drawn a thousand at a time, thousand number i from (seed, i) alone: they are the same whichever metric
        needs them, and drawing them leaves the generators as they were.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            while sum(map(len, self._drawn)) < n:
                reseed(self.run.seed, "samples", len(self._drawn))
                drawn = check_samples(self.model, self.model.sample(1000), 1000, self.dataset.space)
                self._drawn.append(drawn.to(self.dataset.train.dtype))
        return torch.cat(self._drawn)[:n]


@dataclass(frozen=True)
class Metric:
    """A metric of a trained model.

    Attributes:
        measure: returns measurements by name; none where the metric does not apply to the model.
        first_seed_only: take it on the first seed of a row and data set only, as for pictures, which are not averaged.
        exclusive: it measures speed or memory: on the first seed only, after all other work, one run at a time.
        names: of its measurements, if fixed; two metrics of a suite must not share one.
    """

    measure: Callable[[Evaluation], dict[str, Measurement]]
    first_seed_only: bool = False
    exclusive: bool = False
    names: tuple[str, ...] = ()
