"""Adversarial objectives as functions of the critic's output v, one row of a table each.

The critic maximizes E_p[real(v)] - lambda E_q[fake(v)], p the distribution of the data and q that of the generator.
For an f-divergence D_f(p, q) = E_q f(p / q), with f* the conjugate of f and an output activation g onto the domain of
f*,

    D_f(p, q) >= E_p[g(v)] - E_q[f*(g(v))],    with equality where g(v) = f'(p / q)

(f-GAN: Training Generative Neural Samplers using Variational Divergence Minimization, 2016, eq. 4 and 6, table 2):
`real` is g, and `fake` is f* o g, in a form whose intermediate values do not overflow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu, softplus

ObjectiveName = Literal[
    "gan", "kl", "reverse_kl", "squared_hellinger", "jensen_shannon", "wasserstein", "least_squares", "hinge"
]


class Objective(NamedTuple):
    """Functions of the critic's output v, elementwise.

    Attributes:
        real: the critic maximizes it at real points.
        fake: the critic minimizes it at generated points.
        nonsaturating: the generator maximizes it at generated points with the non-saturating loss; None: `real`
            (Generative Adversarial Nets, 2014, section 3; f-GAN, 2016, section 3.2).
    """

    real: Callable[[Tensor], Tensor]
    fake: Callable[[Tensor], Tensor]
    nonsaturating: Callable[[Tensor], Tensor] | None = None


def identity(v: Tensor) -> Tensor:
    """Return v."""
    return v


OBJECTIVES: dict[ObjectiveName, Objective] = {
    # Generative Adversarial Nets (2014), eq. 1: D = sigmoid(v), log D and -log(1 - D). The optimum is 2 JS - log 4.
    "gan": Objective(logsigmoid, softplus),
    # f = u log u: KL(p, q). g = v, f* = exp(t - 1).
    "kl": Objective(identity, lambda v: torch.exp(v - 1)),
    # f = -log u: KL(q, p). g = -exp(-v), f* = -1 - log(-t).
    "reverse_kl": Objective(lambda v: -torch.exp(-v), lambda v: v - 1),
    # f = (sqrt u - 1)^2: the integral of (sqrt p - sqrt q)^2. g = 1 - exp(-v), f* = t / (1 - t).
    "squared_hellinger": Objective(lambda v: -torch.expm1(-v), torch.expm1),
    # f = u log u - (u + 1) log((u + 1) / 2): 2 JS. g = log 2 - log(1 + exp(-v)), f* = -log(2 - exp t).
    "jensen_shannon": Objective(lambda v: math.log(2) + logsigmoid(v), lambda v: softplus(v) - math.log(2)),
    # Wasserstein GAN (2017), eq. 2: the optimum over critics with Lipschitz constant 1 is W1.
    "wasserstein": Objective(identity, identity),
    # Least Squares Generative Adversarial Networks (2017), eq. 9: targets 1 for data, 0 for fakes, 1 for the generator.
    "least_squares": Objective(lambda v: -0.5 * (v - 1) ** 2, lambda v: 0.5 * v**2),
    # Spectral Normalization for Generative Adversarial Networks (2018), eq. 16 and 17.
    "hinge": Objective(lambda v: -relu(1 - v), lambda v: relu(1 + v), identity),
}
