"""FID, KID, Inception score, precision and recall against closed forms; the digits classifier; memorization."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import mannwhitneyu
from torch import Tensor

from genbench.dataset import Dataset, Space
from genbench.errors import UsageError
from genbench.evaluation import Evaluation
from genbench.metrics import classifier, features
from genbench.metrics.diversity import diversity
from genbench.metrics.estimates import (
    extrapolate_n_to_inf,
    half_sample_jackknife,
    jackknife_stderr,
    mean_stderr,
    permutation_null,
)
from genbench.metrics.fidelity import fid, fidelity, inception, inception_score, kid, precision_recall
from genbench.metrics.memorisation import data_copying, memorisation, z_score
from genbench.metrics.samples import LINE, MAX_PIXELS, grid, histogram
from genbench.records.artifacts import Work
from genbench.registry import find
from genbench.suite import Run
from tests.sampler import Sampler

DIGITS = find("datasets", "digits")()


def evaluation_of(data: Dataset, draw: Callable[[int], Tensor], name: str = "digits") -> Evaluation:
    return Evaluation(Sampler(data.space, draw), data, Run(suite="s", name="n", model="m", data=name))


def whitened(n: int, d: int) -> Tensor:
    """Return x (n, d) with sample mean 0 and sample covariance I."""
    x = torch.randn(n, d, dtype=torch.float64)
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (n - 1)).T)


def resample(x: Tensor) -> Callable[[int], Tensor]:
    return lambda n: x[torch.randint(len(x), (n,))]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("data")
        patch.setenv("GENBENCH_DATA", str(root))
        yield root / "feature-nets"


# ----------------------------------------------------------------------------------------------------------- FID


def test_fid_of_commuting_covariances_is_the_distance_of_their_roots():
    a, b, shift = torch.tensor([4.0, 1.0, 0.25]), torch.tensor([1.0, 9.0, 0.01]), torch.tensor([1.0, -2.0, 0.5])
    x, y = whitened(50, 3) * a.sqrt(), whitened(80, 3) * b.sqrt() + shift
    assert fid(x, y) == pytest.approx((shift.square() + (a.sqrt() - b.sqrt()).square()).sum().item(), rel=1e-6)


def test_fid_between_a_set_and_itself_is_zero():
    assert fid(x := torch.randn(200, 16).double(), x) == pytest.approx(0, abs=1e-9)


def test_fid_agrees_with_a_matrix_square_root():
    x, y = (torch.randn(300, 8).double() @ torch.randn(8, 8).double() + i for i in range(2))
    a, b = (np.cov(z.numpy(), rowvar=False) for z in (x, y))
    direct = (x.mean(0) - y.mean(0)).square().sum().item() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert fid(x, y) == pytest.approx(direct, rel=1e-3)


def test_fid_of_two_samples_has_its_known_bias_and_extrapolated_none():
    roots, n, m = torch.tensor([1.0, 2.0, 0.5, 0.1]).double(), 200, 400
    values = []
    for _ in range(150):
        x, y = torch.randn(n, 4).double() * roots, torch.randn(m, 4).double() * roots
        value = fid(x, y)
        values.append((value, extrapolate_n_to_inf(value, half_sample_jackknife(fid, x, y, draws=4))))
    variances = roots.square()
    rows, columns = variances[:, None], variances
    spread = (rows * columns * (1 + torch.eye(4)) / (rows + columns)).sum() / 2
    bias = ((1 / n + 1 / m) * (variances.sum() + spread)).item()
    mean, extrapolated = torch.tensor(values).mean(0).tolist()
    assert mean == pytest.approx(bias, rel=0.1)
    assert abs(extrapolated) < 0.25 * bias


# ----------------------------------------------------------------------------------------------------------- KID


def test_kid_of_degree_one_is_the_unbiased_squared_difference_of_means():
    x, y = torch.randn(60, 5).double(), torch.randn(60, 5).double() + 0.3

    def pairs(z: Tensor) -> Tensor:
        return (z.sum(0).square().sum() - z.square().sum()) / (len(z) * (len(z) - 1))

    unbiased = pairs(x) + pairs(y) - 2 * x.mean(0) @ y.mean(0)
    assert kid(x, y, degree=1, coef0=0) == pytest.approx(unbiased.item() / 5, rel=1e-9)


def test_kid_is_the_mean_over_pairs_of_a_cubic_kernel():
    x, y = torch.randn(40, 5).double(), torch.randn(40, 5).double() * 1.5

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / 5 + 1) ** 3

    def off_diagonal_mean(k: Tensor) -> Tensor:
        return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))

    direct = off_diagonal_mean(kernel(x, x)) + off_diagonal_mean(kernel(y, y)) - 2 * kernel(x, y).mean()
    assert kid(x, y) == pytest.approx(direct.item(), rel=1e-9)


def test_kid_of_equal_distributions_is_zero_on_average_and_often_negative():
    values = torch.tensor([kid(torch.randn(30, 4).double(), torch.randn(30, 4).double()) for _ in range(100)])
    assert abs(values.mean()) < 4 * values.std() / 10
    assert 30 < (values < 0).sum() < 90


# ---------------------------------------------------------------------------------- Inception score, precision, recall


def test_inception_score_is_the_number_of_classes_if_certain_and_balanced_and_one_for_constants():
    certain = 100 * torch.eye(7).double().repeat(30, 1)
    assert inception_score(certain) == pytest.approx(7, rel=1e-6)
    assert inception_score(torch.randn(1, 7).double().expand(50, 7)) == pytest.approx(1, rel=1e-6)


def test_precision_and_recall_are_one_for_equal_sets_and_zero_for_distant_ones():
    x = torch.randn(100, 4)
    assert precision_recall(real=x, fake=x) == (1, 1)
    assert precision_recall(real=x, fake=x + 100) == (0, 0)


def test_a_collapsed_generator_has_precision_and_no_recall():
    real = torch.randn(200, 4)
    precision, recall = precision_recall(real=real, fake=real[:1] + 1e-3 * torch.randn(200, 4))
    assert precision == 1
    assert recall < 0.02


def test_a_generator_that_is_too_wide_has_recall_and_no_precision():
    precision, recall = precision_recall(real=torch.randn(200, 4), fake=4 * torch.randn(200, 4))
    assert recall > 0.9
    assert precision < 0.2


def test_precision_is_the_proportion_within_the_third_neighbors_of_data():
    real, fake = torch.randn(60, 3), torch.randn(70, 3) + 0.8

    def within(reference: Tensor, x: Tensor) -> float:
        radius = torch.stack([(reference - p).norm(dim=1).sort().values[3] for p in reference])
        return torch.stack([((reference - p).norm(dim=1) <= radius).any() for p in x]).double().mean().item()

    assert precision_recall(real, fake) == pytest.approx((within(real, fake), within(fake, real)), abs=1e-6)


# ------------------------------------------------------------------------------------------------------ estimates


def test_the_half_sample_jackknife_gives_the_standard_error_of_a_mean():
    x = torch.randn(400)
    halves = half_sample_jackknife(lambda half: half.mean().item(), x, draws=400)
    assert jackknife_stderr(halves) == pytest.approx(mean_stderr(x), rel=0.15)


def test_permutations_keep_the_sizes_of_the_samples_and_all_of_their_points():
    def check(a: Tensor, b: Tensor) -> float:
        assert sorted(torch.cat((a, b)).tolist()) == list(range(12))
        return len(a) + 100 * len(b)

    assert (permutation_null(check, torch.arange(5), torch.arange(5, 12)) == 705).all()


# ---------------------------------------------------------------------------------------------------- feature nets


def test_pixels_are_rounded_and_span_0_to_255():
    levels = torch.arange(17, dtype=torch.uint8).view(17, 1, 1, 1)
    pixels = features.pixels(levels, Space((1, 1, 1), 17)).flatten()
    assert pixels.tolist() == [round(255 * i / 16) for i in range(17)]
    every = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1)
    assert torch.equal(features.pixels(every, Space((1, 1, 1), 256)), every)
    assert features.pixels(torch.tensor([[[[0, 1]]]]), Space((1, 1, 2), 2)).flatten().tolist() == [0, 255]


def test_the_classifier_depends_on_the_data_only(monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", 3)
    x, y = features.pixels(DIGITS.train, DIGITS.space), DIGITS.labels[0]
    threads, digests = torch.get_num_threads(), set()
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        torch.set_num_threads(seed)
        digests.add(classifier.digest(classifier.fit(x, y, 10)))
        assert torch.equal(torch.get_rng_state(), state)
    torch.set_num_threads(threads)
    assert len(digests) == 1


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (1, 4, 4)])
def test_the_classifier_has_64_features_for_images_of_any_size(shape):
    h, logits = classifier.Classifier(shape, 7)(torch.zeros(3, *shape, dtype=torch.uint8))
    assert (h.shape, logits.shape) == ((3, 64), (3, 7))


def test_the_classifier_of_the_digits_is_accurate_saved_and_named(folder, monkeypatch):
    net = features.in_domain("digits", DIGITS)
    correct = int(net.about.split()[-3])
    assert correct >= 174
    assert net.name == "digits-cnn"
    assert len(list(folder.glob("*.pt"))) == 1
    monkeypatch.setattr(classifier, "fit", None)
    features.trained_classifier.cache_clear()
    assert features.in_domain("digits", DIGITS).about == net.about


def test_the_classifier_is_trained_again_if_it_cannot_be_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", 1)
    (tmp_path / "file").touch()
    monkeypatch.setenv("GENBENCH_DATA", str(tmp_path / "file"))
    x, y = features.pixels(DIGITS.train, DIGITS.space), DIGITS.labels[0]
    assert classifier.digest(classifier.classifier(x, y)) == classifier.digest(classifier.fit(x, y, 10))


@pytest.mark.parametrize("damage", [lambda b: b[:100], lambda b: b[:-83] + bytes([b[-83] ^ 1]) + b[-82:]])
def test_a_damaged_classifier_is_set_aside_and_trained_again(damage, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(classifier, "STEPS", 1)
    monkeypatch.setenv("GENBENCH_DATA", str(tmp_path))
    x, y = features.pixels(DIGITS.train, DIGITS.space), DIGITS.labels[0]
    first = classifier.classifier(x, y)
    (path,) = (tmp_path / "feature-nets").glob("*.pt")
    path.write_bytes(damage(path.read_bytes()))
    assert classifier.digest(classifier.classifier(x, y)) == classifier.digest(first)
    assert capsys.readouterr().err.startswith(f"genbench: {path} is damaged: ")
    assert path.exists()
    assert path.with_name(f"{path.name}.damaged").exists()


def test_a_classifier_of_other_images_is_set_aside_and_trained_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(classifier, "STEPS", 1)
    monkeypatch.setenv("GENBENCH_DATA", str(tmp_path))
    x, y = features.pixels(DIGITS.train, DIGITS.space), DIGITS.labels[0]
    first = classifier.classifier(x, y)
    (path,) = (tmp_path / "feature-nets").glob("*.pt")
    other = classifier.Classifier((1, 28, 28), 10)
    Work(path.parent).save(path.name, classifier.to_bytes(other))
    assert classifier.digest(classifier.classifier(x, y)) == classifier.digest(first)
    assert f"{path} is damaged: RuntimeError: " in capsys.readouterr().err


def test_data_without_labels_or_in_color_have_no_classifier():
    assert features.in_domain("photos", find("datasets", "photos")()) is None
    assert fidelity.measure(evaluation_of(find("datasets", "toys:moons")(), lambda n: torch.randn(n, 2))) == {}


# -------------------------------------------------------------------------------------------------------- the metric


def test_fid_of_new_digits_is_at_the_floor_and_that_of_fewer_classes_or_noise_is_not():
    everything = torch.cat((DIGITS.train, DIGITS.validation, DIGITS.test))
    some = DIGITS.train[DIGITS.labels[0] < 5]
    new, half = (fidelity.measure(evaluation_of(DIGITS, resample(x))) for x in (everything, some))
    noise = fidelity.measure(evaluation_of(DIGITS, lambda n: torch.randint(17, (n, 1, 8, 8)).byte()))
    assert {key.partition("[")[2] for key in new} == {"digits-cnn]"}
    value, floor, extrapolated = (new[f"{key}[digits-cnn]"].value for key in ("fid", "fid_floor", "fid_infinity"))
    assert 0.4 * floor < value < 1.6 * floor
    assert abs(extrapolated) < floor
    assert floor < half["fid[digits-cnn]"].value / 5 < noise["fid[digits-cnn]"].value / 5
    assert half["precision[digits-cnn]"].value > 0.8 > 0.6 > half["recall[digits-cnn]"].value
    assert half["inception_score[digits-cnn]"].value == pytest.approx(5, abs=0.5)
    assert new["inception_score[digits-cnn]"].value == pytest.approx(9.7, abs=0.3)
    assert new["fid[digits-cnn]"].impl.endswith("180 points of test")
    assert new["fid[digits-cnn]"].n == 1000
    floors = {measurements["fid_floor[digits-cnn]"] for measurements in (new, half, noise)}
    assert len(floors) == 1, "the floor depends on data only"
    assert floors.pop().value == pytest.approx(8, abs=2)


def test_samples_are_compared_with_the_test_split_and_not_the_validation_split():
    """Another validation split changes nothing; another test split does."""
    draw = resample(DIGITS.train)
    zeros = torch.zeros_like(DIGITS.validation)
    original, other_validation, other_test = (
        fidelity.measure(evaluation_of(data, draw))["fid[digits-cnn]"].value
        for data in (DIGITS, replace(DIGITS, validation=zeros), replace(DIGITS, test=zeros))
    )
    assert original == other_validation
    assert other_test > 10 * original


def test_samples_do_not_depend_on_who_needs_them_first_nor_change_the_generators():
    plane = Dataset(Space((2,)), *torch.rand(3, 10, 2))
    one, other = (evaluation_of(plane, lambda n: torch.rand(n, 2)) for _ in range(2))
    state = torch.get_rng_state()
    many = one.sampled(1500)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(many[:700], other.sampled(700))
    assert torch.equal(many, other.sampled(1500))
    assert not torch.equal(many[:500], many[1000:])


# -------------------------------------------------------------------------------------------------------- Inception


def test_without_a_network_the_error_says_which_weights_go_where(folder, monkeypatch):
    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(UsageError) as error:
        inception.measure(evaluation_of(DIGITS, lambda n: DIGITS.train[:n]))
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"the weights of Inception-v3 are not in {folder} and could not be downloaded")
    assert "weights-inception-2015-12-05-6726825d.pth" in message
    assert "GENBENCH_DATA" in message


def test_weights_other_than_the_published_are_refused(tmp_path):
    path = tmp_path / "weights-inception-2015-12-05-6726825d.pth"
    path.write_bytes(b"something else")
    with pytest.raises(UsageError, match="is damaged"):
        features.inception_net(path)
    assert not path.exists()  # it was renamed in the same folder


@pytest.mark.slow
def test_inception_loads_and_repeats_one_channel(tmp_path, monkeypatch):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with monkeypatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *a, **k: {})
        net = FeatureExtractorInceptionV3("inception", ["2048"])
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    path = tmp_path / "weights.pth"
    monkeypatch.setattr(features, "INCEPTION_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    net = features.inception_net(path)
    x = torch.randint(256, (2, 1, 8, 8)).byte()
    h, logits = net(x, torch.device("cpu"))
    assert (h.shape, logits.shape) == ((2, 2048), (2, 1008))
    assert torch.equal(h, net(x.repeat(1, 3, 1, 1), torch.device("cpu"))[0])


# --------------------------------------------------------------------------------------------------------- diversity


def diversity_of(draw: Callable[[int], Tensor], data: Dataset) -> tuple[float | None, str | None]:
    measurement = diversity.measure(evaluation_of(data, draw))["diversity"]
    return measurement.value, measurement.verdict


@pytest.mark.parametrize("part", [1.0, 0.5, 0.125])
def test_diversity_is_the_part_of_the_data_that_is_covered(part):
    line = Dataset(Space((1,)), *torch.rand(3, 1000, 1))
    values = [diversity_of(lambda n: torch.rand(n, 1) * part, line) for _ in range(20)]
    assert np.mean([value for value, _ in values]) == pytest.approx(part, rel=0.1)
    assert {verdict for _, verdict in values} == {None}


def test_a_constant_and_a_hundredth_of_the_data_are_collapsed_and_wider_samples_are_not():
    plane = Dataset(Space((2,)), *torch.randn(3, 1000, 2))
    assert diversity_of(lambda n: torch.ones(n, 2), plane) == (pytest.approx(0.001, rel=0.01), "collapsed")
    assert diversity_of(lambda n: 0.1 * torch.randn(n, 2), plane) == (pytest.approx(0.01, rel=0.1), "collapsed")
    value, verdict = diversity_of(lambda n: 2 * torch.randn(n, 2), plane)
    assert (value > 3, verdict) == (True, None)


def test_new_digits_are_not_collapsed_and_a_single_digit_is():
    assert diversity_of(resample(DIGITS.test), DIGITS)[1] is None
    value, verdict = diversity_of(lambda n: DIGITS.train[:1].expand(n, -1, -1, -1), DIGITS)
    assert (value, verdict) == (pytest.approx(0.001, rel=0.02), "collapsed")


# ------------------------------------------------------------------------------------------------------ memorization


def test_the_z_score_is_that_of_the_mann_whitney_test():
    a, b = torch.rand(40), torch.rand(30) + 0.2
    two_sided = mannwhitneyu(a, b, use_continuity=False, method="asymptotic").pvalue
    assert 2 * torch.special.ndtr(torch.tensor(z_score(a, b))).item() == pytest.approx(two_sided, rel=1e-4)


def test_data_copying_weights_cells_by_their_number_of_test_points() -> None:
    """A Non-Parametric Test to Detect Data-Copying (2020), section 3; cells with fewer than five of either are out."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([12, 40, 30, 4]), torch.tensor([30, 10, 4, 50])  # of samples and test points in each cell
    cells, new_cells = (torch.arange(4).repeat_interleave(n) for n in counts)
    near, new = (torch.rand(len(c), generator=generator) + 0.3 * c for c in (cells, new_cells))
    near[cells == 1] -= 0.2
    first, second = (z_score(near[cells == cell], new[new_cells == cell]) for cell in (0, 1))
    assert abs(first - second) > 1
    assert data_copying(near, new, cells, new_cells) == pytest.approx((30 * first + 10 * second) / 40)
    assert data_copying(near[:4], new, cells[:4], new_cells) is None


