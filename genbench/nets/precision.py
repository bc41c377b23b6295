"""What stays in float32 where networks run in bfloat16: values that pass from layer to layer of a flow, and densities.

Under autocast products are of bfloat16, whose 8 bits neither tell levels above 256 apart nor add up log-probabilities.
"""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Return x, in float32 where its type is narrower."""
    return x.float() if x.dtype.itemsize < 4 else x


def full_precision(x: Tensor) -> torch.autocast:
    """Return a context in which autocast does nothing on the device of x: products are of the types they are given."""
    return torch.autocast(x.device.type, enabled=False)
