"""Maps of each entry whose gradient is written down: y = e^s x + t, and y = x + t."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

from genbench_kernels.affine_coupling import Layout, Scale, gradients, parts
from torch import Tensor

from genbench.models.flows.closed import Closed, Gradients, Valued


def affine_value(x: Tensor, params: Tensor, gain: Tensor | None, *, layout: Layout, scale: Scale) -> Valued:
    """Return y = e^s x + t, sum s, and what its gradient needs."""
    y, logdet, u, e = parts(x, params, gain, None, layout, scale, False, x.dtype)
    return y, logdet, (u, e)


def affine_gradients(
    gy: Tensor,
    glogdet: Tensor,
    x: Tensor,
    gain: Tensor | None,
    needed: Sequence[Tensor],
    *,
    layout: Layout,
    scale: Scale,
) -> Gradients:
    """Return the gradients by x, params and the gain."""
    u, e = needed
    return gradients(gy, glogdet, x, u, e, gain, None, layout, scale, False)


@cache
def closed_affine(layout: Layout, scale: Scale) -> Closed:
    """Return e^s x + t of (raw s, t), as `affine_coupling` takes them, with its gradient in closed form."""
    value = partial(affine_value, layout=layout, scale=scale)
    return Closed(value, partial(affine_gradients, layout=layout, scale=scale), lambda *args: value(*args)[:2])


def shifted(x: Tensor, t: Tensor, of_map: None) -> Valued:
    """Return x + t, its log-determinant of zero, and nothing."""
    return x + t, x.new_zeros(()), ()


def shifted_gradients(gy: Tensor, glogdet: Tensor, x: Tensor, of_map: None, needed: Sequence[Tensor]) -> Gradients:
    """Return the gradients by x and t."""
    return gy, gy, None


ADDITIVE = Closed(shifted, shifted_gradients, lambda *args: shifted(*args)[:2])