def test_copies_are_nearer_than_new_points():
    normal = torch.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3))
    data = Dataset(Space((3,)), normal.sample((3000,)), normal.sample((10,)), normal.sample((1500,)))
    copied, new, far = (
        memorisation.measure(evaluation_of(data, draw))
        for draw in (resample(data.train), lambda n: normal.sample((n,)), lambda n: 5 + normal.sample((n,)))
    )
    assert copied["nearer_than_new"].value == 1
    assert copied["data_copying"].value < -10
    assert abs(new["nearer_than_new"].value - 0.5) < 4 * new["nearer_than_new"].stderr
    assert abs(new["data_copying"].value) < 2
    assert far["nearer_than_new"].value < 0.05


def test_the_picture_shows_samples_beside_their_nearest_training_points():
    evaluation = evaluation_of(DIGITS, resample(DIGITS.train))
    memorisation.measure(evaluation)
    assert evaluation.files["neighbours.png"].startswith(b"\x89PNG")


# ------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize(
    ("shape", "levels"),
    [
        *(((1, 1, 4000), None), ((1, 4000, 1), 256), ((1, 1, 1), 2), ((2, 8, 8), None), ((4, 9, 8), 256)),
        *(((1, 7, 13), 17), ((3, 5, 2), None), ((60, 3, 4), 256), ((1, 900, 1100), None)),
    ],
)
def test_images_of_any_shape_make_a_picture_of_bounded_size(shape, levels):
    x = torch.randint(levels, (64, *shape)) if levels else torch.randn(64, *shape)
    picture = grid(x, Space(shape, levels))
    assert picture.dtype == torch.uint8
    assert picture.shape[2] == 3
    assert max(picture.shape[:2]) <= MAX_PIXELS
    assert len(picture.unique()) > 2, "more than an empty frame"


