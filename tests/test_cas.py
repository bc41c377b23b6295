"""The classification accuracy score of samples whose labels are known to be right, wrong, or misspelled."""

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


class Recited(Model):
    """The points it was given, in their order, and then from the first again."""

    def __init__(self, space: Space, x: Tensor) -> None:
        super().__init__(space)
        self.x, self.at = x, 0

    def sample(self, n: int) -> Tensor:
        rows = torch.arange(self.at, self.at + n) % len(self.x)
        self.at += n
        return self.x[rows]


def evaluated(x: Tensor) -> Evaluation:
    return Evaluation(Recited(NAMED.space, x), NAMED, Run(suite="s", name="n", model="m", data="named"))


def measured(x: Tensor) -> dict[str, Measurement]:
    return cas.measure(evaluated(x))


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENBENCH_DATA", str(tmp_path_factory.mktemp("data")))
        patch.setattr(classifier, "STEPS", 150)
        yield


# ------------------------------------------------------------------------------------------------------ reading


def test_every_real_point_is_read_as_its_picture_and_its_label():
    for x, images, y in zip(
        (NAMED.train, NAMED.validation, NAMED.test),
        (DIGITS.train, DIGITS.validation, DIGITS.test),
        NAMED.labels,
        strict=True,
    ):
        assert torch.equal(NAMED.reading.picture(x), images)
        label, exact = NAMED.reading.label(x)
        assert torch.equal(label, y)
        assert exact.all()


def test_a_name_with_one_letter_wrong_by_one_is_read_as_it_was_meant_and_counted():
    for place in range(PIXELS, 69):
        x = NAMED.train.clone()
        x[:, place] += 1
        label, exact = NAMED.reading.label(x)
        assert torch.equal(label, NAMED.labels[0])
        assert not exact.any()
    assert [part.shape for part in NAMED.reading.label(NAMED.train[:0])] == [(0,), (0,)]


def test_pixels_lighter_than_the_lightest_are_the_lightest():
    x = torch.arange(27).repeat(3)[:69].byte()[None]
    assert NAMED.reading.picture(x).max() == 16
    assert torch.equal(NAMED.reading.picture(x).flatten()[:17], torch.arange(17).byte())


# -------------------------------------------------------------------------------------------------------- the score


def test_samples_that_are_the_training_points_teach_as_they_do():
    found = measured(NAMED.train)
    assert found["cas"].value == found["cas_real"].value > 0.95
    assert found["cas_misspelled"].value == 0
    assert found["cas"].n == len(NAMED.test)
    p = found["cas"].value
    assert found["cas"].stderr == pytest.approx((p * (1 - p) / 180) ** 0.5)


def test_pictures_that_come_with_every_name_alike_teach_chance():
    names = torch.stack([NAMED.train[NAMED.labels[0] == y][0, PIXELS:] for y in range(10)])
    pictures = NAMED.train[:144, :PIXELS]
    found = measured(torch.cat((pictures.repeat_interleave(10, 0), names.repeat(144, 1)), 1))
    assert 0 < found["cas"].value < 0.2
    assert found["cas_misspelled"].value == 0


def test_a_constant_teaches_its_own_class_and_no_other():
    three = NAMED.train[NAMED.labels[0] == 3][:1]
    share = (NAMED.labels[2] == 3).double().mean().item()
    assert measured(three)["cas"].value == pytest.approx(share)


def test_what_is_only_misspelled_teaches_as_much_and_is_counted():
    x = NAMED.train.clone()
    letters = x[::4, PIXELS]
    x[::4, PIXELS] = torch.where(letters < 26, letters + 1, letters - 1)
    found = measured(x)
    assert found["cas"].value == found["cas_real"].value
    assert found["cas_misspelled"].value == pytest.approx(len(x[::4]) / N)


def test_samples_are_drawn_by_their_labels_beside_training_points():
    evaluation = evaluated(NAMED.train[:40])
    cas.measure(evaluation)
    assert evaluation.files["labelled.png"].startswith(b"\x89PNG")


def test_data_that_cannot_be_read_and_models_without_samples_have_no_score():
    run = Run(suite="s", name="n", model="m", data="digits")
    assert cas.measure(Evaluation(Recited(DIGITS.space, DIGITS.train), DIGITS, run)) == {}
    silent = evaluated(NAMED.train)
    silent.model.generative = False
    assert cas.measure(silent) == {}
