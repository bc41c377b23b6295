"""The size of a model: its number of trainable parameters."""

from __future__ import annotations

from genbench.evaluation import Evaluation, Measurement, Metric

__all__ = ["parameters"]


def measure(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return the number of trainable parameters."""
    count = sum(p.numel() for p in evaluation.model.parameters() if p.requires_grad)
    return {"parameters": Measurement(value=count, unit="parameters", impl="parameters 1")}


parameters = Metric(measure)
