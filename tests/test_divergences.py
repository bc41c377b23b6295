"""Divergences from a known truth, distances by optimal transport and modes, against closed forms."""

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
from genbench.metrics.divergences import Grid, alpha, divergences, grid, jensen_shannon, kl, reverse_kl, smooth
from genbench.metrics.modes import modes
from genbench.registry import find
from genbench.suite import Run
from genbench.validation.models import InvalidModel
from tests.drawn import Drawn

EIGHT = find("datasets", "toys:eight_gaussians")()
EIGHT = dataclasses.replace(EIGHT, test=EIGHT.test[:4000])
NORMAL = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
POINTS = torch.randn(40_000, 2, generator=torch.Generator().manual_seed(1))
PLANE = Dataset(Space((2,)), POINTS[:30_000], POINTS[:10], POINTS[30_000:], log_prob=NORMAL.log_prob)
P = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
Q = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)


def evaluated(data: Dataset, draw: Callable[[int], Tensor]) -> Evaluation:
    return Evaluation(Drawn(data.space, draw), data, Run(suite="s", name="n", model="m", data="d"))


def measured(draw: Callable[[int], Tensor], data: Dataset = PLANE) -> dict[str, float]:
    return {name: m.value for name, m in divergences.measure(evaluated(data, draw)).items()}


# ----------------------------------------------------------------------------------------------------- of shares


def test_kl_of_the_alpha_family_is_its_limit_at_either_end():
    assert alpha(P, Q, 1 - 1e-6) == pytest.approx(kl(P, Q), rel=1e-4)
    assert alpha(P, Q, 1e-6) == pytest.approx(reverse_kl(P, Q), rel=1e-4)


def test_alpha_of_a_half_is_twice_the_squared_distance_of_roots():
    assert alpha(P, Q) == pytest.approx(2 * (P.sqrt() - Q.sqrt()).square().sum().item())


def test_alpha_of_two_is_half_of_chi_squared():
    assert alpha(P, Q, 2.0) == pytest.approx(((P - Q).square() / Q).sum().item() / 2)


def test_jensen_shannon_is_symmetric_and_log_2_of_laws_apart():
    assert jensen_shannon(P, Q) == pytest.approx(jensen_shannon(Q, P))
    a = torch.tensor([1 - 1e-12, 1e-12], dtype=torch.float64)
    b = a.flip(0)
    assert jensen_shannon(a, b) == pytest.approx(math.log(2), rel=1e-6)


# ------------------------------------------------------------------------------------------------------- the grid


@pytest.mark.parametrize("name", ["eight_gaussians", "checkerboard", "circles", "rings", "pinwheel", "moons"])
def test_the_truth_over_all_cells_is_one_and_is_what_data_have(name):
    data = find("datasets", f"toys:{name}")()
    law = grid(data)
    assert law.p[:-1].sum().item() == pytest.approx(1, abs=1e-4)
    spread = (law.p * (1 - law.p) / len(data.test)).sqrt()
    assert (law.shares(data.test) - law.p).abs().sum() < 1.5 * spread.sum()


def test_squares_of_the_checkerboard_fall_between_cells():
    p = grid(find("datasets", "toys:checkerboard")()).p
    assert (p < 1e-12).sum() == 513
    assert torch.allclose(p[p > 1e-12], torch.tensor(0.25**2 / 32).double(), rtol=1e-9)


def test_points_outside_are_in_the_last_cell():
    law = Grid(1, 8, torch.full((65,), 1 / 65).double())
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, -1.01], [-1.0, -1.0]]).double()
    shares = law.shares(x)
    assert (shares[-1], shares[0], shares[4 * 8 + 4]) == (0.5, 0.25, 0.25)


def test_both_laws_have_mass_one_when_a_point_in_a_thousand_is_in_any_cell():
    law = grid(EIGHT)
    masses: list[float] = []

    def noted(p: Tensor, q: Tensor) -> float:
        masses.extend((p.sum().item(), q.sum().item()))
        return min(p.min().item(), q.min().item())

    least = law.distance(noted, EIGHT.test.double())
    assert masses == pytest.approx([1, 1], abs=1e-9)
    assert least == pytest.approx(0.001 / len(law.p), rel=1e-3)


def test_w1_is_the_best_assignment():
    generator = torch.Generator().manual_seed(0)
    p = torch.zeros(65).double()
    p[torch.randperm(64, generator=generator)[:20]] = 1 / 20
    law = Grid(1, 8, p)
    x = law.middles()[torch.randperm(64, generator=generator)[:20]] + torch.tensor([3.0, 0.5])
    cost = torch.cdist(x, law.middles()[p[:-1] > 0])
    rows, columns = linear_sum_assignment(cost.numpy())
    assert law.w1(x) == pytest.approx(cost[rows, columns].mean().item(), rel=1e-6)


# ----------------------------------------------------------------------------------------------------- of samples


