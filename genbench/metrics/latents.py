"""Latent variables: rate and distortion, active units, reconstructions, the amortization gap, gradient variances.

A metric returns the measurements that the model has the methods for, and none for other models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import matplotlib
import torch
from torch import Tensor

from genbench.capabilities import HasELBO, HasPosterior, HasReconstruction
from genbench.evaluation import Evaluation, Measurement, Metric
from genbench.metrics.estimates import mean_stderr
from genbench.metrics.samples import PIXELS, grid, png
from genbench.model import Diverged
from genbench.models.vaes.svi import antithetic, ascend, elbo
from genbench.records.record import Better
from genbench.suite import Kind

__all__ = ["amortisation", "gradients", "latents"]

DRAWS = 64  # for a bound
TOLERANCE, MAX_STEPS = 0.05, 400  # gain per round, in nats, below which q counts as optimal; steps at most
MORE_STEPS, MORE_PAIRS, MORE_RATE = 200, 8, 0.5  # of the longer optimization that measures the remaining gap
GRADIENTS, BATCH = 200, 128  # gradients for a variance, and training points in each
ACTIVE = 0.01  # Var_x E[z | x] of an active unit (Importance Weighted Autoencoders, 2016, section 5.2)


def mean_measurement(
    values: Tensor, unit: str, better: Better = None, kind: Kind = "exact", impl: str = "latents 1"
) -> Measurement:
    """Return the mean of `values` (N,) with its standard error."""
    value, n, stderr = values.mean().item(), len(values), mean_stderr(values)
    return Measurement(value=value, unit=unit, better=better, kind=kind, n=n, stderr=stderr, impl=impl)


# ------------------------------------------------------------------------------------------------- latents


def measure(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return how z represents the test split, and draw it.

    - elbo, rate, distortion: nats per point, elbo = -(rate + distortion), by 64 draws (Fixing a Broken ELBO, 2018).
    - active_units: the number of latents whose mean depends on x, Var_x E[z | x] > 0.01.
    - reconstruction_error: root mean square of x - E[x | z] over points and dimensions, z the mean of q(z | x), in the
      data's own units: levels for integers.

    Pictures: reconstructions.png, pairs of columns, x left and E[x | z] right; interpolations.png, rows from one test
    point to another, linear in z; attributes.png, rows from a test point to the mean z of each label, z + a (mean - z);
    latents.png, z of the test split by label on its two leading principal axes; manifold.png, for z of two dimensions,
    E[x | z] at quantiles of the prior.
    """
    model, x = evaluation.model, evaluation.dataset.test
    measurements: dict[str, Measurement] = {}
    with torch.no_grad():
        if isinstance(model, HasELBO):
            parts = [model.rate_and_distortion(batch, DRAWS) for batch in evaluation.batches(x, 64)]
            rate, distortion = (torch.cat(values).double().cpu() for values in zip(*parts, strict=True))
            measurements |= {
                "elbo": mean_measurement(-rate - distortion, "nats", "higher", "bound"),
                "rate": mean_measurement(rate, "nats"),
                "distortion": mean_measurement(distortion, "nats"),
            }
        if isinstance(model, HasReconstruction):
            z = torch.cat([model.encode(batch).flatten(1).cpu() for batch in evaluation.batches(x)])
            if len(z) > 1:
                active = int((z.var(0) > ACTIVE).sum())
                measurements["active_units"] = Measurement(value=active, unit="units", n=z.shape[1], impl="latents 1")
            measurements["reconstruction_error"] = reconstruction_error(evaluation, model)
            evaluation.files |= dict(pictures(evaluation, model, z))
    return measurements


def reconstruction_error(evaluation: Evaluation, model: HasReconstruction) -> Measurement:
    """Return the root mean square of x - E[x | z] over the test split, with its standard error by the delta method."""
    batches = evaluation.batches(evaluation.dataset.test)
    squares = torch.cat([((b - model.reconstruct(b)) ** 2).flatten(1).mean(1).double().cpu() for b in batches])
    root = squares.mean().sqrt().item()
    unit = "levels" if evaluation.dataset.space.levels else "data units"
    stderr = (squares.std() / len(squares) ** 0.5 / (2 * max(root, 1e-12))).item() if len(squares) > 1 else None
    return Measurement(value=root, unit=unit, better="lower", n=len(squares), stderr=stderr, impl="latents 1")


def pictures(evaluation: Evaluation, model: HasReconstruction, z: Tensor) -> Iterator[tuple[str, bytes]]:
    """Yield pictures by name; z (N, Z) are the latents of the test split."""
    space, x, device = evaluation.dataset.space, evaluation.dataset.test, evaluation.device
    labels = None if evaluation.dataset.labels is None else evaluation.dataset.labels[2]
    if labels is not None and min(z.shape) > 1:
        yield "latents.png", png(scatter(z, labels))
    if not space.is_image or len(x) < 32:
        return

    def interpolation_rows(start: Tensor, end: Tensor) -> bytes:
        z = torch.lerp(start[:, None], end[:, None], torch.linspace(0, 1, 8).view(1, 8, 1))
        return png(grid(model.decode(z.flatten(0, 1).to(device)).cpu(), space))

    pairs = torch.stack((x[:32].to(device), model.reconstruct(x[:32].to(device))), 1)
    yield "reconstructions.png", png(grid(pairs.flatten(0, 1).cpu(), space))
    yield "interpolations.png", interpolation_rows(z[:8], z[8:16])
    if labels is not None and len(classes := labels.unique()[:8]) == 8:
        yield (
            "attributes.png",
            interpolation_rows(z[:8], torch.stack([z[labels == label].mean(0) for label in classes])),
        )
    if z.shape[1] == 2:
        yield "manifold.png", png(grid(manifold(model, device), space, side=16))


