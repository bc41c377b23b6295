"""The invertible layers that flows are made of. On images they act on channels, on vectors on dimensions."""

from __future__ import annotations

import math
from typing import Literal

import torch
from genbench_kernels.affine_coupling import Scale, affine_coupling
from torch import Tensor, nn

from genbench.models.flows.flow import Bijection, Chain

Shape = tuple[int, ...]  # of one point: (D,) or (C, H, W)


def over(v: Tensor, x: Tensor) -> Tensor:
    """Return v (C,) as it broadcasts over the channels of x (B, C, ...)."""
    return v if x.ndim == 2 else v.view(-1, *[1] * (x.ndim - 2))


def columns(x: Tensor) -> Tensor:
    """Return the channels of every position as a column, x (B, C, ...) -> (C, B ...)."""
    return x.movedim(1, 0).flatten(1)


def from_columns(columns: Tensor, like: Tensor) -> Tensor:
    """Return columns (C, B ...) in the shape of `like` (B, C, ...)."""
    B, C, *rest = like.shape
    return columns.view(C, B, *rest).movedim(0, 1)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel, x (B, C, ...) -> (C,), (C,)."""
    var, mean = torch.var_mean(x, dim=[i for i in range(x.ndim) if i != 1], correction=0)
    return mean, var


class ActNorm(Bijection):
    """y = e^s x + t for each channel, zero mean and unit variance on the first batch (Glow, 2018, section 3.1).

    With `learned` False it stays there: data are standardised.
    """

    ready: Tensor
    s: Tensor
    t: Tensor

    def __init__(self, shape: Shape, *, learned: bool = True) -> None:
        super().__init__()
        self.positions = math.prod(shape[1:])
        self.register_buffer("ready", torch.tensor(False))
        self.waits = True  # `ready` is looked at once: reading it from a GPU would wait for it
        for name in ("s", "t"):
            zeros = torch.zeros(shape[0])
            self.register_parameter(name, nn.Parameter(zeros)) if learned else self.register_buffer(name, zeros)

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Take s and t from x (B, C, ...), unless they have been taken."""
        self.waits = False
        if not self.ready:
            mean, var = moments(x)
            self.s.copy_(-0.5 * (var + 1e-6).log())
            self.t.copy_(-mean * self.s.exp())
            self.ready.fill_(True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.waits and self.training:
            self.start(x)
        return torch.addcmul(over(self.t, x), x, over(self.s.exp(), x)), self.positions * self.s.sum()

    def inverse(self, y: Tensor) -> Tensor:
        return (y - over(self.t, y)) * over((-self.s).exp(), y)


class BatchNorm(Bijection):
    """y = (x - m) / sqrt(v + eps) with running m, v; log-determinant -1/2 sum log(v + eps).

    Density estimation using Real NVP (2017), appendix E: in training m = rho m_running + (1 - rho) m_batch, and so
    v, and the gradient passes through the batch's share alone.
    """

    mean: Tensor
    var: Tensor
    ready: Tensor

    def __init__(self, shape: Shape, *, rho: float = 0.9, eps: float = 1e-4) -> None:
        super().__init__()
        self.positions, self.rho, self.eps = math.prod(shape[1:]), rho, eps
        self.register_buffer("mean", torch.zeros(shape[0]))
        self.register_buffer("var", torch.ones(shape[0]))
        self.register_buffer("ready", torch.tensor(0.0))

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return m and v (C,) for the training batch x (B, C, ...), and keep them; the first batch counts whole."""
        rho = self.rho * self.ready
        mean, var = (rho * old + (1 - rho) * new for old, new in zip((self.mean, self.var), moments(x), strict=True))
        with torch.no_grad():
            self.mean.copy_(mean), self.var.copy_(var), self.ready.fill_(1)
        return mean, var

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = self.statistics(x) if self.training else (self.mean, self.var)
        log_v = (var + self.eps).log()
        return (x - over(mean, x)) * over((-0.5 * log_v).exp(), x), -0.5 * self.positions * log_v.sum()

    def inverse(self, y: Tensor) -> Tensor:
        return y * over((self.var + self.eps).sqrt(), y) + over(self.mean, y)


class LULinear(Bijection):
    """y = W x with W = P L (U + diag(sign e^s)), on images at every position (Glow, 2018, section 3.2).

    P is fixed; log|det| = H W sum s. W starts as a random rotation, or as the identity.
    """

    P: Tensor
    sign: Tensor

    def __init__(self, shape: Shape, *, start: Literal["rotation", "identity"] = "rotation") -> None:
        super().__init__()
        self.positions = math.prod(shape[1:])
        W = torch.linalg.qr(torch.randn(shape[0], shape[0]))[0] if start == "rotation" else torch.eye(shape[0])
        P, L, U = torch.linalg.lu(W)
        self.register_buffer("P", P)
        self.register_buffer("sign", U.diagonal().sign())
        self.L = nn.Parameter(L.tril(-1))
        self.U = nn.Parameter(U.triu(1))
        self.s = nn.Parameter(U.diagonal().abs().log())

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return L, unit lower triangular, and U, upper triangular, (C, C)."""
        L = self.L.tril(-1) + torch.eye(len(self.L), dtype=self.L.dtype, device=self.L.device)
        return L, self.U.triu(1) + torch.diag(self.sign * self.s.exp())

    def weight(self) -> Tensor:
        """Return W (C, C)."""
        L, U = self.factors()
        W: Tensor = self.P @ (L @ U)
        return W

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return from_columns(self.weight() @ columns(x), x), self.positions * self.s.sum()

    def inverse(self, y: Tensor) -> Tensor:
        L, U = self.factors()
        x = torch.linalg.solve_triangular(L, self.P.T @ columns(y), upper=False, unitriangular=True)
        return from_columns(torch.linalg.solve_triangular(U, x, upper=True), y)


class AffineCoupling(Bijection):
    """y = (e^s x2 + t, x1) with (s, t) = net(x1), x1 the first `split` channels (Real NVP, 2017, eq. 7-8).

    The halves change places, so that couplings in a row transform them in turn. `scale` says what is made of the
    network's s: with "tanh" it is gain tanh s, the gain learned (section 4.1 there); with "sigmoid", e^s is
    sigmoid(s + 2) (the code of Glow, 2018).
    """

    def __init__(self, net: nn.Module, channels: int, split: int, *, scale: Scale = "tanh") -> None:
        super().__init__()
        self.net, self.sizes, self.scale = net, (split, channels - split), scale
        self.gain = nn.Parameter(torch.ones(channels - split)) if scale == "tanh" else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x1, x2 = x.split(self.sizes, 1)
        y2, logdet = affine_coupling(x2, self.net(x1), scale=self.scale, gain=self.gain)
        return torch.cat((y2, x1), 1), logdet

    def inverse(self, y: Tensor) -> Tensor:
        y2, x1 = y.split(self.sizes[::-1], 1)
        x2, _ = affine_coupling(y2, self.net(x1), scale=self.scale, gain=self.gain, inverse=True)
        return torch.cat((x1, x2), 1)


class Permutation(Bijection):
    """y_i = x_order[i] along the channels."""

    order: Tensor
    back: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order)
        self.register_buffer("back", order.argsort())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.index_select(1, self.order), x.new_zeros(())

    def inverse(self, y: Tensor) -> Tensor:
        return y.index_select(1, self.back)


