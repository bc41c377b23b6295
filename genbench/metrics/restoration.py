"""Reconstruction from codes of noisy points (denoising), and from codes quantized to few bits (compression)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genbench.capabilities import HasReconstruction
from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.metrics.estimates import mean_stderr

__all__ = ["compression", "denoising"]

SIGMA = 0.25  # of the noise, in units of the range of integers
STEPS = 2  # of the quantizer per standard deviation of a latent
MAX_DEVIATION = 16  # standard deviations from the mean at which rounded latents are clipped


def denoise(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return how close reconstructions of noisy test points are to the original points, for integers 0..K-1.

    - denoising_psnr: 10 log10((K - 1)^2 / mean square of x - reconstruct(x + sigma eps)), eps ~ N(0, I), sigma a
      quarter of K - 1. The noisy points themselves have 12.04 dB.
    """
    model, space = evaluation.model, evaluation.dataset.space
    if not isinstance(model, HasReconstruction) or space.levels is None:
        return {}
    top = space.levels - 1
    with torch.no_grad():
        squares = [
            (model.reconstruct(x + SIGMA * top * torch.randn(x.shape, device=x.device)) - x).double() / top
            for x in evaluation.batches(evaluation.dataset.test)
        ]
    return {"denoising_psnr": psnr(torch.cat(squares).square().flatten(1).mean(1).cpu())}


def psnr(squares: Tensor) -> Measurement:
    """Return -10 log10 of the mean of squares (N,), in units of the range, with its standard error."""
    mean, n = squares.mean().item(), len(squares)
    stderr = 10 / math.log(10) * (squares.std() / n**0.5).item() / mean if n > 1 else None
    impl = f"denoising 1, sigma {SIGMA} of the range"
    return Measurement(value=-10 * math.log10(mean), unit="dB", better="higher", n=n, stderr=stderr, impl=impl)


def compress(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return the rate of rounded codes in bits, and the reconstruction error after rounding.

    Each latent is rounded to multiples of half its standard deviation over the training split, and coded independently
    with the frequencies of the multiples in that split, one added to each count.

    - compression_rate: bits per test point, -log2 of those frequencies, summed over latents.
    - compression_error: root mean square of x - decode(rounded z) over test points, in the data's own units.

    The two are one point of a rate-distortion curve: a lower rate is no better by itself.
    """
    model, space, test = evaluation.model, evaluation.dataset.space, evaluation.dataset.test
    if not isinstance(model, HasReconstruction):
        return {}
    with torch.no_grad():
        batches = (evaluation.batches(x) for x in (evaluation.dataset.train, test))
        train, z = (torch.cat([model.encode(x).cpu() for x in each]) for each in batches)
        mean, std = train.mean(0), train.std(0, correction=0)
        step = std / STEPS + 1e-12
        varying = std > 1e-4 * std.max()  # the others stay at their mean
        limit = MAX_DEVIATION * STEPS
        a, b = (((each - mean) / step).round().clamp(-limit, limit) * varying for each in (train, z))
        rounded = (mean + b * step).to(z.dtype).split(512)
        back = torch.cat([model.decode(part.to(evaluation.device)).cpu() for part in rounded])
    rates = bits(a.flatten(1), b.flatten(1))
    error = (back - test).double().square().mean().sqrt().item()
    unit, impl = "levels" if space.levels else "data units", f"compression 1, {STEPS} steps to a standard deviation"
    stderr = mean_stderr(rates)
    return {
        "compression_rate": Measurement(value=rates.mean().item(), unit="bits", n=len(rates), stderr=stderr, impl=impl),
        "compression_error": Measurement(value=error, unit=unit, better="lower", n=len(rates), impl=impl),
    }


def bits(train: Tensor, test: Tensor) -> Tensor:
    """Return the bits (M,) float64 of integers test (M, Z), coded by their frequencies in each column of train (N, Z).

    One is added to the count of every integer from the lowest to the highest of both splits.
    """
    low = torch.minimum(train.amin(0), test.amin(0))
    a, b = ((each - low).long() for each in (train, test))
    total = torch.zeros(len(test), dtype=torch.float64)
    for j in range(a.shape[1]):
        counts = torch.bincount(a[:, j], minlength=int(b[:, j].max()) + 1).double() + 1
        total -= (counts / counts.sum())[b[:, j]].log2()
    return total


denoising, compression = Metric(denoise), Metric(compress)
