"""Observation models p(x | z): the distribution of data given the outputs of a decoder.

A decoder gives `parameters` numbers for each of D dimensions, theta (..., parameters, D). The space determines which
model fits: Bernoulli for two levels, a discretized logistic (or a categorical) for more, a Gaussian for reals. The
Gaussian is a density, including (D/2) log 2 pi sigma^2, and rejects integers; the others give probabilities of
integers. A leaderboard has one dataset, so densities and probabilities are never ranked together.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot, softplus

from genbench.dataset import Space
from genbench.standardization import Standardization

ObservationName = Literal["auto", "bernoulli", "logistic", "categorical", "gaussian"]


class Observation(ABC):
    """p(x | theta) with independent dimensions; x (..., D) float in the units of the data.

    Attributes:
        parameters: how many numbers of theta each dimension has.
        standardization: gives the units of theta for reals; None if theta is in the units of the data.
    """

    parameters: int
    standardization: Standardization | None = None

    def __init__(self, space: Space) -> None:
        self.space, self.levels = space, space.levels or 0

    @abstractmethod
    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        """Return log p(x | theta) of each dimension in nats, theta (..., parameters, D), x (..., D) -> (..., D)."""

    @abstractmethod
    def sample(self, theta: Tensor) -> Tensor:
        """Return a sample of x, (..., D), in the dtype of the data."""

    @abstractmethod
    def mean(self, theta: Tensor) -> Tensor:
        """Return E[x | theta], (..., D) float."""

    @abstractmethod
    def initial_theta(self, x: Tensor) -> Tensor:
        """Return theta (parameters, D) that fits x (B, D) without latents: the initial bias of a decoder."""


class Bernoulli(Observation):
    """theta: the logit of x = 1."""

    parameters = 1

    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        return logsigmoid((2 * x - 1) * theta.squeeze(-2))

    def sample(self, theta: Tensor) -> Tensor:
        return torch.bernoulli(self.mean(theta)).to(self.space.dtype)

    def mean(self, theta: Tensor) -> Tensor:
        return theta.squeeze(-2).sigmoid()

    def initial_theta(self, x: Tensor) -> Tensor:
        return ((x.sum(0, keepdim=True) + 0.5) / (len(x) + 1)).logit()


class DiscretizedLogistic(Observation):
    """theta: mu and log s of a logistic variable; p(x) is its mass in (x - 1/2, x + 1/2), with the tails at the edges.

    PixelCNN++ (2017), eq. 2. In closed form, with a = (x + 1/2 - mu) / s and b = (x - 1/2 - mu) / s,

        sigma(a) - sigma(b) = sigma(a) sigma(-b) (1 - e^(b - a)),

    three factors whose logarithms are accurate for all mu and s. mu and s are in units of half the range.
    """

    parameters = 2
    floor = -7.0  # of log s

    def _mu_and_rate(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu in levels and 1/s in 1 / levels, (..., D) each."""
        half = (self.levels - 1) / 2
        mu, log_s = theta.unbind(-2)
        return half * (1 + mu), torch.exp(-self.floor - softplus(log_s - self.floor)) / half

    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        mu, rate = self._mu_and_rate(theta)
        distance, last = x - mu, self.levels - 1
        below = logsigmoid((distance + 0.5) * rate).masked_fill(x == last, 0)
        above = logsigmoid((0.5 - distance) * rate).masked_fill(x == 0, 0)
        width = torch.log(-torch.expm1(-rate)).masked_fill((x == 0) | (x == last), 0)
        return below + above + width

    def sample(self, theta: Tensor) -> Tensor:
        mu, rate = self._mu_and_rate(theta)
        x = mu + torch.rand_like(mu).logit(1e-7) / rate
        return self.space.to_levels(x)

    def mean(self, theta: Tensor) -> Tensor:
        """Return the sum over j from 0 of P(x > j) = sigma((mu - j - 1/2) / s)."""
        mu, rate = self._mu_and_rate(theta)
        return sum((((mu - j - 0.5) * rate).sigmoid() for j in range(self.levels - 1)), torch.zeros_like(mu))

    def initial_theta(self, x: Tensor) -> Tensor:
        half = (self.levels - 1) / 2
        s = (x.std(0, correction=0) * math.sqrt(3) / math.pi).clamp(min=0.1) / half
        return torch.stack((x.mean(0) / half - 1, s.log()))


