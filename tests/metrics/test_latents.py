"""Metrics of latents agree with closed forms: for the linear-Gaussian model, for noise of known variance."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from genbench.dataset import Dataset, Space
from genbench.evaluation import Evaluation
from genbench.metrics.latents import GRADIENTS, amortisation, gradients, latents, manifold, variance
from genbench.models.flows.linear import Linear
from genbench.models.vaes.hierarchical import HierarchicalVAE
from genbench.models.vaes.unamortised import UnamortisedVAE
from genbench.models.vaes.vae import VAE
from genbench.suite import Run
from tests.models.test_vaes import LinearGaussian

RUN = Run(suite="s", name="n", model="vaes.vae:VAE", data="digits")


class WithEncoder(LinearGaussian):
    """The linear-Gaussian model with an `encoder` whose only parameters are the offsets of q."""

    def __init__(self, shift: float = 0.0, spread: float = 0.0) -> None:
        super().__init__(shift, spread)
        self.encoder = nn.ParameterList([self.delta])


def evaluate(model: LinearGaussian, n: int = 300) -> Evaluation:
    """Return an evaluation of the model on n of its own samples."""
    with torch.no_grad():
        x = model.sample(n).double()
    return Evaluation(model, Dataset(model.space, x, x, x), RUN)


def test_rate_and_distortion_add_up_to_minus_the_elbo() -> None:
    model = LinearGaussian(shift=0.6)
    evaluation = evaluate(model)
    measurements = latents.measure(evaluation)
    x = evaluation.dataset.test
    mu, logvar = model.posterior(x)
    rate = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1).mean().item()
    assert measurements["rate"].value == pytest.approx(rate)
    assert measurements["elbo"].value == pytest.approx(model.truth(x).mean().item() - 0.6**2, abs=0.05)
    assert measurements["elbo"].value == pytest.approx(-measurements["rate"].value - measurements["distortion"].value)
    assert (measurements["rate"].n, measurements["rate"].unit) == (300, "nats")
    assert measurements["elbo"].kind == "bound"
    assert measurements["active_units"].value == 2
    error = (x - model.b - mu @ model.W.T).square().mean().sqrt().item()
    assert measurements["reconstruction_error"].value == pytest.approx(error)
    assert measurements["reconstruction_error"].unit == "data units"


def test_units_that_do_not_depend_on_x_are_not_active() -> None:
    model = LinearGaussian()
    with torch.no_grad():
        model.W[:, 0] *= 0.01
    assert latents.measure(evaluate(model))["active_units"].value == 1


@pytest.mark.parametrize(("shift", "spread"), [(0.0, 0.0), (0.7, -0.4)])
def test_amortisation_gap_is_the_kl_from_the_best_q(shift: float, spread: float) -> None:
    measurements = amortisation.measure(evaluate(LinearGaussian(shift, spread), 100))
    gap, residual = measurements["amortisation_gap"], measurements["amortisation_residual"]
    expected = math.expm1(spread) - spread + shift**2
    assert gap.value == pytest.approx(expected, abs=0.02 + 4 * gap.stderr)
    assert residual.value == pytest.approx(0, abs=0.02)
    assert {gap.impl, residual.impl} == {"amortisation 2"}


def test_gradient_variance_of_known_noise() -> None:
    """loss = theta . n, n ~ N(5, diag(1, 4, 9)): the variance is 14, its estimate has variance 2 (1 + 16 + 81) / n."""
    theta, scale = nn.Parameter(torch.ones(3)), torch.tensor([1.0, 2.0, 3.0])
    estimate = variance(lambda: (theta * (5 + scale * torch.randn(3))).sum(), [theta])
    assert estimate.value == pytest.approx(14, abs=4 * (2 * 98 / GRADIENTS) ** 0.5)
    assert variance(lambda: (theta**2).sum(), [theta]).value == pytest.approx(0, abs=1e-9)


def test_baseline_reduces_gradient_variance_and_reparameterisation_reduces_it_more() -> None:
    measurements = gradients.measure(evaluate(WithEncoder(0.3, 0.2)))
    reparameterized, score, baseline = (
        measurements[f"gradient_variance_{name}"].value
        for name in ("reparameterised", "log_derivative", "log_derivative_baseline")
    )
    assert 0 < reparameterized < baseline < score


def test_pictures_by_kind_of_model() -> None:
    space = Space((1, 8, 8), 17)
    x, labels = torch.randint(0, 17, (64, 1, 8, 8)).to(torch.uint8), torch.arange(64) % 10
    data = Dataset(space, x, x, x, labels=(labels, labels, labels))
    small = {"hidden": (16,), "latent": 2}
    everything = {"latents.png", "reconstructions.png", "interpolations.png", "attributes.png", "manifold.png"}
    for model, files in (
        (VAE(space, **small), everything),
        (UnamortisedVAE(space, svi_max_steps=2, **small), everything),
        (HierarchicalVAE(space, layers=(2, 3), width=8), everything - {"manifold.png"}),
        (Linear(space), set()),
    ):
        evaluation = Evaluation(model.eval(), data, RUN)
        measurements = latents.measure(evaluation)
        assert set(evaluation.files) == files
        assert all(content.startswith(b"\x89PNG") for content in evaluation.files.values())
        assert bool(measurements) == bool(files)
        assert not files or measurements["reconstruction_error"].unit == "levels"
    assert amortisation.measure(evaluation) == gradients.measure(evaluation) == {}


def test_manifold_picture_has_the_first_axis_rightwards_and_the_second_upwards() -> None:
    class IdentityDecoder:
        def decode(self, z: Tensor) -> Tensor:
            return z

        encode = reconstruct = decode

    z = manifold(IdentityDecoder(), torch.device("cpu"), side=4).view(4, 4, 2)
    assert (z[:, 1:, 0] > z[:, :-1, 0]).all()
    assert (z[:-1, :, 1] > z[1:, :, 1]).all()
    torch.testing.assert_close(z[0, 3], torch.tensor([1.1503, 1.1503]), rtol=1e-4, atol=0)