def test_samples_of_the_truth_are_at_nothing_from_it_but_for_chance():
    measurements = divergences.measure(evaluated(PLANE, lambda n: torch.randn(n, 2)))
    assert {m.kind for m in measurements.values()} == {"estimate"}
    for name in ("kl_data_model", "kl_model_data", "jensen_shannon", "alpha_divergence"):
        assert abs(measurements[name].value) < 4 * measurements[name].stderr + 0.01
    for name in ("total_variation", "w1"):
        value, floor = measurements[name], measurements[f"{name}_floor"]
        assert abs(value.value - floor.value) < 4 * max(value.stderr, floor.stderr)


def test_a_wider_normal_is_at_its_closed_forms():
    found = measured(lambda n: 1.5 * torch.randn(n, 2))
    s = 1.5**2
    for name, truth in {"kl_data_model": math.log(s) + 1 / s - 1, "kl_model_data": s - 1 - math.log(s)}.items():
        assert 0.86 * truth < found[name] < 1.03 * truth
    overlap = 2 * 1.5 / (1 + s)  # of the roots, in two dimensions
    assert 0.9 * 4 * (1 - overlap) < found["alpha_divergence"] < 1.03 * 4 * (1 - overlap)
    r = 2 * math.log(s) / (1 - 1 / s)  # squared radius inside which the truth is the denser
    assert found["total_variation"] == pytest.approx(math.exp(-r / 2 / s) - math.exp(-r / 2), rel=0.05)
    assert found["w1"] == pytest.approx(0.5 * math.sqrt(math.pi / 2), rel=0.06)  # 0.5 E|x|, radially


def test_w1_of_a_shift_is_its_length():
    assert measured(lambda n: torch.randn(n, 2) + torch.tensor([0.6, 0.8]))["w1"] == pytest.approx(1, rel=0.02)


def test_a_mode_that_is_missing_costs_the_one_kl_and_points_between_modes_the_other():
    data = EIGHT
    seven = data.train[(data.train - data.modes.centers[0]).norm(dim=1) > 1.4]
    missing = measured(lambda n: seven[torch.randint(len(seven), (n,))], data)
    spread = measured(lambda n: 2.2 * torch.randn(n, 2), data)
    assert missing["kl_data_model"] > 4 * missing["kl_model_data"]
    assert spread["kl_model_data"] > 1.5 * spread["kl_data_model"]


def test_kl_of_a_mode_that_is_missing_is_an_underestimate_and_says_so():
    """One mode of eight with a share w: KL(truth, model) = log(1 / 8w) / 8 + 7/8 log(7 / 8 / (1 - w)), in the limit."""
    share = torch.tensor([1e-7, *[(1 - 1e-7) / 7] * 7], dtype=torch.float64)
    truth = (torch.full((8,), 1 / 8).double() * (1 / (8 * share)).log()).sum().item()

    generator = torch.Generator().manual_seed(0)
    mode = torch.multinomial(share, 20_000, replacement=True, generator=generator)
    noise = torch.randn(20_000, 2, generator=generator, dtype=torch.float64)
    x = EIGHT.modes.centers[mode].double() + EIGHT.modes.sigma * noise
    kl = smooth(grid(EIGHT), x, partial(Measurement, kind="estimate"))["kl_data_model"]
    assert truth == pytest.approx(1.64, abs=0.005)
    assert kl.value == pytest.approx(0.95, abs=0.02)
    assert kl.impl.endswith("too low where a mode is missing")


def test_w1_between_middles_is_off_by_less_than_a_diagonal_and_to_either_side():
    """Two point masses, of which one is the truth: the distance between the middles of their cells is no bound."""
    law = Grid(1, 8, torch.zeros(65).double().index_fill_(0, torch.tensor([0]), 1.0))  # the cell [-1, -.75)^2
    for true, model, below in ((-0.76, -0.74, False), (-0.99, 0.99, True)):
        distance, w1 = (model - true) * math.sqrt(2), law.w1(torch.full((1, 2), model).double())
        assert (w1 < distance) is below
        assert abs(w1 - distance) < 0.25 * math.sqrt(2)


def test_a_sample_that_is_no_number_is_an_error():
    with pytest.raises(InvalidModel, match="not finite"):
        measured(lambda n: torch.full((n, 2), math.nan))


def test_data_of_no_known_density_have_no_divergences():
    unknown = Dataset(PLANE.space, POINTS, POINTS, POINTS)
    assert divergences.measure(evaluated(unknown, lambda n: torch.randn(n, 2))) == {}
    assert modes.measure(evaluated(unknown, lambda n: torch.randn(n, 2))) == {}


# ---------------------------------------------------------------------------------------------------------- modes


def test_data_cover_every_mode_with_the_quality_of_a_normal():
    found = modes.measure(evaluated(EIGHT, lambda n: EIGHT.train[torch.randperm(len(EIGHT.train))[:n]]))
    assert found["modes_covered"].value == 8
    quality = found["high_quality"]
    assert quality.value == pytest.approx(1 - math.exp(-4.5), abs=4 * quality.stderr)


def test_a_stray_sample_covers_no_mode():
    centers = EIGHT.modes.centers.float()

    def draw(n: int) -> Tensor:
        return torch.cat((centers, centers[:3].repeat(n, 1)))[:n]

    found = modes.measure(evaluated(EIGHT, draw))
    assert (found["modes_covered"].value, found["high_quality"].value) == (3, 1)
