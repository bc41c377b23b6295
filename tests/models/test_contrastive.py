"""Contrastive models: losses compared with their definitions, augmentations, retrieval of names."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from genbench.dataset import Dataset, Space
from genbench.datasets.digits import digits
from genbench.datasets.named import NAMES, named
from genbench.evaluation import Evaluation
from genbench.metrics.representation import linear_probe
from genbench.metrics.retrieval import accuracy, precision, retrieval, word
from genbench.metrics.samples import samples
from genbench.metrics.throughput import throughput
from genbench.model import Model
from genbench.models.contrastive.clip import CLIP
from genbench.models.contrastive.losses import nt_xent, symmetric_cross_entropy
from genbench.models.contrastive.simclr import SimCLR
from genbench.nets.augmentations import Augmentation, affine_warp, erase
from genbench.suite import Run
from genbench.train import TrainStep, batches, reseed

RUN = Run(suite="s", name="n", model="contrastive.simclr:SimCLR", data="digits", steps=0)


def build(make: type[Model]) -> tuple[Model, Dataset]:
    """Return an untrained model and its data."""
    data = named() if make is CLIP else digits()
    return make(data.space), data


def train_and_evaluate(make: type[Model], steps: int, lr: float = 3e-3) -> Evaluation:
    """Return an evaluation of a model after `steps` training steps with a cosine schedule."""
    model, data = build(make)
    schedule = {"lr": lr, "schedule": "cosine"}
    run = Run(**RUN.model_dump(exclude={"steps", "optimizer"}), steps=steps, optimizer=schedule)
    train_step, batch = TrainStep(model.train(), run), batches(data, 128, 0, torch.device("cpu"))
    for i in range(steps):
        train_step(i, batch)
    return Evaluation(model.eval(), data, run)


every_model = pytest.mark.parametrize("make", [SimCLR, CLIP])


# -------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize(("B", "tau"), [(1, 0.5), (2, 0.1), (5, 0.5), (7, 2.0)])
def test_nt_xent_is_equation_1(B: int, tau: float) -> None:
    a, b = torch.randn(2, B, 4, dtype=torch.float64)
    z, total = [*a, *b], 0.0
    for i in range(2 * B):
        s = [math.exp(torch.cosine_similarity(z[i], z[k], 0).item() / tau) for k in range(2 * B)]
        total += -math.log(s[(i + B) % (2 * B)] / sum(s[k] for k in range(2 * B) if k != i))
    assert nt_xent(a, b, tau).item() == pytest.approx(total / (2 * B))


def test_nt_xent_of_orthogonal_pairs_and_its_invariances() -> None:
    B, tau = 6, 0.3
    a = torch.eye(B, dtype=torch.float64)
    truth = math.log(math.exp(1 / tau) + 2 * B - 2) - 1 / tau
    assert nt_xent(a, a, tau).item() == pytest.approx(truth)
    a, b = torch.randn(2, B, 4, dtype=torch.float64)
    order, length = torch.randperm(B), torch.rand(B, 1) + 0.1
    for other in (nt_xent(a[order], b[order], tau), nt_xent(b, a, tau), nt_xent(length * a, b, tau)):
        torch.testing.assert_close(other, nt_xent(a, b, tau))
    assert nt_xent(a, a, tau) < nt_xent(a, b, tau) < nt_xent(a, -a, tau)


def test_cross_entropy_of_distinct_texts_is_figure_3() -> None:
    logits = torch.randn(6, 6, dtype=torch.float64)
    own = torch.arange(6)
    truth = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(symmetric_cross_entropy(logits, torch.eye(6).bool()), truth)


def test_cross_entropy_is_symmetric_and_invariant_to_order() -> None:
    logits, kind = torch.randn(8, 8, dtype=torch.float64), torch.arange(8) % 3
    positive, order = kind[:, None] == kind, torch.randperm(8)
    torch.testing.assert_close(symmetric_cross_entropy(logits.T, positive.T), symmetric_cross_entropy(logits, positive))
    again = symmetric_cross_entropy(logits[order][:, order], positive[order][:, order])
    torch.testing.assert_close(again, symmetric_cross_entropy(logits, positive))


def test_optimum_is_uniform_over_equal_texts() -> None:
    kind = torch.tensor([0, 0, 0, 1, 1, 2])
    positive = kind[:, None] == kind
    minimum = torch.tensor([3.0, 3, 3, 2, 2, 1]).log().mean()
    logits = (40.0 * positive).requires_grad_()
    loss = symmetric_cross_entropy(logits, positive)
    torch.testing.assert_close(loss, minimum)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], torch.zeros(6, 6))
    assert symmetric_cross_entropy(40.0 * torch.eye(6), positive) > minimum + 1  # equal texts treated as negatives


def test_gradient_of_the_temperature_for_orthogonal_pairs() -> None:
    """L = log(e^s + B - 1) - s with s = exp t, so dL/dt = -s (B - 1) / (e^s + B - 1)."""
    B, t = 5, torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(symmetric_cross_entropy(t.exp() * torch.eye(B), torch.eye(B).bool()), t)
    s = math.exp(0.7)
    assert gradient.item() == pytest.approx(-s * (B - 1) / (math.exp(s) + B - 1))


# ------------------------------------------------------------------------------------------- augmentations


def transform(x: Tensor, angle: float = 0.0, scale: float = 1.0, shift: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    """Return x (B, C, H, W), all transformed by the same affine map."""
    B = len(x)
    return affine_warp(x, torch.full((B,), angle), torch.full((B,), scale), torch.tensor([shift]).expand(B, 2))


def test_augmentation_of_zero_strength_is_the_identity() -> None:
    x = torch.rand(9, 2, 8, 6)
    torch.testing.assert_close(Augmentation(0, 0, 0, 0, 0)(x), x)


def test_quarter_turns_and_whole_pixel_shifts_are_exact() -> None:
    x = torch.rand(3, 2, 8, 8)
    torch.testing.assert_close(transform(x, angle=math.pi / 2), x.rot90(1, (2, 3)))
    right, down = torch.zeros_like(x), torch.zeros_like(x)
    right[..., 1:], down[..., 3:, :] = x[..., :-1], x[..., :-3, :]
    torch.testing.assert_close(transform(x, shift=(1 / 8, 0)), right)
    torch.testing.assert_close(transform(x, shift=(0, 3 / 8)), down)
    both = transform(x, angle=math.pi / 2, shift=(1 / 8, 0))
    torch.testing.assert_close(both[..., 1:], x.rot90(1, (2, 3))[..., :-1])  # rotated, then shifted


def test_wide_images_are_rotated_without_shear_and_scaled_about_their_centre() -> None:
    x = torch.zeros(1, 1, 4, 8)
    x[..., 2:6] = torch.rand(1, 1, 4, 4)
    y = transform(x, angle=math.pi / 2)
    torch.testing.assert_close(y[..., 2:6], x[..., 2:6].rot90(1, (2, 3)))
    x, small = torch.rand(2, 1, 9, 9), torch.zeros(2, 1, 9, 9)
    small[..., 3:6, 3:6] = x[..., 1::3, 1::3]
    torch.testing.assert_close(transform(x, scale=1 / 3), small)
    torch.testing.assert_close(transform(x, scale=3.0)[..., 1::3, 1::3], x[..., 3:6, 3:6])


def test_erased_region_is_a_rectangle_of_the_given_size_and_position() -> None:
    x = torch.ones(3, 2, 10, 20)
    size = torch.tensor([[0.5, 0.25], [1.0, 1.0], [0.0, 0.5]])
    position = torch.tensor([[-1.0, 1.0], [0.3, -0.2], [0.0, 0.0]])
    y = erase(x, size, position)
    truth = torch.ones(2, 10, 20)
    truth[:, :5, 15:] = 0
    assert torch.equal(y[0], truth)
    assert not y[1].any()
    assert y[2].all()


@pytest.mark.parametrize("which", ["shift", "rotation", "scale", "noise", "erasing"])
def test_every_image_gets_its_own_augmentation(which: str) -> None:
    none = dict.fromkeys(["shift", "rotation", "scale", "noise", "erasing"], 0.0)
    x = torch.rand(1, 1, 28, 28).expand(12, -1, -1, -1)
    y = Augmentation(**none | {which: 0.6 if which != "rotation" else 40.0})(x).flatten(1)
    assert len(y.unique(dim=0)) > 9  # a narrow rectangle may contain no pixel
    two = torch.rand(2, 1, 8, 8)
    angle, scale, shift = torch.tensor([0.3, -1.0]), torch.tensor([0.8, 1.2]), torch.tensor([[0.1, 0], [0, 0.2]])
    one_by_one = torch.cat(
        [affine_warp(two[i : i + 1], angle[i : i + 1], scale[i : i + 1], shift[i : i + 1]) for i in (0, 1)]
    )
    torch.testing.assert_close(affine_warp(two, angle, scale, shift), one_by_one)


# --------------------------------------------------------------------------------------------------- names


def test_named_digits_are_digits_followed_by_their_names() -> None:
    data, images = named(), digits()
    assert data.labels is not None
    splits = (data.train, data.validation, data.test), (images.train, images.validation, images.test)
    for x, image, labels in zip(*splits, data.labels, strict=True):
        assert torch.equal(x[:, :64].view(image.shape), image)
        assert [word(text) for text in x[:, 64:]] == [NAMES[y] for y in labels]


def test_unsuitable_spaces_are_rejected() -> None:
    for space in (Space((69,)), Space((64,), 27), Space((1, 8, 8), 17)):
        with pytest.raises(ValueError, match="CLIP needs integer vectors"):
            CLIP(space)
    with pytest.raises(ValueError, match="needs images"):
        SimCLR(Space((2,)))


def test_text_embeddings_use_every_letter_and_image_embeddings_ignore_the_text() -> None:
    model, data = build(CLIP)
    model.eval()
    images, texts = model.split_pairs(data.test[:10])
    for vectors in (model.embed_images(images), model.embed_texts(texts)):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(10))
    for j in range(5):
        other = texts.clone()
        other[:, j] = (other[:, j] + 1) % 27
        assert ((model.embed_texts(other) - model.embed_texts(texts)).norm(dim=1) > 1e-3).all()
    anonymous = torch.cat((data.test[:10, :64], torch.zeros(10, 5).byte()), 1)
    torch.testing.assert_close(model.encode(anonymous), model.encode(data.test[:10]))
    truth = normalize(model.embed_images(images)) @ normalize(model.embed_texts(texts)).T
    torch.testing.assert_close(model.similarity(images, texts), truth)


def test_logit_scale_is_clamped_after_every_step() -> None:
    model, data = build(CLIP)
    model.t.data.fill_(7.0)
    train_step = TrainStep(model, Run(**RUN.model_dump(exclude={"steps"}), steps=9))
    train_step(0, batches(data, 16, 0, torch.device("cpu")))
    assert model.t.item() == pytest.approx(math.log(100))


# -------------------------------------------------------------------------------------------------- models


@every_model
def test_every_parameter_is_trained_and_validation_is_deterministic(make: type[Model]) -> None:
    model, data = build(make)
    gradients = torch.autograd.grad(model.train().loss(data.train[:32]), list(model.parameters()), allow_unused=True)
    assert all(g is not None and g.any() for g in gradients)
    model.eval()
    losses = []
    for _ in range(2):
        reseed(0, "validation")
        losses.append(model.loss(data.validation).item())
    assert losses[0] == losses[1]
    one_by_one = torch.cat([model.encode(x[None]) for x in data.test[:8]])
    torch.testing.assert_close(model.encode(data.test[:8]), one_by_one)


@every_model
def test_representation_learners_have_no_samples_and_no_metrics_of_samples(make: type[Model]) -> None:
    model, data = build(make)
    assert (model.generative, model.likelihood) == (False, None)
    with pytest.raises(NotImplementedError, match="has no samples"):
        model.sample(1)
    evaluation = Evaluation(model.eval(), data, RUN)
    assert samples.measure(evaluation) == throughput.measure(evaluation) == evaluation.files == {}


def test_100_steps_of_simclr_improve_a_linear_probe() -> None:
    """With 8 dimensions, in which an untrained network is worse but well above chance."""
    make = partial(SimCLR, latent=8)
    untrained, trained = Evaluation(make(digits().space).eval(), digits(), RUN), train_and_evaluate(make, 100)
    before, after = (linear_probe.measure(model)["linear_probe_accuracy"].value for model in (untrained, trained))
    assert after > max(0.78, before + 0.05), (before, after)


def test_100_steps_of_clip_reach_90_percent_zero_shot_accuracy() -> None:
    evaluation = train_and_evaluate(CLIP, 100)
    measurements = retrieval.measure(evaluation)
    assert set(measurements) == {"zero_shot_accuracy", "retrieval_map"}
    assert measurements["zero_shot_accuracy"].value > 0.9
    assert measurements["retrieval_map"].value > 0.9
    assert evaluation.files["similarity.png"].startswith(b"\x89PNG")


# ----------------------------------------------------------------------------------------------- retrieval


def test_retrieval_of_known_similarities() -> None:
    truth = torch.eye(3).bool().repeat(4, 1)
    perfect = truth.double() + 0.1 * torch.rand(12, 3)
    assert accuracy(perfect, truth).value == precision(perfect, truth).value == 1
    assert accuracy(-perfect, truth).value == 0
    one = torch.tensor([[0.9], [0.8], [0.7], [0.6]])  # matches at ranks 2 and 4: (1/2 + 2/4) / 2
    assert precision(one, torch.tensor([[0], [1], [0], [1]]).bool()).value == pytest.approx(0.5)
    assert retrieval.measure(Evaluation(*build(SimCLR), RUN)) == {}
