"""Codebook usage: the perplexity of the codes, and how many of them are used at all."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.special import entr

from genbench.capabilities import HasCodebook
from genbench.evaluation import Evaluation, Measurement, Metric

__all__ = ["codebook"]


def measure(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return how the test split uses the codes of a codebook; nothing for a model without codes.

    - codebook_perplexity: e^H, H the entropy in nats of the frequencies of codes, pooled over positions: K if all are
      used equally, 1 if only one is (Neural Discrete Representation Learning, 2017, appendix A).
    - codes_used: how many codes occur.

    With several levels, each has its own measurements, numbered from the top: codebook_perplexity_1, ...
    """
    model = evaluation.model
    if not isinstance(model, HasCodebook):
        return {}
    with torch.no_grad():
        batches = [model.codes(x) for x in evaluation.batches(evaluation.dataset.test)]
    levels = [torch.cat([codes.flatten().cpu() for codes in level]) for level in zip(*batches, strict=True)]
    measurements: dict[str, Measurement] = {}
    for number, codes in enumerate(levels, 1):
        measurements |= use(codes, model.size, f"_{number}" if len(levels) > 1 else "")
    return measurements


def use(codes: Tensor, size: int, suffix: str = "") -> dict[str, Measurement]:
    """Return the perplexity of codes (N,), 0 to size - 1, and the number of different ones."""
    p = torch.bincount(codes, minlength=size).double() / len(codes)
    values = {"codebook_perplexity": entr(p).sum().exp().item(), "codes_used": int((p > 0).sum())}
    impl = f"codebook 1, of {size} codes"
    return {
        name + suffix: Measurement(value=value, unit="codes", n=len(codes), impl=impl) for name, value in values.items()
    }


codebook = Metric(measure)
