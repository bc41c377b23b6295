"""Lipschitz constraints on a critic: weight clipping after each step, and a penalty on its gradient.

The third constraint, spectral normalization, is `spectral_norm_` in genbench_kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genbench.nets.precision import at_least_float32


def clip_weights_after_steps(optimizer: Optimizer, c: float) -> Optimizer:
    """Return `optimizer`, changed to clamp its parameters to [-c, c] after each step (Wasserstein GAN, 2017)."""

    def clip(optimizer: Optimizer, *_: Any) -> None:
        with torch.no_grad():
            for group in optimizer.param_groups:
                torch._foreach_clamp_min_(group["params"], -c)
                torch._foreach_clamp_max_(group["params"], c)

    optimizer.register_step_post_hook(clip)
    return optimizer


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Return the mean of (|grad v(x)| - 1)^2 over x uniform between real and fake points, each (B, *shape) -> ().

    Improved Training of Wasserstein GANs (2017), eq. 3.
    """
    e = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device, dtype=real.dtype)
    x = torch.lerp(fake.to(real.dtype), real, e).requires_grad_()
    (gradient,) = torch.autograd.grad(at_least_float32(critic(x)).sum(), x, create_graph=True)
    norm: Tensor = gradient.flatten(1).norm(dim=1)
    return (norm - 1).square().mean()
