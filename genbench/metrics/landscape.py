"""Pictures of the critic's values on the plane, with data and samples: after training and during it."""

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

LEVELS = 21  # colors of v, from red (low) to blue (high); few, so that files are small
COLORS = ListedColormap(matplotlib.colormaps["RdBu"](torch.linspace(0.1, 0.9, LEVELS).numpy()))
REAL, FAKE = "black", "#ffb000"  # data and samples
RESOLUTION = 192  # values of v along each side of critic.png
COLUMNS, INCHES, DPI = 4, 1.75, 110  # panels in a row of training.png, the side of each; resolution of both pictures


def measure(evaluation: Evaluation) -> dict[str, Measurement]:
    """Draw the critic v(x) on the plane; pictures only, and none for models without a critic or for other data.

    - critic.png: v of the evaluated weights, with test points and samples.
    - training.png: v and samples of the snapshots taken during training, all from the same z; the last panel is data.

    The colors of each panel are centered at the mean of v over data and samples, half of each, since GAN losses differ
    in which v means "as likely real as not". They span the deviations of v from that mean on data and samples;
    training.png states that span.
    """
    model, data = evaluation.model, evaluation.dataset
    if not isinstance(model, HasCritic) or data.space.shape != (2,):
        return {}
    edge, real = extent(data), data.test[:POINTS]
    with torch.no_grad():
        plane = lattice(edge, RESOLUTION).to(evaluation.device)
        v = torch.cat([model.critic_score(part).cpu() for part in plane.split(4096)]).view(RESOLUTION, RESOLUTION)
    evaluation.files["critic.png"] = draw_critic(v, real, evaluation.sampled(POINTS), edge)
    if evaluation.snapshots:
        evaluation.files["training.png"] = draw_training(evaluation.snapshots, real, edge)
    return {}


def color_range(v: Tensor, real: Tensor, fake: Tensor, edge: float) -> tuple[float, float]:
    """Return the center and the radius of the color scale for v (N, N) on [-edge, edge]^2.

    The center is (E_p v + E_q v) / 2 over equally many real and fake points (n, 2), v read from the cell of a point, or
    the nearest cell for points outside; the radius is the 99 % quantile of |v - center| over the same points.
    """
    n = min(len(real), len(fake))
    cells = [((x[:n] + edge) / (2 * edge) * len(v)).long().clamp(0, len(v) - 1) for x in (real, fake)]
    values = torch.stack([v[cell[:, 0], cell[:, 1]].double() for cell in cells])
    center = values.mean().item()
    return center, max((values - center).abs().quantile(0.99).item(), 1e-12)


def draw_critic(v: Tensor, real: Tensor, fake: Tensor, edge: float) -> bytes:
    """Return a picture of v (N, N) on [-edge, edge]^2 with real and fake points (n, 2), as a PNG file."""
    figure = Figure(figsize=(3.6, 3.2), dpi=1.3 * DPI)
    axes = figure.add_axes((0.02, 0.11, 0.78, 0.8775))  # a square
    field = draw_field(axes, v, color_range(v, real, fake, edge), edge)
    draw_points(axes, real, REAL, "data", 3)
    draw_points(axes, fake, FAKE, "samples", 3)
    bar = figure.colorbar(field, cax=figure.add_axes((0.83, 0.19, 0.03, 0.72)), extend="both")
    bar.ax.tick_params(labelsize=8)
    bar.ax.set_title("v", fontsize=10)
    figure.legend(loc="lower left", ncols=2, markerscale=3, frameon=False, handletextpad=0.2, borderpad=0)
    return to_png(figure)


def draw_training(snapshots: Snapshots, real: Tensor, edge: float) -> bytes:
    """Return a picture of v and samples at each snapshot, and of real points (n, 2) in a last panel, as a PNG file."""
    rows = len(snapshots) // COLUMNS + 1
    figure = Figure(figsize=(COLUMNS * INCHES, rows * (INCHES + 0.2)), dpi=DPI, layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for axes in panels[len(snapshots) + 1 :]:
        axes.set_axis_off()
    for axes, (step, snapshot) in zip(panels, snapshots.items(), strict=False):
        v, fake = snapshot["critic"], snapshot["samples"]
        center, radius = color_range(v, real, fake, edge)
        draw_field(axes, v, (center, radius), edge)
        draw_points(axes, fake, FAKE, "samples", 2)
        axes.set_title(f"step {step}, v ± {radius:.2g}", fontsize=8)
    draw_field(panels[len(snapshots)], torch.zeros(1, 1), (0, 1), edge)
    draw_points(panels[len(snapshots)], real, REAL, "data", 2)
    panels[len(snapshots)].set_title("data", fontsize=8)
    return to_png(figure)


def draw_field(axes: Axes, v: Tensor, colors: tuple[float, float], edge: float) -> AxesImage:
    """Draw v (N, N) on [-edge, edge]^2, the first coordinate to the right and the second upwards; return the image."""
    center, radius = colors
    axes.set(xticks=[], yticks=[], xlim=(-edge, edge), ylim=(-edge, edge))
    return axes.imshow(
        v.T.numpy(), cmap=COLORS, vmin=center - radius, vmax=center + radius, origin="lower",
        extent=(-edge, edge, -edge, edge), interpolation="bilinear",
    )  # fmt: skip


def draw_points(axes: Axes, x: Tensor, color: str, label: str, size: float) -> None:
    """Draw the points x (n, 2) on `axes`."""
    axes.scatter(x[:, 0].numpy(), x[:, 1].numpy(), s=size, c=color, linewidths=0, label=label)


def to_png(figure: Figure) -> bytes:
    """Return the figure as a PNG file in 256 colors; the same figure gives the same bytes."""
    canvas, file = io.BytesIO(), io.BytesIO()
    figure.savefig(canvas, format="png")
    picture = Image.open(canvas).convert("RGB")
    picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(file, "png", optimize=True)
    return file.getvalue()


landscape = Metric(measure, first_seed_only=True)
