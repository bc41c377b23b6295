"""FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models (2019).

dx/dt = f(t, x), d log p/dt = -tr(df/dx): the log-determinant of the flow is the integral of the trace (eq. 2 and 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torchdiffeq import odeint, odeint_adjoint

from genbench.dataset import Space
from genbench.model import Diverged
from genbench.models.flows.bijection import Bijection, Shape
from genbench.models.flows.flow import Flow
from genbench.models.flows.normalization import ActNorm
from genbench.models.flows.probes import HutchinsonNoise, NoiseName, PointwiseNoiseChain
from genbench.models.flows.reshaping import Flatten, divisible, multi_scale
from genbench.nets.precision import full_precision
from genbench.nets.vector_field import Smooth, Timing, VectorField, convolutional_field, dense_field

__all__ = ["FFJORD"]

Method = Literal["euler", "midpoint", "rk4", "adaptive_heun", "bosh3", "dopri5", "dopri8"]
Trace = Literal["exact", "hutchinson"]
Gradient = Literal["direct", "adjoint"]
FIXED = ("euler", "midpoint", "rk4")
MAX_STEPS = 2_000  # of an adaptive solver in one solution, including rejected ones
EXACT_UP_TO = 64  # dimensions up to which the trace is exact in evaluation, also with "hutchinson"


class SolverFailed(Diverged):
    """The ODE solver failed: the field is too stiff for it, or not finite."""


class Solver(NamedTuple):
    """A solver with `steps` equal steps, or with as many as keep the error of each step within the tolerances.

    The error of a batch is the largest of its entries, so that accuracy does not depend on the rest of the batch.
    """

    method: Method
    rtol: float
    atol: float
    steps: int

    def arguments(self) -> dict[str, Any]:
        """Return torchdiffeq's arguments."""
        if self.method in FIXED:
            return {"method": self.method, "options": {"grid_constructor": self.grid}}
        options = {"norm": lambda error: error.abs().max(), "max_num_steps": MAX_STEPS}
        return {"method": self.method, "rtol": self.rtol, "atol": self.atol, "options": options}

    def grid(self, f: object, x: Tensor, t: Tensor) -> Tensor:
        """Return the grid of times from t[0] to t[-1]."""
        return torch.lerp(t[0], t[-1], torch.linspace(0, 1, self.steps + 1, dtype=t.dtype, device=t.device))

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Raise SolverFailed where torchdiffeq asserts: steps are too short or too many, or states not finite."""
        try:
            yield
        except AssertionError as error:
            reason = str(error).partition(":")[0].strip()  # the rest is the whole state
            advice = "lower the learning rate, clip gradients, or raise `penalty`"
            raise SolverFailed(f"the {self.method} solver of FFJORD stopped: {reason}; {advice}") from error


class CheckedSolve(torch.autograd.Function):
    """x, solver, solve, parameters -> solve(x), with the errors of `Solver.checked` in the backward pass, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, solver: Solver, solve: Callable[[Tensor], Tensor], *parameters: Tensor) -> Tensor:
        ctx.solver, ctx.inputs = solver, (x.detach().requires_grad_(), *parameters)
        with torch.enable_grad(), solver.checked():
            ctx.y = solve(ctx.inputs[0])
        y: Tensor = ctx.y.detach()
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        with ctx.solver.checked():
            gx, *rest = torch.autograd.grad(ctx.y, ctx.inputs, g, allow_unused=True)
        return gx, None, None, *rest


