"""Pictures: uncurated samples beside real data, what lies between two, and densities of the plane beside the truth."""

from __future__ import annotations

import io
import math

import matplotlib
import torch
from PIL import Image
from torch import Tensor

from genbench.capabilities import HasPrior
from genbench.dataset import Space
from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.snapshots import lattice

__all__ = ["samples"]

SIDE, PIXELS = 8, 384  # images a side of a grid; about how wide a panel is
BRIGHTEST = 1e300  # a density without bounds is drawn as this
LARGEST = 2048  # pixels a side of a grid at most
GAP, LINE = 12, 2  # pixels between two panels, and around an image of a grid


def measure(evaluation: Evaluation) -> dict[str, Measurement]:
    """Draw the first samples of the run's seed beside the first test points; pictures only, no number.

    Nothing for a model without samples.

    - samples.png: model left, data right; images as grids, points of the plane as histograms.
    - sample-interpolations.png: for images by models of z ~ N(0, I), rows from one draw of z to another, on the arc.
    - density.png: for points of the plane, exp(log p) of the model left and of the truth right, where known.
    """
    space, files = evaluation.dataset.space, evaluation.files
    real = evaluation.dataset.test
    if not evaluation.model.generative:
        return {}
    if space.is_image:
        side = min(SIDE, math.isqrt(len(real)))
        files["samples.png"] = png(beside(grid(evaluation.samples, space, side), grid(real, space, side)))
        if isinstance(evaluation.model, HasPrior):
            files["sample-interpolations.png"] = png(grid(interpolations(evaluation.model), space))
    elif space.shape == (2,):
        edge = real.abs().max().item() * 1.1
        files["samples.png"] = png(beside(histogram(evaluation.sampled(len(real)), edge), histogram(real, edge)))
        if evaluation.model.likelihood is not None:
            files["density.png"] = png(densities(evaluation, edge))
    return {}


def grid(x: Tensor, space: Space, side: int = SIDE) -> Tensor:
    """Return the first side^2 images of x (N, C, H, W) as one picture (height, width, 3), uint8.

    It has `LARGEST` pixels a side at most: small images are enlarged, large ones reduced in their own proportions.
    Three channels are colours, one is grey; those of other numbers stand side by side, each in grey.
    """
    side = max(1, min(side, math.isqrt(len(x)), LARGEST // (1 + 2 * LINE)))
    x, room = x[: side * side], LARGEST // side - 2 * LINE
    if x.shape[1] not in (1, 3):
        x = x.permute(0, 2, 1, 3).flatten(2).unsqueeze(1)
    x = (shaded(reduced(x, room), space) * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)
    times = max(1, min(PIXELS // (side * x.shape[-1]), room // max(x.shape[2:])))
    x = x.repeat_interleave(times, 2).repeat_interleave(times, 3)
    x = torch.nn.functional.pad(x, (LINE, LINE, LINE, LINE), value=128)
    tiles = x.view(side, -1, 3, *x.shape[2:])
    return tiles.permute(0, 3, 1, 4, 2).reshape(side * x.shape[2], -1, 3)


def reduced(x: Tensor, room: int) -> Tensor:
    """Return images x (N, C, H, W), float32, those larger than `room` pixels a side reduced to it."""
    longest = max(x.shape[2:])
    if longest <= room:
        return x.float()
    size = [max(1, edge * room // longest) for edge in x.shape[2:]]
    one_by_one = (torch.nn.functional.interpolate(image[None].float(), size=size, mode="area") for image in x)
    return torch.cat(list(one_by_one))


def shaded(x: Tensor, space: Space) -> Tensor:
    """Return x (N, C, H, W) in [0, 1]: integers by their levels, reals between the least and greatest of all."""
    if space.levels:
        return (x / max(1, space.levels - 1)).nan_to_num(0).clamp(0, 1)
    x = x.nan_to_num() / 2  # halves: of numbers as large as there are the difference would be infinite
    return ((x - x.min()) / (x.max() - x.min()).clamp_min(5e-13)).clamp(0, 1)


def interpolations(model: HasPrior, side: int = SIDE) -> Tensor:
    """Return what z decode to on the way between draws, row by row of `side` each, (side^2, *shape) on the CPU."""
    with torch.no_grad():
        start, end = model.prior(2 * side).split(side)
        return model.decode(arc(start, end, side).flatten(0, 1)).cpu()


def arc(start: Tensor, end: Tensor, number: int) -> Tensor:
    """Return z(t) = cos(pi t / 2) start + sin(pi t / 2) end for even t from 0 to 1, (B, Z) -> (B, number, Z).

    Of independent draws of N(0, I) each z(t) is such a draw again, as those straight between them are not. It is the
    spherical interpolation of Sampling Generative Networks (2016), section 2.1, for draws at right angles, as those
    in many dimensions nearly are.
    """
    angle = torch.linspace(0, math.pi / 2, number, dtype=start.dtype, device=start.device).view(1, -1, 1)
    return angle.cos() * start[:, None] + angle.sin() * end[:, None]


def histogram(x: Tensor, edge: float, bins: int = 96) -> Tensor:
    """Return how often x (N, 2) falls in each cell of [-edge, edge]^2, coloured, (PIXELS, PIXELS, 3)."""
    inside, edge = x[x.isfinite().all(1)].double(), edge or 1.0  # 0: all data are at the origin
    counts, _ = torch.histogramdd(inside, bins=[bins, bins], range=[-edge, edge, -edge, edge])
    return coloured(counts)


def densities(evaluation: Evaluation, edge: float, points: int = 128) -> Tensor:
    """Return the model's density on [-edge, edge]^2, and the truth's on its right where it is known."""
    plane = lattice(edge, points)
    model = evaluation.log_prob_of(plane).exp().view(points, points)
    truth = evaluation.dataset.log_prob
    if truth is None:
        return coloured(model)
    true = truth(plane).double().exp().view(points, points)
    top = true.quantile(0.995).item()
    return beside(coloured(model, top), coloured(true, top))


def coloured(values: Tensor, top: float | None = None) -> Tensor:
    """Return values[x, y] as a picture (PIXELS, PIXELS, 3), y upwards, from 0 to `top` (their 99.5 % quantile)."""
    values = values.nan_to_num(0, posinf=BRIGHTEST).clamp(max=BRIGHTEST)
    top = top or max(values.flatten().quantile(0.995).item(), 1e-12)
    picture = matplotlib.colormaps["magma"]((values / top).clamp(0, 1).T.flip(0).numpy(), bytes=True)
    scale = PIXELS // len(values)
    return torch.from_numpy(picture[..., :3].copy()).repeat_interleave(scale, 0).repeat_interleave(scale, 1)


def beside(left: Tensor, right: Tensor) -> Tensor:
    """Return two pictures of one height side by side on white."""
    return torch.cat([left, left.new_full((len(left), GAP, 3), 255), right], 1)


def png(picture: Tensor) -> bytes:
    """Return a picture (height, width, 3), uint8, as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(picture.numpy()).save(file, "png", optimize=True)
    return file.getvalue()


samples = Metric(measure, first_seed_only=True)
