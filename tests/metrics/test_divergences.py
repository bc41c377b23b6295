"""Divergences from a known density, optimal transport distances and modes, against closed forms."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from genbench.dataset import Dataset, Space
from genbench.evaluation import Evaluation, Measurement
from genbench.metrics.divergences import (
    Grid,
    alpha,
    divergences,
    grid,
    jensen_shannon,
    kl,
    measure_extrapolated,
    reverse_kl,
)
from genbench.metrics.modes import modes
from genbench.registry import find
from genbench.suite import Run
from genbench.validation.models import InvalidModel
from tests.sampler import Sampler

EIGHT = find("datasets", "toys:eight_gaussians")()
EIGHT = dataclasses.replace(EIGHT, test=EIGHT.test[:4000])
NORMAL = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
POINTS = torch.randn(40_000, 2, generator=torch.Generator().manual_seed(1))
PLANE = Dataset(Space((2,)), POINTS[:30_000], POINTS[:10], POINTS[30_000:], log_prob=NORMAL.log_prob)
P = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
Q = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)


def evaluation_of(data: Dataset, draw: Callable[[int], Tensor]) -> Evaluation:
    return Evaluation(Sampler(data.space, draw), data, Run(suite="s", name="n", model="m", data="d"))


def measure(draw: Callable[[int], Tensor], data: Dataset = PLANE) -> dict[str, float]:
    return {name: m.value for name, m in divergences.measure(evaluation_of(data, draw)).items()}


# ------------------------------------------------------------------------------------------ discrete distributions


def test_alpha_divergences_tend_to_kl_and_reverse_kl():
    assert alpha(P, Q, 1 - 1e-6) == pytest.approx(kl(P, Q), rel=1e-4)
    assert alpha(P, Q, 1e-6) == pytest.approx(reverse_kl(P, Q), rel=1e-4)


def test_alpha_one_half_is_twice_the_squared_distance_of_roots():
    assert alpha(P, Q) == pytest.approx(2 * (P.sqrt() - Q.sqrt()).square().sum().item())


def test_alpha_two_is_half_of_chi_squared():
    assert alpha(P, Q, 2.0) == pytest.approx(((P - Q).square() / Q).sum().item() / 2)


def test_jensen_shannon_is_symmetric_and_log_2_for_disjoint_distributions():
    assert jensen_shannon(P, Q) == pytest.approx(jensen_shannon(Q, P))
    a = torch.tensor([1 - 1e-12, 1e-12], dtype=torch.float64)
    b = a.flip(0)
    assert jensen_shannon(a, b) == pytest.approx(math.log(2), rel=1e-6)


# ------------------------------------------------------------------------------------------------------- the grid


@pytest.mark.parametrize("name", ["eight_gaussians", "checkerboard", "circles", "rings", "pinwheel", "moons"])
def test_the_truth_sums_to_one_over_cells_and_matches_the_data(name):
    data = find("datasets", f"toys:{name}")()
    truth_grid = grid(data)
    assert truth_grid.p[:-1].sum().item() == pytest.approx(1, abs=1e-4)
    spread = (truth_grid.p * (1 - truth_grid.p) / len(data.test)).sqrt()
    assert (truth_grid.frequencies(data.test) - truth_grid.p).abs().sum() < 1.5 * spread.sum()


def test_edges_of_the_checkerboard_are_edges_of_cells():
    p = grid(find("datasets", "toys:checkerboard")()).p
    assert (p < 1e-12).sum() == 513
    assert torch.allclose(p[p > 1e-12], torch.tensor(0.25**2 / 32).double(), rtol=1e-9)


def test_points_outside_the_grid_count_in_the_last_cell():
    truth_grid = Grid(1, 8, torch.full((65,), 1 / 65).double())
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, -1.01], [-1.0, -1.0]]).double()
    frequencies = truth_grid.frequencies(x)
    assert (frequencies[-1], frequencies[0], frequencies[4 * 8 + 4]) == (0.5, 0.25, 0.25)


def test_mixed_with_the_uniform_distribution_both_sum_to_one():
    truth_grid = grid(EIGHT)
    masses: list[float] = []

    def record_masses(p: Tensor, q: Tensor) -> float:
        masses.extend((p.sum().item(), q.sum().item()))
        return min(p.min().item(), q.min().item())

    least = truth_grid.distance(record_masses, EIGHT.test.double())
    assert masses == pytest.approx([1, 1], abs=1e-9)
    assert least == pytest.approx(0.001 / len(truth_grid.p), rel=1e-3)


def test_w1_is_the_optimal_assignment():
    generator = torch.Generator().manual_seed(0)
    p = torch.zeros(65).double()
    p[torch.randperm(64, generator=generator)[:20]] = 1 / 20
    truth_grid = Grid(1, 8, p)
    x = truth_grid.centers()[torch.randperm(64, generator=generator)[:20]] + torch.tensor([3.0, 0.5])
    cost = torch.cdist(x, truth_grid.centers()[p[:-1] > 0])
    rows, columns = linear_sum_assignment(cost.numpy())
    assert truth_grid.w1(x) == pytest.approx(cost[rows, columns].mean().item(), rel=1e-6)


# -------------------------------------------------------------------------------------------------------- samples


def test_divergences_of_samples_from_the_truth_are_zero_within_their_errors():
    measurements = divergences.measure(evaluation_of(PLANE, lambda n: torch.randn(n, 2)))
    assert {m.kind for m in measurements.values()} == {"estimate"}
    for name in ("kl_data_model", "kl_model_data", "jensen_shannon", "alpha_divergence"):
        assert abs(measurements[name].value) < 4 * measurements[name].stderr + 0.01
    for name in ("total_variation", "w1"):
        value, floor = measurements[name], measurements[f"{name}_floor"]
        assert abs(value.value - floor.value) < 4 * max(value.stderr, floor.stderr)


def test_divergences_of_a_wider_normal_match_closed_forms():
    values = measure(lambda n: 1.5 * torch.randn(n, 2))
    s = 1.5**2
    for name, truth in {"kl_data_model": math.log(s) + 1 / s - 1, "kl_model_data": s - 1 - math.log(s)}.items():
        assert 0.86 * truth < values[name] < 1.03 * truth
    overlap = 2 * 1.5 / (1 + s)  # of the square roots, in two dimensions
    assert 0.9 * 4 * (1 - overlap) < values["alpha_divergence"] < 1.03 * 4 * (1 - overlap)
    r = 2 * math.log(s) / (1 - 1 / s)  # squared radius within which the truth is denser
    assert values["total_variation"] == pytest.approx(math.exp(-r / 2 / s) - math.exp(-r / 2), rel=0.05)
    assert values["w1"] == pytest.approx(0.5 * math.sqrt(math.pi / 2), rel=0.06)  # 0.5 E|x|, radially


def test_w1_of_a_shift_is_its_length():
    assert measure(lambda n: torch.randn(n, 2) + torch.tensor([0.6, 0.8]))["w1"] == pytest.approx(1, rel=0.02)


def test_a_missing_mode_raises_one_kl_and_points_between_modes_the_other():
    data = EIGHT
    seven = data.train[(data.train - data.modes.centers[0]).norm(dim=1) > 1.4]
    missing = measure(lambda n: seven[torch.randint(len(seven), (n,))], data)
    spread = measure(lambda n: 2.2 * torch.randn(n, 2), data)
    assert missing["kl_data_model"] > 4 * missing["kl_model_data"]
    assert spread["kl_model_data"] > 1.5 * spread["kl_data_model"]


def test_kl_with_a_missing_mode_is_an_underestimate_and_impl_says_so():
    """One of eight modes has weight w: KL(truth, model) = log(1 / 8w) / 8 + 7/8 log(7 / 8 / (1 - w)) in the limit."""
    weights = torch.tensor([1e-7, *[(1 - 1e-7) / 7] * 7], dtype=torch.float64)
    truth = (torch.full((8,), 1 / 8).double() * (1 / (8 * weights)).log()).sum().item()

    generator = torch.Generator().manual_seed(0)
    mode = torch.multinomial(weights, 20_000, replacement=True, generator=generator)
    noise = torch.randn(20_000, 2, generator=generator, dtype=torch.float64)
    x = EIGHT.modes.centers[mode].double() + EIGHT.modes.sigma * noise
    kl = measure_extrapolated(grid(EIGHT), x, partial(Measurement, kind="estimate"))["kl_data_model"]
    assert truth == pytest.approx(1.64, abs=0.005)
    assert kl.value == pytest.approx(0.95, abs=0.02)
    assert kl.impl.endswith("too low where a mode is missing")


def test_w1_between_centers_is_off_by_less_than_a_diagonal_in_either_direction():
    """For two point masses, the distance between the centers of their cells may be below or above the true one."""
    truth_grid = Grid(1, 8, torch.zeros(65).double().index_fill_(0, torch.tensor([0]), 1.0))  # the cell [-1, -.75)^2
    for true, model, below in ((-0.76, -0.74, False), (-0.99, 0.99, True)):
        distance, w1 = (model - true) * math.sqrt(2), truth_grid.w1(torch.full((1, 2), model).double())
        assert (w1 < distance) is below
        assert abs(w1 - distance) < 0.25 * math.sqrt(2)


def test_samples_that_are_not_finite_are_an_error():
    with pytest.raises(InvalidModel, match="not finite"):
        measure(lambda n: torch.full((n, 2), math.nan))


def test_data_without_a_known_density_have_no_divergences():
    unknown = Dataset(PLANE.space, POINTS, POINTS, POINTS)
    assert divergences.measure(evaluation_of(unknown, lambda n: torch.randn(n, 2))) == {}
    assert modes.measure(evaluation_of(unknown, lambda n: torch.randn(n, 2))) == {}


# ---------------------------------------------------------------------------------------------------------- modes


def test_data_cover_every_mode_with_the_quality_of_a_normal():
    measurements = modes.measure(evaluation_of(EIGHT, lambda n: EIGHT.train[torch.randperm(len(EIGHT.train))[:n]]))
    assert measurements["modes_covered"].value == 8
    quality = measurements["high_quality"]
    assert quality.value == pytest.approx(1 - math.exp(-4.5), abs=4 * quality.stderr)


def test_a_stray_sample_covers_no_mode():
    centers = EIGHT.modes.centers.float()

    def draw(n: int) -> Tensor:
        return torch.cat((centers, centers[:3].repeat(n, 1)))[:n]

    measurements = modes.measure(evaluation_of(EIGHT, draw))
    assert (measurements["modes_covered"].value, measurements["high_quality"].value) == (3, 1)
