"""Modules that take tensors from the first batch they are trained on."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn


class FirstBatchInit(nn.Module):
    """A module that sets some of its parameters or buffers from its first training batch.

    A subclass calls `initialize_once` with each input, and sets the tensors in `initialize`. The buffer `ready` records
    that they are set, also in saved weights.
    """

    ready: Tensor

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.register_buffer("ready", torch.tensor(False))
        self.needs_init = True  # until `ready` was read: reading it from a GPU each time would wait for the device

    @abstractmethod
    def initialize(self, x: Tensor) -> None:
        """Set the tensors from the first batch x (B, ...)."""

    def initialize_once(self, x: Tensor) -> None:
        """Set the tensors from x (B, ...) in training, unless they are set."""
        if self.needs_init and self.training:
            self.needs_init = False
            if not self.ready:
                with torch.no_grad():
                    self.initialize(x)
                self.ready.fill_(True)
