"""Monotone maps of each entry on its own, with parameters that a network computes for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from genbench_kernels.affine_coupling import Scale, affine_coupling
from torch import Tensor

from genbench.fastpath import accelerated


class Elementwise(ABC):
    """A monotone map of each entry. A call is `forward`, by its fast implementation where there is one.

    The parameters of an entry are adjacent: params (B, C * parameters, ...) for x (B, C, ...), those of entry c at
    c * parameters, c * parameters + 1, ...
    """

    @property
    @abstractmethod
    def parameters(self) -> int:
        """The number of parameters per entry. All zero, the map is the identity (or a fixed map near it)."""

    @abstractmethod
    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return y as x (B, C, ...), and log|det dy/dx| in nats, (B,), or () if it is the same for every x."""

    @abstractmethod
    def inverse(self, y: Tensor, params: Tensor) -> Tensor:
        """Return x as y (B, C, ...)."""

    @accelerated
    def __call__(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(x, params)


@dataclass(frozen=True)
class Shift(Elementwise):
    """y = x + t, params (t)."""

    parameters = 1

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return x + params, x.new_zeros(())

    def inverse(self, y: Tensor, params: Tensor) -> Tensor:
        return y - params


@dataclass(frozen=True)
class Affine(Elementwise):
    """y = e^s x + t, params (raw s, t); `scale` is the function from raw s to s, as in `affine_coupling`.

    With "tanh" s = 3 tanh(raw s): far from the data, where the network is unconstrained, the densities of a few layers
    stay finite, which with "exp" (s = raw s) they do not.
    """

    scale: Scale = "tanh"

    parameters = 2

    def gain(self, x: Tensor) -> Tensor | None:
        """Return the factor on tanh, (1,) as x; None for other scales."""
        return x.new_full((1,), 3.0) if self.scale == "tanh" else None

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return affine_coupling(x, params, layout="interleave", scale=self.scale, gain=self.gain(x))

    def inverse(self, y: Tensor, params: Tensor) -> Tensor:
        return affine_coupling(y, params, layout="interleave", scale=self.scale, gain=self.gain(y), inverse=True)[0]


def parameters_first(params: Tensor, P: int) -> Tensor:
    """Return params (B, C * P, ...) as (P, B * C ...), so that each parameter of all entries is one row."""
    pairs = params.reshape(-1, P, *params.shape[2:])  # of vectors: transposing two dimensions is fastest
    return pairs.transpose(0, 1).reshape(P, -1)