def alternating(shape: Shape) -> Tensor:
    """Return the order (D,) of the dimensions of `shape` that puts the even ones first: on images, a checkerboard."""
    places = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    return (torch.stack(places).sum(0).flatten() % 2).argsort(stable=True)


class Squeeze(Bijection):
    """(B, C, H, W) -> (B, 4C, H/2, W/2): the four pixels of each 2x2 square become channels, in `order`.

    The order decides what a coupling of the two halves of the channels is: (0, 3, 1, 2) puts the diagonal first, which
    makes it the checkerboard mask of the image (Real NVP, 2017, figure 3); (0, 1, 2, 3) puts the upper row first.
    """

    def __init__(self, order: tuple[int, int, int, int] = (0, 1, 2, 3)) -> None:
        super().__init__()
        self.order = order
        self.back = tuple(order.index(i) for i in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        B, C, H, W = x.shape
        y = x.view(B, C, H // 2, 2, W // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(B, 4, C, H // 2, W // 2)
        return y[:, self.order].flatten(1, 2), x.new_zeros(())

    def inverse(self, y: Tensor) -> Tensor:
        B, C, H, W = y.shape
        x = y.view(B, 4, C // 4, H, W)[:, self.back].view(B, 2, 2, C // 4, H, W)
        return x.permute(0, 3, 4, 1, 5, 2).reshape(B, C // 4, 2 * H, 2 * W)


class Flatten(Bijection):
    """(B, *shape) -> (B, D)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.flatten(1), x.new_zeros(())

    def inverse(self, y: Tensor) -> Tensor:
        return y.view(-1, *self.shape)


class MultiScale(Bijection):
    """(B, C, H, W) -> (B, D): the first half of the channels is done, the second goes through `rest`.

    Real NVP (2017), eq. 13-16.
    """

    def __init__(self, shape: Shape, rest: Chain) -> None:
        super().__init__()
        self.done = (shape[0] // 2, *shape[1:])
        self.rest = rest

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x1, x2 = x.split((self.done[0], x.shape[1] - self.done[0]), 1)
        y2, logdet = self.rest(x2)
        return torch.cat((x1.flatten(1), y2), 1), logdet

    def inverse(self, y: Tensor) -> Tensor:
        D = math.prod(self.done)
        return torch.cat((y[:, :D].view(-1, *self.done), self.rest.inverse(y[:, D:])), 1)


def divisible(shape: Shape, **times: int) -> Shape:
    """Return `shape` (C, H, W); raises ValueError if its sides cannot be halved the named number of times."""
    [(name, n)] = times.items()
    if any(side % 2**n for side in shape[1:]):
        raise ValueError(f"{name}={n} needs sides that {2**n} divides, got {shape[1]}x{shape[2]}")
    return shape
