"""The classification accuracy score of samples with correct, wrong or misspelled labels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from genbench.dataset import Space
from genbench.evaluation import Evaluation, Measurement
from genbench.metrics import classifier
from genbench.metrics.cas import cas
from genbench.model import Model
from genbench.registry import find
from genbench.suite import Run

NAMED, DIGITS = find("datasets", "named")(), find("datasets", "digits")()
N, PIXELS = len(NAMED.train), 64


class Replay(Model):
    """Samples that repeat the given points in order."""

    def __init__(self, space: Space, x: Tensor) -> None:
        super().__init__(space)
        self.x, self.at = x, 0

    def sample(self, n: int) -> Tensor:
        rows = torch.arange(self.at, self.at + n) % len(self.x)
        self.at += n
        return self.x[rows]


def evaluation_of(x: Tensor) -> Evaluation:
    return Evaluation(Replay(NAMED.space, x), NAMED, Run(suite="s", name="n", model="m", data="named"))


def measure(x: Tensor) -> dict[str, Measurement]:
    return cas.measure(evaluation_of(x))


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENBENCH_DATA", str(tmp_path_factory.mktemp("data")))
        patch.setattr(classifier, "STEPS", 150)
        yield


# ------------------------------------------------------------------------------------------------------ decoding


def test_real_points_decode_to_their_picture_and_label():
    for x, images, y in zip(
        (NAMED.train, NAMED.validation, NAMED.test),
        (DIGITS.train, DIGITS.validation, DIGITS.test),
        NAMED.labels,
        strict=True,
    ):
        assert torch.equal(NAMED.label_decoder.picture(x), images)
        label, exact = NAMED.label_decoder.label(x)
        assert torch.equal(label, y)
        assert exact.all()


def test_a_name_with_one_letter_off_by_one_decodes_to_its_label_but_is_not_exact():
    for place in range(PIXELS, 69):
        x = NAMED.train.clone()
        x[:, place] += 1
        label, exact = NAMED.label_decoder.label(x)
        assert torch.equal(label, NAMED.labels[0])
        assert not exact.any()
    assert [part.shape for part in NAMED.label_decoder.label(NAMED.train[:0])] == [(0,), (0,)]


def test_pixels_above_the_highest_level_are_clipped():
    x = torch.arange(27).repeat(3)[:69].byte()[None]
    assert NAMED.label_decoder.picture(x).max() == 16
    assert torch.equal(NAMED.label_decoder.picture(x).flatten()[:17], torch.arange(17).byte())


# -------------------------------------------------------------------------------------------------------- the score


def test_training_points_as_samples_score_as_real_data():
    measurements = measure(NAMED.train)
    assert measurements["cas"].value == measurements["cas_real"].value > 0.95
    assert measurements["cas_misspelled"].value == 0
    assert measurements["cas"].n == len(NAMED.test)
    p = measurements["cas"].value
    assert measurements["cas"].stderr == pytest.approx((p * (1 - p) / 180) ** 0.5)


def test_pictures_paired_with_every_name_score_at_chance():
    names = torch.stack([NAMED.train[NAMED.labels[0] == y][0, PIXELS:] for y in range(10)])
    pictures = NAMED.train[:144, :PIXELS]
    measurements = measure(torch.cat((pictures.repeat_interleave(10, 0), names.repeat(144, 1)), 1))
    assert 0 < measurements["cas"].value < 0.2
    assert measurements["cas_misspelled"].value == 0


def test_a_constant_sample_scores_the_frequency_of_its_class():
    three = NAMED.train[NAMED.labels[0] == 3][:1]
    frequency = (NAMED.labels[2] == 3).double().mean().item()
    assert measure(three)["cas"].value == pytest.approx(frequency)


def test_misspelled_samples_score_as_real_data_and_are_counted():
    x = NAMED.train.clone()
    letters = x[::4, PIXELS]
    x[::4, PIXELS] = torch.where(letters < 26, letters + 1, letters - 1)
    measurements = measure(x)
    assert measurements["cas"].value == measurements["cas_real"].value
    assert measurements["cas_misspelled"].value == pytest.approx(len(x[::4]) / N)


def test_the_picture_shows_samples_beside_training_points():
    evaluation = evaluation_of(NAMED.train[:40])
    cas.measure(evaluation)
    assert evaluation.files["labelled.png"].startswith(b"\x89PNG")


def test_no_score_without_a_label_decoder_or_samples():
    run = Run(suite="s", name="n", model="m", data="digits")
    assert cas.measure(Evaluation(Replay(DIGITS.space, DIGITS.train), DIGITS, run)) == {}
    without_samples = evaluation_of(NAMED.train)
    without_samples.model.generative = False
    assert cas.measure(without_samples) == {}
