"""The critic's landscape over the plane with data and samples in it: at the end of a training, and in its course."""

from __future__ import annotations

import io

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image
from torch import Tensor

from genbench.capabilities import HasCritic
from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.snapshots import POINTS, Snapshots, extent, lattice

__all__ = ["landscape"]

BANDS = 21  # colours of v, blue where it is high; few, and a file is small
COLOURS = ListedColormap(matplotlib.colormaps["RdBu"](torch.linspace(0.1, 0.9, BANDS).numpy()))
REAL, FAKE = "black", "#ffb000"  # data and samples
SIDE = 192  # values of v along a side of critic.png
COLUMNS, INCHES, DPI = 4, 1.75, 110  # panels of training.png beside each other, the side of each; of both pictures


def measure(evaluation: Evaluation) -> dict[str, Measurement]:
    """Draw what the critic makes of the plane; pictures only, and nothing for a model without one or for other data.

    - critic.png: v of the evaluated weights in bands of colour, with test points and samples.
    - training.png: v and samples of the weights at moments of the training, all samples of the same z; data last.

    Colours are centred where v is on average over data and samples in equal parts, for games differ in which v says
    "as likely real as not", and reach as far as v strays from it there. Each panel has its own, and training.png
    says how far that is.
    """
    model, data = evaluation.model, evaluation.dataset
    if not isinstance(model, HasCritic) or data.space.shape != (2,):
        return {}
    edge, real = extent(data), data.test[:POINTS]
    with torch.no_grad():
        plane = lattice(edge, SIDE).to(evaluation.device)
        v = torch.cat([model.critic_score(part).cpu() for part in plane.split(4096)]).view(SIDE, SIDE)
    evaluation.files["critic.png"] = critic(v, real, evaluation.sampled(POINTS), edge)
    if evaluation.snapshots:
        evaluation.files["training.png"] = training(evaluation.snapshots, real, edge)
    return {}


def reach(v: Tensor, real: Tensor, fake: Tensor, edge: float) -> tuple[float, float]:
    """Return where the colours of v (N, N) on [-edge, edge]^2 are centred and how far they reach either way.

    The middle is half of E_p v + E_q v, of real and fake (n, 2), by the cells that they are in, those outside in the
    nearest; the reach is the 99 % quantile of |v - middle| over as many of one as of the other.
    """
    n = min(len(real), len(fake))
    cells = [((x[:n] + edge) / (2 * edge) * len(v)).long().clamp(0, len(v) - 1) for x in (real, fake)]
    seen = torch.stack([v[cell[:, 0], cell[:, 1]].double() for cell in cells])
    middle = seen.mean().item()
    return middle, max((seen - middle).abs().quantile(0.99).item(), 1e-12)


def critic(v: Tensor, real: Tensor, fake: Tensor, edge: float) -> bytes:
    """Return a picture of v (N, N) on [-edge, edge]^2 with real and fake points (n, 2), as a PNG file."""
    figure = Figure(figsize=(3.6, 3.2), dpi=1.3 * DPI)
    axes = figure.add_axes((0.02, 0.11, 0.78, 0.8775))  # a square
    field = painted(axes, v, reach(v, real, fake, edge), edge)
    scattered(axes, real, REAL, "data", 3)
    scattered(axes, fake, FAKE, "samples", 3)
    bar = figure.colorbar(field, cax=figure.add_axes((0.83, 0.19, 0.03, 0.72)), extend="both")
    bar.ax.tick_params(labelsize=8)
    bar.ax.set_title("v", fontsize=10)
    figure.legend(loc="lower left", ncols=2, markerscale=3, frameon=False, handletextpad=0.2, borderpad=0)
    return drawn(figure)


def training(snapshots: Snapshots, real: Tensor, edge: float) -> bytes:
    """Return a picture of v and samples at each of the moments, and of real points (n, 2) last, as a PNG file."""
    rows = len(snapshots) // COLUMNS + 1
    figure = Figure(figsize=(COLUMNS * INCHES, rows * (INCHES + 0.2)), dpi=DPI, layout="constrained")
    places = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for axes in places[len(snapshots) + 1 :]:
        axes.set_axis_off()
    for axes, (step, kept) in zip(places, snapshots.items(), strict=False):
        v, fake = kept["critic"], kept["samples"]
        middle, far = reach(v, real, fake, edge)
        painted(axes, v, (middle, far), edge)
        scattered(axes, fake, FAKE, "samples", 2)
        axes.set_title(f"step {step}, v ± {far:.2g}", fontsize=8)
    painted(places[len(snapshots)], torch.zeros(1, 1), (0, 1), edge)
    scattered(places[len(snapshots)], real, REAL, "data", 2)
    places[len(snapshots)].set_title("data", fontsize=8)
    return drawn(figure)


def painted(axes: Axes, v: Tensor, colours: tuple[float, float], edge: float) -> AxesImage:
    """Paint v (N, N) on [-edge, edge]^2, the first coordinate rightwards and the second upwards, and return it."""
    middle, far = colours
    axes.set(xticks=[], yticks=[], xlim=(-edge, edge), ylim=(-edge, edge))
    return axes.imshow(
        v.T.numpy(), cmap=COLOURS, vmin=middle - far, vmax=middle + far, origin="lower",
        extent=(-edge, edge, -edge, edge), interpolation="bilinear",
    )  # fmt: skip


def scattered(axes: Axes, x: Tensor, colour: str, label: str, size: float) -> None:
    """Put the points x (n, 2) on `axes`."""
    axes.scatter(x[:, 0].numpy(), x[:, 1].numpy(), s=size, c=colour, linewidths=0, label=label)


def drawn(figure: Figure) -> bytes:
    """Return the figure as a PNG file, the same bytes for the same figure, in 256 colours."""
    drawing, file = io.BytesIO(), io.BytesIO()
    figure.savefig(drawing, format="png")
    picture = Image.open(drawing).convert("RGB")
    picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(file, "png", optimize=True)
    return file.getvalue()


landscape = Metric(measure, first_seed_only=True)
