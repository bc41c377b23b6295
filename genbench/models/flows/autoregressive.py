"""Autoregressive bijections: each dimension is moved as those before it say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from genbench_kernels.affine_coupling import Scale, affine_coupling
from torch import Tensor

from genbench.dataset import Space
from genbench.models.flows.affine import closed_affine
from genbench.models.flows.bijection import Bijection, Elementwise
from genbench.models.flows.closed import Closed, Step
from genbench.models.flows.flow import Flow
from genbench.models.flows.normalization import NORMS, Norm
from genbench.models.flows.reshaping import Flatten
from genbench.nets.activations import Activation
from genbench.nets.masked import MADE, by_turns
from genbench.nets.mlp import anew, backpropagated, rectified, replayed


class MaskedAutoregressive(Bijection):
    """y_i = f(x_i; net(x_1 ... x_i-1)), f a monotone map of each entry (Masked Autoregressive Flow, 2017, eq. 3-5).

    `net` gives map.parameters numbers for each dimension. The forward direction, which gives densities, is one pass of
    the network; the inverse goes through the D dimensions one after another.
    """

    def __init__(self, net: MADE, map: Elementwise) -> None:
        super().__init__()
        self.net, self.map = net, map

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if step := self.step(x):
            return step(x)
        return self.map.forward(x, self.net(x))

    def step(self, x: Tensor) -> Step | None:
        if self.map.closed is None or (weights := self.net.closed(x)) is None:
            return None
        dropout = self.net.rate()
        tensors = *weights.masks, *weights.W, *weights.b
        return Step(Autoregressed, (self.map, dropout), tensors, drawn=dropout > 0)

    def inverse(self, y: Tensor) -> Tensor:
        return self.net.unroll(len(y), lambda i, params: self.map.inverse(y[:, i : i + 1], params))


class Autoregressed(torch.autograd.Function):
    """x, (map, dropout), masks, all W, all b -> y, logdet: masked perceptron and map, one step for autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, options: tuple[Elementwise, float], *tensors: Tensor) -> tuple[Tensor, Tensor]:
        map, dropout = options
        masks, W, b = in_three(tensors)
        weights = by_turns(torch._foreach_mul(W, masks), b)
        *h, params = rectified(x, dropout, weights)
        y, logdet, needed = closed(map).value(x, params, None)
        ctx.save_for_backward(*tensors, *weights, *h, *needed)
        ctx.map, ctx.dropout, ctx.layers = map, dropout, len(h)
        return y, logdet

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (gy, glogdet), n = cotangents, ctx.layers
        tensors, weights = ctx.saved_tensors[: 3 * n], ctx.saved_tensors[3 * n : 5 * n]
        (x, *_), needed = h, _ = ctx.saved_tensors[5 * n : 6 * n], ctx.saved_tensors[6 * n :]
        masks, W, b = in_three(tensors)
        if torch.is_grad_enabled():
            masked = by_turns([w * mask for w, mask in zip(W, masks, strict=True)], b)
            outputs = ctx.map.forward(x, replayed(h, ctx.dropout, masked))
            return anew(outputs, cotangents, (x, None, *tensors), ctx.needs_input_grad)
        gx, g, _ = closed(ctx.map).gradients(gy, glogdet, x, None, needed)
        gx_net, found = backpropagated(g, h, ctx.dropout, weights, wanted=ctx.needs_input_grad[0])
        by_W = [g.mul_(mask) for g, mask in zip(found[0::2], masks, strict=True)]
        return None if gx_net is None else gx.add_(gx_net), None, *[None] * n, *by_W, *found[1::2]


def in_three(tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the masks, all W and all b."""
    n = len(tensors) // 3
    return list(tensors[:n]), list(tensors[n : 2 * n]), list(tensors[2 * n :])


def closed(map: Elementwise) -> Closed:
    """Return what `map` has in closed form."""
    assert map.closed is not None
    return map.closed


class InverseAutoregressive(Bijection):
    """y_i = f(x_i; net(y_1 ... y_i-1)): the other way round (Inverse Autoregressive Flow, 2016, eq. 9-11).

    The inverse direction, which samples, is one pass of the network. The forward direction, which gives densities and
    is trained by maximum likelihood, goes through the D dimensions one after another and is differentiated as it
    went: it multiplies as much as a pass does, in D times as many calls, so that at D = 64 a step of training takes
    a dozen times as long as that of `MaskedAutoregressive`.
    """

    def __init__(self, net: MADE, map: Elementwise) -> None:
        super().__init__()
        self.net, self.map = net, map

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logdets = []

        def entry(i: int, params: Tensor) -> Tensor:
            y, logdet = self.map.forward(x[:, i : i + 1], params)
            logdets.append(logdet)
            return y

        return self.net.unroll(len(x), entry), torch.stack(logdets).sum(0)

    def inverse(self, y: Tensor) -> Tensor:
        return self.map.inverse(y, self.net(y))


def affine(scale: Scale = "tanh") -> Elementwise:
    """Return y = e^s x + t, params (raw s, t); `scale` says what is made of the network's s, as in `affine_coupling`.

    With "tanh" it is 3 tanh s: far from the data, where the network says anything, the densities of a few layers stay
    finite, which those of e^s itself ("exp") do not.
    """

    def gain(x: Tensor) -> Tensor | None:
        return x.new_full((1,), 3.0) if scale == "tanh" else None

    def move(x: Tensor, params: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        return affine_coupling(x, params, layout="interleave", scale=scale, gain=gain(x), inverse=inverse)

    value, gradients, _ = closed_affine("interleave", scale)
    closed = Closed(
        lambda x, params, _: value(x, params, gain(x)),
        lambda gy, glogdet, x, _, needed: (*gradients(gy, glogdet, x, gain(x), needed)[:2], None),
        lambda x, params, _: move(x, params),
    )
    return Elementwise(2, move, lambda y, params: move(y, params, inverse=True)[0], closed)


def orders(D: int, layers: int) -> list[list[int]]:
    """Return an order of D dimensions for each layer: as they come, and reversed, in turn (MAF, 2017, section 3.1)."""
    return [list(range(D))[:: (-1) ** i] for i in range(layers)]


class AffineAutoregressive(Flow):
    """Affine maps of each dimension as others say, in an order that turns with each layer, one of two ways round.

    Args:
        layers: how many.
        hidden: widths of each layer's MADE.
        norm: before each layer: ActNorm, or batch norm on running averages.
        scale: what is made of the network's s: 3 tanh s, s itself, or log sigmoid(s + 2).
        residual: skip connections between hidden layers.
        **options: as `Flow` takes them.
    """

    layer: ClassVar[type[MaskedAutoregressive] | type[InverseAutoregressive]]

    def __init__(
        self,
        space: Space,
        *,
        layers: int = 5,
        hidden: tuple[int, ...] = (256, 256),
        norm: Norm = "act",
        scale: Literal["tanh", "exp", "sigmoid"] = "tanh",
        residual: bool = False,
        activation: Activation = "relu",
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        D = space.dims
        bijections: list[Bijection] = [Flatten(space.shape)]
        for order in orders(D, layers):
            net = MADE(D, 2, hidden, order=order, activation=activation, dropout=dropout, residual=residual, zero=True)
            bijections += [*NORMS[norm]((D,)), self.layer(net, affine(scale))]
        super().__init__(space, bijections, **options)
