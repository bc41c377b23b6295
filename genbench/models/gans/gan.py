"""Generative adversarial networks: one game, whose rows are objectives, constraints on the critic and schedules.

Generative Adversarial Nets (2014): a generator G and a critic v move in turn, the critic to tell data from G(z), the
generator to be taken for data. There is no likelihood, and no check selects among weights: the last are reported.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from genbench_kernels.spectral_norm import spectral_norm_
from torch import Tensor

from genbench.dataset import Space
from genbench.model import MakeOptimizer, OptimizedLoss
from genbench.models.gans.constraints import clipped, gradient_penalty
from genbench.models.gans.implicit import Implicit
from genbench.models.gans.objectives import OBJECTIVES, ObjectiveName
from genbench.nets.precision import at_least_float32

__all__ = ["GAN"]

Lure = Literal["nonsaturating", "saturating"]
Schedule = Literal["alternating", "simultaneous"]


class GAN(Implicit):
    """The GAN, and by its options f-GANs, Wasserstein GANs, least squares and hinge.

    Args:
        objective: the game, a row of `OBJECTIVES`.
        lure: the generator makes the critic's gain at its points large, as if they were of the data, or its loss there
            small, which is nothing where the critic is sure.
        type_ii: lambda, the weight in the critic's loss of errors of the second kind, fakes taken for data.
        clip: the largest weight of the critic, put back after each step (Wasserstein GAN, 2017); None: any.
        spectral: divide the critic's weights by their spectral norms, by one power iteration each time that it runs
            (Spectral Normalization for Generative Adversarial Networks, 2018). A convolution's is that of its weight as
            a matrix, which bounds its Lipschitz constant up to a factor only.
        penalty: the weight of the penalty on the critic's gradient (Improved Training of Wasserstein GANs, 2017).
        critic_steps: how often the critic moves in a step, each time on a batch of its own; the generator moves once.
        head_start: the share of the run, below 1, in which the critic moves alone: until it is sure (Towards Principled
            Methods for Training Generative Adversarial Networks, 2017, section 2).
        schedule: "alternating", the critic and then the generator, or "simultaneous", one move of each from the same
            weights (The Numerics of GANs, 2017, algorithm 1).
        **options: as `Implicit` takes them.

    Raises:
        ValueError: type_ii, clip or critic_steps that is not positive, a negative penalty, a head start that is
            negative or leaves the generator no step, or a simultaneous schedule with several moves of the critic.
    """

    def __init__(
        self,
        space: Space,
        *,
        objective: ObjectiveName = "gan",
        lure: Lure = "nonsaturating",
        type_ii: float = 1.0,
        clip: float | None = None,
        spectral: bool = False,
        penalty: float = 0.0,
        critic_steps: int = 1,
        head_start: float = 0.0,
        schedule: Schedule = "alternating",
        **options: Any,
    ) -> None:
        if type_ii <= 0 or penalty < 0 or critic_steps < 1 or (clip is not None and clip <= 0):
            raise ValueError(
                "type_ii, clip and critic_steps must be positive and penalty not negative; "
                f"got {type_ii}, {clip}, {critic_steps} and {penalty}"
            )
        if not 0 <= head_start < 1:
            raise ValueError(f"head_start must be from 0 to below 1, got {head_start}")
        if schedule == "simultaneous" and critic_steps > 1:
            raise ValueError(f"schedule 'simultaneous' takes critic_steps 1, one move of each; got {critic_steps}")
        super().__init__(space, **options)
        self.objective, self.lure, self.type_ii = OBJECTIVES[objective], lure, type_ii
        self.clip, self.penalty = clip, penalty
        self.critic_steps, self.head_start, self.schedule = critic_steps, head_start, schedule
        if spectral:
            spectral_norm_(self.critic)

    def value(self, v_real: Tensor, v_fake: Tensor) -> Tensor:
        """Return E_p[real(v)] - lambda E_q[fake(v)], which the critic makes large, v (B, 1) at each -> ()."""
        return self.objective.real(v_real).mean() - self.type_ii * self.objective.fake(v_fake).mean()

    def critic_loss(self, x: Tensor) -> Tensor:
        """Return what the critic makes small (), x (B, *shape)."""
        real = self.scaled(x)
        with torch.no_grad():
            fake = self.generate(self.prior(len(x)))
        loss = -self.value(*at_least_float32(self.critic(torch.cat((real, fake)))).chunk(2))
        return loss + self.penalty * gradient_penalty(self.critic, real, fake) if self.penalty else loss

    def generator_loss(self, x: Tensor) -> Tensor:
        """Return what the generator makes small (), with as many points as x (B, *shape)."""
        v = at_least_float32(self.critic(self.generate(self.prior(len(x)))))
        if self.lure == "saturating":
            return -self.objective.fake(v).mean()
        return -(self.objective.lure or self.objective.real)(v).mean()

    def configure_optimizers(self, optimizer: MakeOptimizer) -> list[OptimizedLoss | tuple[OptimizedLoss, ...]]:
        """Return the critic and the generator."""
        critics = optimizer(self.critic.parameters())
        if self.clip is not None:
            critics = clipped(critics, self.clip)
        critic = OptimizedLoss(self.critic_loss, critics, repeats=self.critic_steps)
        generator = OptimizedLoss(self.generator_loss, optimizer(self.generator.parameters()), start=self.head_start)
        return [(critic, generator)] if self.schedule == "simultaneous" else [critic, generator]
