"""`genbench sample`: draw samples of a trained model."""

from __future__ import annotations

import io
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from genbench.command_line import FAILED, OK, WholeNumber, results_option, run_argument
from genbench.commands.show import records_of
from genbench.errors import UsageError, error_context
from genbench.records.artifacts import write_whole
from genbench.records.store import Store
from genbench.runner.isolation import error_line
from genbench.suite import Run

if TYPE_CHECKING:
    from torch import Tensor

    from genbench.dataset import Dataset
    from genbench.evaluation import Evaluation

FORMATS = {  # of Pillow, by suffix
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}


@click.command()
@run_argument
@results_option
@click.option("-n", "count", type=WholeNumber(1, 10_000), default=64, show_default=True, help="How many.")
@click.option("--seed", type=WholeNumber(0, (1 << 63) - 1), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE", help=f"{', '.join(FORMATS)}.")
@click.option("--work", metavar="URL", help="Folder of trained models. Default: DIR/.work.")
def sample(run: str, results: Path, count: int, seed: int, out: Path, work: str | None) -> int:
    """Draw samples of a trained model into a picture. RUN is the start of a run's id."""
    from genbench.validation.datasets import load_dataset

    format = picture_format(out)
    store = Store(results)
    chosen = records_of(store, run)[-1].run
    dataset = load_dataset(chosen.data)
    space = dataset.space
    if not (space.is_image or space.shape == (2,)):
        raise UsageError(f"run {chosen.id}: points of shape {space.shape} have no picture")
    try:
        with error_context(f"run {chosen.id}"):
            evaluation = load_trained(chosen, dataset, work or str(store.work))
            picture = draw_samples(evaluation, count, seed)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # a model may raise anything
        print(f"genbench: run {chosen.id}: {error_line(error)}", file=sys.stderr)
        return FAILED
    try:
        write_whole(out, encode(picture, format))
    except (OSError, ValueError) as error:
        raise UsageError(f"--out {out}: cannot be written: {error}") from None
    left = count - math.isqrt(count) ** 2 if space.is_image else 0
    note = f", {left} more than fill a square" if left else ""
    print(f"wrote {out}: {count} samples drawn on {evaluation.device}{note}")
    return OK


def picture_format(out: Path) -> str:
    """Return the format of a picture by the suffix of its path.

    Raises:
        UsageError: there is no such format, or the file cannot be written.
    """
    format = FORMATS.get(out.suffix.lower())
    if out.is_dir():
        raise UsageError(f"--out {out}: is a folder; name a file in it")
    if format is None:
        raise UsageError(f"--out {out}: the suffix must be one of {', '.join(FORMATS)}")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: the folder {out.parent} does not exist")
    if not os.access(out.parent, os.W_OK) or (out.exists() and not os.access(out, os.W_OK)):
        raise UsageError(f"--out {out}: is not writable")
    return format


def load_trained(run: Run, dataset: Dataset, work: str) -> Evaluation:
    """Return the trained model of `run`, ready to measure; it is trained first if `work` does not contain it."""
    from genbench.evaluation import Evaluation
    from genbench.records.artifacts import Work
    from genbench.runner.worker import prepare_device, train_or_load

    device = prepare_device(run)
    model, _ = train_or_load(run, dataset, Work(work), device, 30.0, math.inf)
    return Evaluation(model, dataset, run)


def draw_samples(evaluation: Evaluation, count: int, seed: int) -> Tensor:
    """Return a picture (height, width, 3), uint8, of `count` samples."""
    import torch

    from genbench.metrics.samples import grid, histogram
    from genbench.train import reseed
    from genbench.validation.models import check_samples

    model, dataset = evaluation.model, evaluation.dataset
    if not model.generative:
        raise UsageError(f"{evaluation.run.model} learns representations and has no samples")
    reseed(seed, "sample")
    with torch.no_grad():
        x = check_samples(model, model.sample(count), count, dataset.space)
    if dataset.space.is_image:
        return grid(x, dataset.space, max(1, math.isqrt(count)))
    return histogram(x, dataset.test.abs().max().item() * 1.1)


def encode(picture: Tensor, format: str) -> bytes:
    """Return the file of a picture (height, width, 3), uint8, in a format of Pillow."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture.numpy()).save(file, format, **({"optimize": True} if format == "PNG" else {"quality": 95}))
    return file.getvalue()