def test_one_channel_is_gray_three_are_colors_and_others_are_side_by_side():
    x = torch.tensor([0.0, 1.0, 0.5, 0.25]).view(1, 4, 1, 1).expand(-1, -1, 2, 2)
    row = grid(x, Space((4, 2, 2), None))
    middle = row[len(row) // 2, LINE:-LINE]
    assert middle.unique_consecutive(dim=0).tolist() == [[0] * 3, [255] * 3, [128] * 3, [64] * 3]
    colors = grid(x[:, :3], Space((3, 2, 2), None))
    assert colors[len(colors) // 2, len(colors) // 2].tolist() == [0, 255, 128]


@pytest.mark.parametrize("value", [0.0, -7.5, 3e38])
def test_constant_images_and_constant_points_have_a_picture(value):
    assert grid(torch.full((64, 1, 8, 8), value), Space((1, 8, 8), None)).unique().tolist() == [0, 128]
    assert histogram(torch.zeros(10, 2), 0.0).shape == (384, 384, 3)


def test_the_largest_floats_keep_their_order_in_a_picture():
    x = torch.tensor([-3e38, 0.0, 3e38]).view(1, 1, 1, 3)
    middle = grid(x, Space((1, 1, 3), None))[:, LINE:-LINE]
    assert middle[len(middle) // 2].unique_consecutive(dim=0)[:, 0].tolist() == [0, 128, 255]


def test_memorization_of_fewer_points_than_cells_has_a_value_and_no_warning(recwarn):
    data = Dataset(Space((2,)), *torch.randn(3, 8, 2).unbind())
    measurements = memorisation.measure(evaluation_of(data, resample(data.train)))
    assert measurements["nearer_than_new"].value > 0.5
    assert [str(w.message) for w in recwarn if "cluster" in str(w.message)] == []
    one = Dataset(Space((2,)), torch.zeros(8, 2), torch.zeros(1, 2), torch.zeros(1, 2))
    assert memorisation.measure(evaluation_of(one, resample(one.train)))["nearer_than_new"].stderr is None