class ODEFlow(Bijection):
    """The flow of dx/dt = f(t, x) from time 0 to T.

    Attributes:
        solvers: for training and for evaluation.
        evaluations: of f, in the last solution.
        energy: the integral of |f|^2 + |df/dx|^2 along the path of each point (B,), in training if `penalized`.
    """

    def __init__(
        self,
        f: VectorField,
        shape: Shape,
        *,
        solvers: tuple[Solver, Solver],
        T: float = 1.0,
        trace: Trace = "hutchinson",
        noise: NoiseName = "rademacher",
        gradient: Gradient = "direct",
        penalized: bool = False,
    ) -> None:
        super().__init__()
        self.f, self.shape, self.solvers, self.T = f, shape, solvers, T
        self.trace, self.gradient, self.noise = trace, gradient, HutchinsonNoise(noise)
        self.penalized, self.evaluations = penalized, 0
        self.energy: Tensor | None = None

    def directions(self, x: Tensor) -> Tensor:
        """Return v (K, B or 1, *shape) with sum_k v_k^T J v_k the trace of J (the axes), or an estimate (noise)."""
        D = x[0].numel()
        if self.trace == "exact" or (not self.training and D <= EXACT_UP_TO):
            return torch.eye(D, dtype=x.dtype, device=x.device).view(D, 1, *self.shape)
        v: Tensor = self.noise(x)
        return v

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        v, D, integrals = self.directions(x), x[0].numel(), 2 if self.training and self.penalized else 1

        def derivatives(t: Tensor, state: Tensor) -> Tensor:
            f, Jv = self.f(t, state[:, :D].view_as(x), v)
            trace = (v * Jv).flatten(2).sum((0, 2)).expand(len(x))
            rates = [trace]
            if integrals == 2:  # |Jv|^2 is on average, or over all axes, the squared norm of J
                rates.append(f.square().flatten(1).sum(1) + Jv.square().flatten(2).sum((0, 2)))
            return torch.cat((f.flatten(1), torch.stack(rates, 1)), 1)

        with full_precision(x):  # else an adaptive solver mistakes rounding for stiffness, and its steps vanish
            end = self.solve(derivatives, torch.cat((x.flatten(1), x.new_zeros(len(x), integrals)), 1), (0.0, self.T))
        self.energy = end[:, -1] if integrals == 2 else None
        return end[:, :D].reshape(x.shape), end[:, D]

    def inverse(self, y: Tensor) -> Tensor:
        return self.solve(lambda t, x: self.f(t, x)[0], y, (self.T, 0.0))

    def solve(self, f: Callable[[Tensor, Tensor], Tensor], x: Tensor, times: tuple[float, float]) -> Tensor:
        """Return the solution at the second of the times, x being its value at the first."""
        calls = 0

        def counted(t: Tensor, x: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return f(t, x)

        solver = self.solvers[0 if self.training else 1]
        arguments = {"t": torch.tensor(times, dtype=x.dtype, device=x.device), **solver.arguments()}
        if self.gradient == "adjoint" and torch.is_grad_enabled():
            parameters = tuple(self.f.parameters())
            solve = partial(odeint_adjoint, counted, adjoint_params=parameters, **arguments)
            y: Tensor = CheckedSolve.apply(x, solver, lambda x: solve(x)[-1], *parameters)
        else:
            with solver.checked():
                y = odeint(counted, x, **arguments)[-1]
        self.evaluations = calls
        return y


class FFJORD(Flow):
    """Continuous flow of a free-form vector field, its log-determinant the integral of a trace.

    Args:
        blocks: number of flows, each with its own field; on images at each scale.
        hidden: widths of a field's MLP (vectors).
        scales, channels: of the multi-scale architecture, and widths of its fields' 3x3 convolutions (images).
        network: "mlp" treats an image as a vector.
        timing: how a layer of the field depends on time.
        T: the time at which a flow ends.
        trace: in training, over all axes or by one random direction, the same throughout a solution (section 3.1). In
            evaluation it is exact up to 64 dimensions; beyond, the direction is a function of the point.
        noise: distribution of the entries of the direction.
        gradient: through the solver's steps, or by solving the adjoint equation backwards, in constant memory.
        method, rtol, atol: solver in evaluation and sampling.
        training: solver in training, with `steps` steps if they are equal (euler, midpoint, rk4); by default `method`.
        penalty: weight of the integral of |f|^2 + |df/dx|^2 in the loss, which makes paths short, straight and easy
            to solve (How to Train Your Neural ODE: the World of Jacobian and Kinetic Regularization, 2020).
        **options: see `Flow`.

    Raises:
        ValueError: the sides of an image cannot be halved `scales` times, or T, steps or a tolerance is not positive.
    """

    def __init__(
        self,
        space: Space,
        *,
        blocks: int = 1,
        hidden: tuple[int, ...] = (64, 64, 64),
        scales: int = 2,
        channels: tuple[int, ...] = (32, 32),
        network: Literal["auto", "mlp"] = "auto",
        timing: Timing = "concatsquash",
        activation: Smooth = "tanh",
        T: float = 1.0,
        trace: Trace = "hutchinson",
        noise: NoiseName = "rademacher",
        gradient: Gradient = "direct",
        method: Method = "dopri5",
        rtol: float = 1e-5,
        atol: float = 1e-5,
        training: Method | None = "rk4",
        steps: int = 4,
        penalty: float = 0.0,
        **options: Any,
    ) -> None:
        if not (0 < T < math.inf and steps > 0 and rtol > 0 and atol > 0):
            raise ValueError(f"T, steps, rtol and atol must be positive, got {T}, {steps}, {rtol} and {atol}")
        solvers = Solver(training or method, rtol, atol, steps), Solver(method, rtol, atol, steps)
        flow = partial(
            ODEFlow, solvers=solvers, T=T, trace=trace, noise=noise, gradient=gradient, penalized=penalty > 0
        )
        convolutional = space.is_image and network == "auto"
        field: Callable[[int], VectorField] = (
            partial(convolutional_field, channels=channels, activation=activation, timing=timing)
            if convolutional
            else partial(dense_field, hidden=hidden, activation=activation, timing=timing)
        )

        def steps_of(shape: Shape) -> list[Bijection]:
            return [ActNorm(shape), *(flow(field(shape[0]), shape) for _ in range(blocks))]

        if convolutional:
            bijections = multi_scale(divisible(space.shape, scales=scales), scales, steps_of)
        else:
            bijections = [Flatten(space.shape), *steps_of((space.dims,))]
        super().__init__(space, [PointwiseNoiseChain(bijections)], **options)
        self.penalty = penalty

    def loss(self, x: Tensor) -> Tensor:
        """Return the mean negative log-likelihood in nats, with the penalty."""
        loss = super().loss(x)
        for block in self.modules():
            if isinstance(block, ODEFlow) and block.energy is not None:
                loss, block.energy = loss + self.penalty * block.energy.mean(), None
        return loss

    @property
    def evaluations(self) -> int:
        """The number of field evaluations (NFE) in all blocks together for the last batch."""
        return sum(block.evaluations for block in self.modules() if isinstance(block, ODEFlow))
