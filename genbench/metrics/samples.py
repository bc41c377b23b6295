"""Pictures: uncurated samples beside real data, interpolations, and densities on the plane beside the true ones."""

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

SIDE, PIXELS = 8, 384  # images along a side of a grid; approximate width of a panel
MAX_DENSITY = 1e300  # higher values are drawn as this
MAX_PIXELS = 2048  # along a side of a grid
GAP, LINE = 12, 2  # pixels between two panels, and around an image of a grid


def measure(evaluation: Evaluation) -> dict[str, Measurement]:
    """Draw the first samples of the run's seed beside the first test points; pictures only, for models with samples.

    - samples.png: model left, data right; images as grids, 2-D points as histograms.
    - sample-interpolations.png: for images, by models with a prior over z, rows along an arc from one z to another.
    - density.png: for 2-D points, the density of the model left and, where it is known, the true density right.
    """
    space, files = evaluation.dataset.space, evaluation.files
    real = evaluation.dataset.test
    if not evaluation.model.generative:
        return {}
    if space.is_image:
        side = min(SIDE, math.isqrt(len(real)))
        files["samples.png"] = png(side_by_side(grid(evaluation.samples, space, side), grid(real, space, side)))
        if isinstance(evaluation.model, HasPrior):
            files["sample-interpolations.png"] = png(grid(interpolations(evaluation.model), space))
    elif space.shape == (2,):
        edge = real.abs().max().item() * 1.1
        files["samples.png"] = png(side_by_side(histogram(evaluation.sampled(len(real)), edge), histogram(real, edge)))
        if evaluation.model.likelihood is not None:
            files["density.png"] = png(density_pictures(evaluation, edge))
    return {}


def grid(x: Tensor, space: Space, side: int = SIDE) -> Tensor:
    """Return the first side^2 images of x (N, C, H, W) as one picture (height, width, 3), uint8.

    Its sides have at most `MAX_PIXELS` pixels: small images are enlarged, and large ones shrunk with their aspect
    ratio. Three channels are colors and one is gray; other numbers of channels are drawn side by side, each in gray.
    """
    side = max(1, min(side, math.isqrt(len(x)), MAX_PIXELS // (1 + 2 * LINE)))
    x, max_side = x[: side * side], MAX_PIXELS // side - 2 * LINE
    if x.shape[1] not in (1, 3):
        x = x.permute(0, 2, 1, 3).flatten(2).unsqueeze(1)
    x = (to_unit_range(shrink(x, max_side), space) * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)
    scale = max(1, min(PIXELS // (side * x.shape[-1]), max_side // max(x.shape[2:])))
    x = x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    x = torch.nn.functional.pad(x, (LINE, LINE, LINE, LINE), value=128)
    tiles = x.view(side, -1, 3, *x.shape[2:])
    return tiles.permute(0, 3, 1, 4, 2).reshape(side * x.shape[2], -1, 3)


def shrink(x: Tensor, max_side: int) -> Tensor:
    """Return images x (N, C, H, W) as float32, shrunk to at most `max_side` pixels a side."""
    longest = max(x.shape[2:])
    if longest <= max_side:
        return x.float()
    size = [max(1, edge * max_side // longest) for edge in x.shape[2:]]
    one_by_one = (torch.nn.functional.interpolate(image[None].float(), size=size, mode="area") for image in x)
    return torch.cat(list(one_by_one))


def to_unit_range(x: Tensor, space: Space) -> Tensor:
    """Return x (N, C, H, W) scaled to [0, 1]: integers by their levels, reals by the minimum and maximum of all."""
    if space.levels:
        return (x / max(1, space.levels - 1)).nan_to_num(0).clamp(0, 1)
    x = x.nan_to_num() / 2  # halved, since the difference of the largest floats would overflow
    return ((x - x.min()) / (x.max() - x.min()).clamp_min(5e-13)).clamp(0, 1)


def interpolations(model: HasPrior, side: int = SIDE) -> Tensor:
    """Return `side` rows of as many points decoded from z between two draws, (side^2, *shape) on the CPU."""
    with torch.no_grad():
        start, end = model.prior(2 * side).split(side)
        return model.decode(arc(start, end, side).flatten(0, 1)).cpu()


def arc(start: Tensor, end: Tensor, number: int) -> Tensor:
    """Return z(t) = cos(pi t / 2) start + sin(pi t / 2) end for `number` even t from 0 to 1, (B, Z) -> (B, number, Z).

    Between independent draws from N(0, I), each z(t) is also distributed as N(0, I), unlike points on a straight line.
    It is the spherical interpolation of Sampling Generative Networks (2016), section 2.1, for orthogonal draws, which
    draws in many dimensions nearly are.
    """
    angle = torch.linspace(0, math.pi / 2, number, dtype=start.dtype, device=start.device).view(1, -1, 1)
    return angle.cos() * start[:, None] + angle.sin() * end[:, None]


def histogram(x: Tensor, edge: float, bins: int = 96) -> Tensor:
    """Return a histogram of x (N, 2) on [-edge, edge]^2 as a picture (PIXELS, PIXELS, 3)."""
    inside, edge = x[x.isfinite().all(1)].double(), edge or 1.0  # edge is 0 if all data are at the origin
    counts, _ = torch.histogramdd(inside, bins=[bins, bins], range=[-edge, edge, -edge, edge])
    return color_map(counts)


def density_pictures(evaluation: Evaluation, edge: float, points: int = 128) -> Tensor:
    """Return a picture of the model's density on [-edge, edge]^2, with the true one on its right where it is known."""
    plane = lattice(edge, points)
    model = evaluation.log_prob_of(plane).exp().view(points, points)
    truth = evaluation.dataset.log_prob
    if truth is None:
        return color_map(model)
    true = truth(plane).double().exp().view(points, points)
    top = true.quantile(0.995).item()
    return side_by_side(color_map(model, top), color_map(true, top))


def color_map(values: Tensor, top: float | None = None) -> Tensor:
    """Return values[x, y] as a picture (PIXELS, PIXELS, 3), y upwards; colors span 0..`top` or the 99.5 % quantile."""
    values = values.nan_to_num(0, posinf=MAX_DENSITY).clamp(max=MAX_DENSITY)
    top = top or max(values.flatten().quantile(0.995).item(), 1e-12)
    picture = matplotlib.colormaps["magma"]((values / top).clamp(0, 1).T.flip(0).numpy(), bytes=True)
    scale = PIXELS // len(values)
    return torch.from_numpy(picture[..., :3].copy()).repeat_interleave(scale, 0).repeat_interleave(scale, 1)


def side_by_side(left: Tensor, right: Tensor) -> Tensor:
    """Return two pictures of the same height side by side, with a white gap."""
    return torch.cat([left, left.new_full((len(left), GAP, 3), 255), right], 1)


def png(picture: Tensor) -> bytes:
    """Return a picture (height, width, 3), uint8, as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(picture.numpy()).save(file, "png", optimize=True)
    return file.getvalue()


samples = Metric(measure, first_seed_only=True)
