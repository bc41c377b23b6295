"""Properties of continuous flows: linear fields with known flows, traces, gradients, tolerances, counts."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from genbench.dataset import Dataset, Space
from genbench.evaluation import Evaluation
from genbench.metrics.nfe import nfe
from genbench.model import Diverged
from genbench.models.flows.ffjord import EXACT_UP_TO, FFJORD, FIXED, Method, ODEFlow, Solver, SolverFailed
from genbench.models.flows.nice import NICE
from genbench.models.flows.probes import NOISES, HutchinsonNoise, PointwiseNoiseChain
from genbench.nets.vector_field import SMOOTH, VectorField, convolutional_field, dense_field
from genbench.runner.worker import perform
from genbench.suite import Run

PLANE, VECTOR, PICTURE = Space((2,)), Space((5,)), Space((1, 8, 8), 17)
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def solver(method: Method = "dopri5", tolerance: float = 1e-9, steps: int = 4) -> Solver:
    return Solver(method, tolerance, tolerance, steps)


def linear_flow(A: Tensor, *, T: float = 1.0, method: Method = "dopri5", **options) -> ODEFlow:
    """Return the flow of dx/dt = A x."""
    layer = nn.Linear(*A.shape).double()
    field = VectorField([layer], timing="concat").double()
    with torch.no_grad():
        layer.weight.copy_(A), layer.bias.zero_()
    solvers = (solver(method),) * 2
    return ODEFlow(field, (len(A),), solvers=solvers, T=T, **options)


def perturbed(model: nn.Module, by: float = 0.3) -> nn.Module:
    """Return the model in float64 and evaluation mode, with perturbed parameters."""
    model.double()
    with torch.no_grad():
        for p in model.parameters():
            p += by * torch.randn_like(p)
    return model.eval()


# ------------------------------------------------------------------------------------------------ linear fields


@pytest.mark.parametrize("T", [0.5, 2.0])
def test_flow_of_a_linear_field_is_the_matrix_exponential(T: float) -> None:
    A, x = torch.randn(4, 4).double(), torch.randn(7, 4).double()
    flow = linear_flow(A, T=T).eval()
    y, logdet = flow(x)
    torch.testing.assert_close(y, x @ torch.linalg.matrix_exp(A * T).T, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logdet, (T * A.trace()).expand(7), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(flow.inverse(y), x, rtol=1e-6, atol=1e-6)


def test_error_decreases_with_the_tolerance() -> None:
    torch.manual_seed(3)
    model, x = perturbed(FFJORD(PLANE, hidden=(16,), T=2.0), 0.8), torch.randn(50, 2).double()

    def nats(tolerance: float) -> Tensor:
        block = next(m for m in model.modules() if isinstance(m, ODEFlow))
        block.solvers = (solver(tolerance=tolerance),) * 2
        return model.log_prob(x).detach()

    truth = nats(1e-11)
    errors = [(nats(tolerance) - truth).abs().max().item() for tolerance in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)]
    assert all(error < 30 * tolerance for error, tolerance in zip(errors, (1e-3, 1e-4, 1e-5, 1e-6, 1e-7), strict=True))
    assert errors[-1] < errors[0] / 100


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_fixed_step_solvers_have_their_order_of_convergence(method: Method, order: int) -> None:
    A, x = torch.randn(3, 3).double(), torch.randn(5, 3).double()
    flow, truth = linear_flow(A, method=method), x @ torch.linalg.matrix_exp(A).T
    errors = []
    for steps in (16, 32):
        flow.solvers = (solver(method, steps=steps),) * 2
        errors.append((flow(x)[0] - truth).abs().max().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.35)


# ------------------------------------------------------------------------------------------------------- traces


@pytest.mark.parametrize("activation", SMOOTH)
@pytest.mark.parametrize("timing", ["concat", "concatsquash"])
@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_directional_derivatives_agree_with_the_jacobian(kind: str, timing: str, activation: str) -> None:
    dense = kind == "dense"
    make, shape = (dense_field, (6,)) if dense else (convolutional_field, (2, 3, 4))
    field = perturbed(make(shape[0], (8, 7), activation=activation, timing=timing))
    x, t = torch.randn(3, *shape).double(), torch.tensor(0.3).double()
    J = torch.func.vmap(torch.func.jacrev(lambda p: field(t, p[None])[0][0]))(x)
    v = torch.randn(2, 3, *shape).double()
    along = torch.stack([torch.stack([torch.tensordot(J[b], v[k, b], len(shape)) for b in range(3)]) for k in range(2)])
    f, Jv = field(t, x, v)
    torch.testing.assert_close(Jv, along)
    torch.testing.assert_close(f, field(t, x)[0])
    torch.testing.assert_close(field(t, x, v[:, :1])[1], field(t, x, v[:, :1].expand(2, 3, *shape))[1])


@pytest.mark.parametrize("timing", ["concat", "concatsquash"])
def test_field_depends_on_time(timing: str) -> None:
    field, x = perturbed(dense_field(3, (8,), activation="tanh", timing=timing)), torch.randn(4, 3).double()
    at = [field(torch.tensor(t).double(), x)[0] for t in (0.0, 0.5, 1.0)]
    assert (at[0] - at[1]).abs().max() > 1e-3
    if timing == "concat":
        assert all(layer.weight_and_bias(torch.tensor(0.7))[0] is layer.layer.weight for layer in field.layers)


def test_rademacher_noise_is_exact_for_a_diagonal_field_and_gaussian_noise_is_not() -> None:
    a, x = torch.randn(4).double(), torch.randn(64, 4).double()
    for noise, exact in (("rademacher", True), ("gaussian", False)):
        flow = linear_flow(a.diag(), trace="hutchinson", noise=noise).train()
        errors = (flow(x)[1] - a.sum()).abs()
        assert (errors.max() < 1e-7) == exact


@pytest.mark.parametrize("noise", NOISES)
def test_hutchinson_is_unbiased(noise: str) -> None:
    A = torch.randn(5, 5).double()
    flow = linear_flow(A, trace="hutchinson", noise=noise, method="rk4").train()
    _, logdet = flow(torch.randn(1, 5).double().expand(20_000, 5))
    assert abs(stats.ttest_1samp(logdet.detach().numpy(), A.trace().item()).statistic) < 4
    S = (A + A.T) / 2
    expected = 2 * (S.square().sum() - (S.diagonal().square().sum() if noise == "rademacher" else 0))
    torch.testing.assert_close(logdet.var(), expected, rtol=0.1, atol=0)


@pytest.mark.parametrize("noise", NOISES)
def test_noise_has_identity_covariance_and_is_a_function_of_the_point(noise: str) -> None:
    directions = HutchinsonNoise(noise, number=2)
    chain, x = PointwiseNoiseChain([]), torch.randn(20_000, 3)
    chain.directions = directions
    for mode in (True, False):
        chain.train(mode)(x)
        v = directions(x)
        assert v.shape == (2, 20_000, 3)
        both = v.movedim(0, 1).flatten(1)
        torch.testing.assert_close(both.T @ both / 20_000, torch.eye(6), atol=0.05, rtol=0)
        assert both.mean(0).abs().max() < 0.03
    chain(x[:5].flip(0))
    assert torch.equal(directions(x[:5].flip(0)), v[:, :5].flip(1))
    chain.train()(x)
    assert not torch.equal(directions(x), directions(x))


# ---------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_adjoint_and_direct_gradients_agree(trace: str) -> None:
    x, gradients = torch.randn(6, 5).double(), []
    for gradient in ("direct", "adjoint"):
        torch.manual_seed(1)
        model = perturbed(FFJORD(VECTOR, hidden=(8,), trace=trace, gradient=gradient, training=None, **TIGHT)).train()
        point = x.clone().requires_grad_()
        torch.manual_seed(2)
        gradients.append(torch.autograd.grad(model.loss(point), [point, *model.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-7)


def test_adjoint_with_fixed_steps_is_close() -> None:
    x, gradients = torch.randn(6, 5).double(), []
    for gradient in ("direct", "adjoint"):
        torch.manual_seed(1)
        model = perturbed(FFJORD(VECTOR, hidden=(8,), trace="exact", gradient=gradient, steps=16)).train()
        gradients.append(torch.autograd.grad(model.loss(x), list(model.parameters())))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("gradient", ["direct", "adjoint"])
def test_energy_of_a_rotation_is_known_and_penalized_in_the_loss(gradient: str) -> None:
    """dx/dt = A x with A a rotation by 90 degrees: |f|^2 = |x|^2 is constant, |A|^2 = 2."""
    x, A = torch.randn(6, 2).double(), torch.tensor([[0.0, -1.0], [1.0, 0.0]]).double()
    flow = linear_flow(A, T=0.7, trace="exact", penalized=True, gradient=gradient).train()
    flow(x)
    torch.testing.assert_close(flow.energy, 0.7 * (x.square().sum(1) + 2))
    losses = []
    for penalty in (0.0, 0.5):
        torch.manual_seed(0)
        model = perturbed(FFJORD(PLANE, hidden=(8,), penalty=penalty)).train()
        block = next(m for m in model.modules() if isinstance(m, ODEFlow))
        torch.manual_seed(1)
        losses.append(model.loss(x).item())
    torch.manual_seed(1)
    model.log_prob(x)
    assert losses[1] == pytest.approx(losses[0] + 0.5 * block.energy.mean().item())
    model.loss(x)
    copy.deepcopy(model.eval())


# ------------------------------------------------------------------------------------- independence of the batch


@pytest.mark.parametrize("space", [PLANE, PICTURE, Space((1, 16, 16), 256)], ids=["plane", "digits", "beyond exact"])
def test_the_rest_of_the_batch_changes_a_likelihood_by_less_than_a_thousandth(space: Space) -> None:
    """In float32 at the default tolerances; beyond `EXACT_UP_TO` dimensions with an estimated trace."""
    torch.manual_seed(0)
    model = perturbed(FFJORD(space, hidden=(32,), channels=(8,), network="auto", blocks=2), 0.15).float()
    levels = space.levels
    draw = (lambda n: torch.randint(levels, (n, *space.shape))) if levels else (lambda n: 3 * torch.randn(n, 2))
    x = draw(8)
    with torch.no_grad():
        alone = torch.cat([model.log_prob(p[None]) for p in x])
        for others in (draw(1), draw(100), x.flip(0), draw(4) if levels else 100 * draw(4)):
            torch.testing.assert_close(model.log_prob(torch.cat((x, others)))[:8], alone, rtol=0, atol=1e-3)
    noises = [m for m in model.modules() if isinstance(m, HutchinsonNoise)]
    assert space.dims <= EXACT_UP_TO or any(noise.key is not None for noise in noises)


def test_estimated_trace_is_unbiased() -> None:
    torch.manual_seed(0)
    space = Space((1, 16, 16), 256)
    model = perturbed(FFJORD(space, channels=(4,), scales=1, method="rk4"), 0.1).float()
    x = torch.randint(256, (64, 1, 16, 16))
    with torch.no_grad():
        estimate = model.log_prob(x)
        for block in (m for m in model.modules() if isinstance(m, ODEFlow)):
            block.trace = "exact"
        errors = estimate - model.log_prob(x)
    assert errors.std() > 1e-3
    assert abs(stats.ttest_1samp(errors.numpy(), 0).statistic) < 4


def test_density_integrates_to_one() -> None:
    torch.manual_seed(0)
    model = perturbed(FFJORD(PLANE, hidden=(16, 16), blocks=2))
    side = torch.linspace(-15, 15, 301, dtype=torch.float64)
    with torch.no_grad():
        mass = model.log_prob(torch.cartesian_prod(side, side)).exp().sum() * 0.1**2
    assert mass.item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("network", ["auto", "mlp"])
def test_round_trip_of_images(network: str) -> None:
    model = perturbed(FFJORD(PICTURE, network=network, hidden=(16,), channels=(8,), **TIGHT), 0.2)
    z = torch.randn(4, 64).double()
    x = model.bijection.inverse(z)
    torch.testing.assert_close(model.bijection(x)[0], z, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------------- counts


def data(space: Space) -> Dataset:
    x = torch.randn(600, *space.shape)
    return Dataset(space, x, x, x)


def run() -> Run:
    return Run(suite="s", name="n", model="flows.ffjord", data="d")


@pytest.mark.parametrize(("method", "stages"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_evaluations_with_fixed_steps_are_counted(method: Method, stages: int) -> None:
    model = FFJORD(PLANE, method=method, steps=5, blocks=2).eval()
    measurements = nfe.measure(Evaluation(model, data(PLANE), run()))
    assert {name: m.value for name, m in measurements.items()} == {
        "nfe_sample": 2 * 5 * stages,
        "nfe_density": 2 * 5 * stages,
    }


def test_tighter_tolerance_needs_more_evaluations_and_the_backward_pass_is_not_counted() -> None:
    counts = []
    for tolerance in (1e-3, 1e-8):
        torch.manual_seed(0)
        options = {"rtol": tolerance, "atol": tolerance, "training": None, "gradient": "adjoint"}
        model = perturbed(FFJORD(PLANE, hidden=(16,), **options)).train()
        loss = model.loss(torch.randn(16, 2).double())
        counts.append(model.evaluations)
        loss.backward()
        assert model.evaluations == counts[-1]
    assert 0 < counts[0] < counts[1]


def test_models_without_an_ode_have_no_evaluations() -> None:
    assert nfe.measure(Evaluation(NICE(PLANE).eval(), data(PLANE), run())) == {}


def test_training_has_its_own_solver() -> None:
    model, x = FFJORD(PLANE, steps=3), torch.randn(16, 2)
    model.loss(x)
    assert model.evaluations == 3 * 4
    model.eval().log_prob(x)
    assert model.evaluations != 3 * 4
    assert set(FIXED) == {"euler", "midpoint", "rk4"}


# ----------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("gradient", ["direct", "adjoint"])
@pytest.mark.parametrize("rate", [1e200, math.inf, math.nan])
def test_solver_failure_raises_an_error(rate: float, gradient: str) -> None:
    flow, x = linear_flow(rate * torch.eye(2).double(), gradient=gradient), torch.randn(5, 2).double()
    for call in (flow, flow.eval(), flow.inverse):
        with pytest.raises(SolverFailed, match=r"the dopri5 solver of FFJORD stopped: .*; lower the learning rate"):
            call(x)
    assert issubclass(SolverFailed, Diverged)


def test_solver_failure_in_the_adjoint_raises_an_error() -> None:
    flow, x = linear_flow(torch.eye(2).double(), gradient="adjoint"), torch.randn(5, 2).double()
    y, _ = flow(x)
    with pytest.raises(SolverFailed, match="stopped"):
        y.backward(torch.full_like(y, math.nan))


def test_solver_stops_after_too_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genbench.models.flows.ffjord.MAX_STEPS", 3)
    with pytest.raises(SolverFailed, match="max_num_steps exceeded"):
        linear_flow(10 * torch.randn(4, 4).double())(torch.randn(5, 4).double())


@pytest.mark.parametrize("gradient", ["direct", "adjoint"])
def test_run_with_a_failed_solver_has_diverged(gradient: str, tmp_path: Path) -> None:
    options = {"training": None, "hidden": (4,), "gradient": gradient}
    settings = {"steps": 9, "batch": 32, "checks": 1, "optimizer": {"name": "sgd", "lr": 1e30}, "options": options}
    of = Run(suite="s", name="n", model="flows.ffjord:FFJORD", data="toys:moons", **settings)
    record = perform(of, work=str(tmp_path))
    assert record.status == "diverged"
    assert "solver of FFJORD stopped" in (record.error or "")


@pytest.mark.parametrize("options", [{"T": 0.0}, {"T": math.nan}, {"steps": 0}, {"rtol": 0.0}, {"atol": -1.0}])
def test_invalid_times_and_tolerances_are_rejected(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="T, steps, rtol and atol must be positive"):
        FFJORD(PLANE, **options)