def manifold(model: HasReconstruction, device: torch.device, side: int = 16) -> Tensor:
    """Return E[x | z] on a grid of quantiles of the prior, the first axis to the right and the second upwards."""
    q = torch.special.ndtri((torch.arange(side) + 0.5) / side)
    up, right = torch.meshgrid(q.flip(0), q, indexing="ij")
    return model.decode(torch.stack((right, up), -1).view(-1, 2).to(device)).cpu()


def scatter(z: Tensor, labels: Tensor) -> Tensor:
    """Return z (N, Z) on its two leading principal axes, colored by labels (N,), as a picture (height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    axes = torch.linalg.svd(z - z.mean(0), full_matrices=False).Vh[:2]
    points = z if z.shape[1] == 2 else (z - z.mean(0)) @ axes.T
    figure = Figure(figsize=(PIXELS / 100, PIXELS / 100), dpi=100, layout="tight")
    canvas, plot = FigureCanvasAgg(figure), figure.add_subplot()
    colors = matplotlib.colormaps["tab10"](labels.numpy() % 10)
    plot.scatter(points[:, 0].numpy(), points[:, 1].numpy(), s=9, c=colors)
    for label in labels.unique().tolist():
        right, up = points[labels == label].median(0).values.tolist()
        plot.annotate(str(label), (right, up), weight="bold", ha="center", va="center")
    picture, size = canvas.print_to_buffer()  # type: ignore[no-untyped-call]
    return torch.frombuffer(bytearray(picture), dtype=torch.uint8).view(size[1], size[0], 4)[..., :3]


# -------------------------------------------------------------------------------------- the amortization gap


def measure_amortisation(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return how much the ELBO increases if q is optimized for each test point instead of taken from the model.

    - amortisation_gap: nats per point (Inference Suboptimality in Variational Autoencoders, 2018, eq. 5), for diagonal
      Gaussians, by natural gradients from the model's own q until a round of 40 steps changes the ELBO of a point by
      less than 0.05 nats, or after 400 steps. Only sampling noise can make it negative. For a model that optimizes q
      itself, it is what that optimization leaves.
    - amortisation_residual: the increase of the ELBO by 200 more steps with four times the draws, which shows by how
      much the gap may be underestimated.

    On the first 512 test points, with the same 64 draws before and after.
    """
    model = evaluation.model
    if not isinstance(model, HasPosterior):
        return {}
    gains, residuals = list[Tensor](), list[Tensor]()
    with torch.no_grad():
        for x in evaluation.batches(evaluation.dataset.test[:512]):
            mu, logvar = model.posterior(x)
            log_p = partial(model.log_likelihood, x)
            eps = antithetic(DRAWS // 2, mu.shape, mu)
            best = model.optimize_posterior(x, mu, logvar, TOLERANCE, MAX_STEPS)
            more = ascend(log_p, best.mu, best.logvar, MORE_STEPS, MORE_RATE, MORE_PAIRS)
            own, optimal, longer = (
                elbo(log_p, *q, eps).double().cpu() for q in ((mu, logvar), (best.mu, best.logvar), more)
            )
            gains.append(optimal - own)
            residuals.append(longer - optimal)
    make_measurement = partial(mean_measurement, unit="nats", better="lower", kind="estimate", impl="amortisation 2")
    return {
        "amortisation_gap": make_measurement(torch.cat(gains)),
        "amortisation_residual": make_measurement(torch.cat(residuals)),
    }


# ------------------------------------------------------------------------------------------- gradient variances


def measure_gradients(evaluation: Evaluation) -> dict[str, Measurement]:
    """Return the variance over draws of z of three estimators of the gradient of the mean ELBO.

    The gradient is with respect to the encoder's parameters, over which the variance is summed, on the first 128
    training points: by reparameterization; by the log-derivative (REINFORCE); and by the log-derivative with a constant
    baseline, the mean of log p(x | z). All three have the same mean, and all take the KL in closed form.
    """
    model, encoder = evaluation.model, getattr(evaluation.model, "encoder", None)
    if not isinstance(model, HasPosterior) or not isinstance(encoder, torch.nn.Module):
        return {}
    x, parameters = evaluation.dataset.train[:BATCH].to(evaluation.device), list(encoder.parameters())
    with torch.no_grad():
        mu, logvar = model.posterior(x)
        z = mu + torch.exp(0.5 * logvar) * torch.randn(DRAWS, *mu.shape, device=mu.device)
        b = model.log_likelihood(x, z).mean().item()
    baselines = {"reparameterised": None, "log_derivative": 0.0, "log_derivative_baseline": b}
    return {
        f"gradient_variance_{name}": variance(partial(model.surrogate, x, b), parameters)
        for name, b in baselines.items()
    }


def variance(loss: Callable[[], Tensor], parameters: list[torch.nn.Parameter]) -> Measurement:
    """Return the variance of the gradient of `loss` over 200 calls, summed over `parameters`."""
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0
    for _ in range(GRADIENTS):
        g = torch.cat([part.flatten() for part in torch.autograd.grad(loss(), parameters)]).double()
        total, squares = total + g, squares + g.square().sum()
    mean = torch.as_tensor(total) / GRADIENTS
    value = (torch.as_tensor(squares).item() / GRADIENTS - mean.square().sum().item()) * GRADIENTS / (GRADIENTS - 1)
    if not math.isfinite(value):
        raise Diverged(f"the variance of the gradient is {value}")
    return Measurement(
        value=max(value, 0.0), unit="nats²", better="lower", kind="estimate", n=GRADIENTS, impl="gradients 1"
    )


latents = Metric(measure)
amortisation = Metric(measure_amortisation)
gradients = Metric(measure_gradients)
