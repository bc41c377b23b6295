"""Generative adversarial networks, by options for the objective, constraints on the critic and the update schedule.

Generative Adversarial Nets (2014): a critic v is trained to tell data from samples G(z), and the generator G to make
them indistinguishable. There is no likelihood, so validation selects no weights: the last ones are reported.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from genbench_kernels.spectral_norm import spectral_norm_
from torch import Tensor

from genbench.dataset import Space
from genbench.model import MakeOptimizer, OptimizedLoss
from genbench.models.gans.constraints import clip_weights_after_steps, gradient_penalty
from genbench.models.gans.implicit import ImplicitModel
from genbench.models.gans.objectives import OBJECTIVES, ObjectiveName
from genbench.nets.precision import at_least_float32

__all__ = ["GAN"]

GeneratorLoss = Literal["nonsaturating", "saturating"]
Schedule = Literal["alternating", "simultaneous"]


class GAN(ImplicitModel):
    """A GAN; by options also f-GANs, Wasserstein GANs, least-squares and hinge GANs.

    Args:
        objective: the adversarial objective, a row of `OBJECTIVES`.
        lure: the generator's loss. "nonsaturating": maximize the critic's objective for real points at the generated
            ones. "saturating": minimize the critic's objective; its gradient vanishes where the critic is confident.
        type_ii: lambda, the weight of generated points in the critic's loss.
        clip: the largest absolute weight of the critic, enforced after each step (Wasserstein GAN, 2017); None: no
            limit.
        spectral: divide the critic's weights by their spectral norms, estimated by one power iteration per forward pass
            (Spectral Normalization for Generative Adversarial Networks, 2018). For a convolution this is the norm of
            the weight as a matrix, which bounds the Lipschitz constant only up to a factor.
        penalty: the weight of the gradient penalty (Improved Training of Wasserstein GANs, 2017).
        critic_steps: updates of the critic per step, each on its own batch; the generator is updated once.
        head_start: the share of the run, below 1, in which only the critic is trained, to make it confident (Towards
            Principled Methods for Training Generative Adversarial Networks, 2017, section 2).
        schedule: "alternating" updates the critic, then the generator; "simultaneous" updates both from the same
            weights (The Numerics of GANs, 2017, algorithm 1).
        **options: of `ImplicitModel`.

    Raises:
        ValueError: type_ii, clip or critic_steps is not positive; penalty is negative; head_start is not in [0, 1); or
            the schedule is simultaneous with several critic steps.
    """

    def __init__(
        self,
        space: Space,
        *,
        objective: ObjectiveName = "gan",
        lure: GeneratorLoss = "nonsaturating",
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
                "type_ii, clip and critic_steps must be positive and penalty not negative, "
                f"got {type_ii}, {clip}, {critic_steps} and {penalty}"
            )
        if not 0 <= head_start < 1:
            raise ValueError(f"head_start must be at least 0 and below 1, got {head_start}")
        if schedule == "simultaneous" and critic_steps > 1:
            raise ValueError(f"schedule 'simultaneous' needs critic_steps=1, got {critic_steps}")
        super().__init__(space, **options)
        self.objective, self.lure, self.type_ii = OBJECTIVES[objective], lure, type_ii
        self.clip, self.penalty = clip, penalty
        self.critic_steps, self.head_start, self.schedule = critic_steps, head_start, schedule
        if spectral:
            spectral_norm_(self.critic)

    def value(self, v_real: Tensor, v_fake: Tensor) -> Tensor:
        """Return E_p[real(v)] - lambda E_q[fake(v)], which the critic maximizes, v (B, 1) at each -> ()."""
        return self.objective.real(v_real).mean() - self.type_ii * self.objective.fake(v_fake).mean()

    def critic_loss(self, x: Tensor) -> Tensor:
        """Return the loss of the critic (), x (B, *shape)."""
        real = self.scaled(x)
        with torch.no_grad():
            fake = self.generate(self.prior(len(x)))
        loss = -self.value(*at_least_float32(self.critic(torch.cat((real, fake)))).chunk(2))
        return loss + self.penalty * gradient_penalty(self.critic, real, fake) if self.penalty else loss

    def generator_loss(self, x: Tensor) -> Tensor:
        """Return the loss of the generator () on as many samples as points in x (B, *shape)."""
        v = at_least_float32(self.critic(self.generate(self.prior(len(x)))))
        if self.lure == "saturating":
            return -self.objective.fake(v).mean()
        return -(self.objective.nonsaturating or self.objective.real)(v).mean()

    def configure_optimizers(self, optimizer: MakeOptimizer) -> list[OptimizedLoss | tuple[OptimizedLoss, ...]]:
        """Return the losses of critic and generator."""
        critic_optimizer = optimizer(self.critic.parameters())
        if self.clip is not None:
            critic_optimizer = clip_weights_after_steps(critic_optimizer, self.clip)
        critic = OptimizedLoss(self.critic_loss, critic_optimizer, repeats=self.critic_steps)
        generator = OptimizedLoss(self.generator_loss, optimizer(self.generator.parameters()), start=self.head_start)
        return [(critic, generator)] if self.schedule == "simultaneous" else [critic, generator]
