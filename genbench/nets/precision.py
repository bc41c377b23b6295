"""What stays in float32 when networks run in bfloat16: values between the layers of a flow, and log-densities.

Under autocast products are bfloat16, whose 8 bits cannot distinguish levels above 256 nor add up log-probabilities.
"""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Return x, in float32 if its dtype is narrower."""
    return x.float() if x.dtype.itemsize < 4 else x


def full_precision(x: Tensor) -> torch.autocast:
    """Return a context in which autocast is off on the device of x: products have the dtype of their inputs."""
    return torch.autocast(x.device.type, enabled=False)