class Categorical(Observation):
    """theta: a logit for each level."""

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        self.parameters = self.levels

    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        index = x.long().expand(*theta.shape[:-2], -1).unsqueeze(-2)
        return theta.gather(-2, index).squeeze(-2) - theta.logsumexp(-2)

    def sample(self, theta: Tensor) -> Tensor:
        gumbel = -torch.empty_like(theta).exponential_().log()
        return (theta + gumbel).argmax(-2).to(self.space.dtype)

    def mean(self, theta: Tensor) -> Tensor:
        values = torch.arange(self.levels, device=theta.device, dtype=theta.dtype)
        return torch.einsum("...kd,k->...d", theta.softmax(-2), values)

    def initial_theta(self, x: Tensor) -> Tensor:
        counts = one_hot(x.long(), self.levels).sum(0).T.to(x.dtype)
        return ((counts + 1) / (len(x) + self.levels)).log()


class Gaussian(Observation):
    """theta: mu, and log sigma unless `sigma` is fixed, in standardized units; `sigma` is in the units of the data."""

    standardization: Standardization

    def __init__(self, space: Space, sigma: float | None = None) -> None:
        super().__init__(space)
        self.standardization = Standardization(space)
        self.log_sigma = None if sigma is None else math.log(sigma)
        self.parameters = 2 if sigma is None else 1

    def _moments(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu (..., D) and log sigma, (..., D) or (D,) where it is fixed; a learned sigma is at least e^-7."""
        if self.log_sigma is not None:
            return theta.squeeze(-2), self.log_sigma - self.scale.log()
        mu, log_sigma = theta.unbind(-2)
        return mu, softplus(log_sigma + 7) - 7

    @property
    def shift(self) -> Tensor:
        """The value that is 0 in standardized units, (D,)."""
        return self.standardization.shift.flatten()

    @property
    def scale(self) -> Tensor:
        """The length that is 1 in standardized units, (D,)."""
        return self.standardization.scale.flatten()

    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        mu, log_sigma = self._moments(theta)
        eps = ((x - self.shift) / self.scale - mu) * torch.exp(-log_sigma)
        return -0.5 * eps.square() - (log_sigma + self.scale.log() + 0.5 * math.log(2 * math.pi))

    def sample(self, theta: Tensor) -> Tensor:
        mu, log_sigma = self._moments(theta)
        return self.shift + self.scale * (mu + log_sigma.exp() * torch.randn_like(mu))

    def mean(self, theta: Tensor) -> Tensor:
        return self.shift + self.scale * self._moments(theta)[0]

    def initial_theta(self, x: Tensor) -> Tensor:
        std, mean = torch.std_mean((x - self.shift) / self.scale, 0, correction=0)
        return torch.stack((mean, std.clamp(min=1e-3).log()))[: self.parameters]


OBSERVATIONS: dict[ObservationName, Callable[[Space], Observation]] = {
    "bernoulli": Bernoulli,
    "logistic": DiscretizedLogistic,
    "categorical": Categorical,
    "gaussian": Gaussian,
}


def observation_of(space: Space, name: ObservationName = "auto", sigma: float | None = None) -> Observation:
    """Return the observation model called `name`, or with "auto" the one that fits `space`.

    Args:
        sigma: the standard deviation of a Gaussian; by default the decoder computes it for each dimension.

    Raises:
        ValueError: the model does not fit the space, or `sigma` is not positive or given for another model.
    """
    if name == "auto":
        name = "gaussian" if space.levels is None else "bernoulli" if space.levels == 2 else "logistic"
    if (name == "gaussian") != (space.levels is None) or (name == "bernoulli" and space.levels != 2):
        valid = "gaussian" if space.levels is None else "bernoulli" if space.levels == 2 else "logistic"
        data = "reals" if space.levels is None else f"integers of {space.levels} levels"
        raise ValueError(f"observation={name!r} does not suit {data}; {valid!r} does")
    if sigma is not None and (name != "gaussian" or sigma <= 0):
        raise ValueError(f"sigma={sigma} needs a Gaussian and a positive number; the observation model is {name!r}")
    return Gaussian(space, sigma) if name == "gaussian" else OBSERVATIONS[name](space)
