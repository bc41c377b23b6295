"""FID by torch-fidelity's Inception-v3, with random weights in place of the published ones."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torch_fidelity import feature_extractor_inceptionv3 as torch_fidelity

from genbench.dataset import Dataset, Space
from genbench.errors import UsageError
from genbench.evaluation import Evaluation
from genbench.metrics import features, fidelity
from genbench.registry import find
from genbench.runner.worker import perform
from genbench.suite import Run
from tests.sampler import Sampler

COLORS = Space((3, 32, 32), 256)
N = 8
INCEPTION = find("metrics", "fidelity:inception")


def random_images(n: int, seed: int) -> Tensor:
    return torch.randint(256, (n, *COLORS.shape), generator=torch.Generator().manual_seed(seed)).byte()


def evaluation_of(draw: Callable[[int], Tensor]) -> Evaluation:
    data = Dataset(COLORS, train=random_images(2 * N, 0), validation=random_images(2, 1), test=random_images(N, 2))
    return Evaluation(Sampler(COLORS, draw), data, Run(suite="s", name="n", model="m", data="colors"))


def random_inception() -> nn.Module:
    """Return Inception-v3 before its weights are loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_fidelity, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch_fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        return torch_fidelity.FeatureExtractorInceptionV3("inception", ["2048"])


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A file of random weights in the folder of feature nets, with its digest in its name, like the published file."""
    folder = tmp_path_factory.mktemp("data") / "feature-nets"
    folder.mkdir()
    path = folder / "weights.pth"
    torch.save(random_inception().state_dict(), path)
    return path.rename(folder / f"weights-inception-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")


@pytest.fixture
def digest(file, monkeypatch) -> str:
    """The digest of that file; GENBENCH_DATA points to it, and nothing is downloaded."""
    monkeypatch.setenv("GENBENCH_DATA", str(file.parents[1]))
    monkeypatch.setattr(torch_fidelity, "URL_INCEPTION_V3", f"https://example.invalid/{file.name}")
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)
    monkeypatch.setattr(features, "INCEPTION_SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    return file.stem.rpartition("-")[2]


@pytest.mark.slow
def test_images_of_any_size_in_gray_and_color_have_2048_features(digest):
    for space in (COLORS, Space((1, 28, 28), 256), Space((1, 8, 8), 17)):
        images = torch.randint(space.levels, (2, *space.shape)).byte()
        net = features.inception("data", Dataset(space, images, images, images))
        assert net.about == f"Inception-v3 {digest}"
        h, logits = net(features.pixels(images, space), torch.device("cpu"))
        assert (h.shape, h.dtype, logits.shape) == ((2, 2048), torch.float64, (2, 1008))
        assert h.isfinite().all()
        assert not torch.equal(h[0], h[1])


@pytest.mark.slow
def test_fid_is_zero_for_equal_sets_and_large_for_black_images(digest, monkeypatch):
    monkeypatch.setattr(fidelity, "MIN_SAMPLES", N)
    monkeypatch.setattr(fidelity, "FEW_DRAWS", 2)
    whole = fidelity.fid  # with all 2048 features it takes ten seconds
    monkeypatch.setattr(fidelity, "fid", lambda a, b: whole(a[:, :256], b[:, :256]))
    reference = random_images(N, 2)
    same = INCEPTION.measure(evaluation_of(lambda n: reference.repeat(n // N, 1, 1, 1)))
    fid = same["fid[inception-v3-bilinear]"]
    net = features.inception_net(features.inception_weights())
    real, black = (net(x, torch.device("cpu"))[0] for x in (reference, torch.zeros_like(reference)))
    assert abs(fid.value) < 1e-3 * fidelity.fid(real, black)
    assert fid.n == N
    assert fid.impl == f"inception 2, Inception-v3 {digest}, {N} points of test"
    assert same["precision[inception-v3-bilinear]"].value == same["recall[inception-v3-bilinear]"].value == 1


def test_without_weights_and_network_the_error_says_which_file_goes_where(tmp_path, monkeypatch):
    def unreachable(*_: object, **__: object) -> None:
        raise URLError("[Errno -3] Temporary failure\nin name resolution")

    monkeypatch.setenv("GENBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    with pytest.raises(UsageError) as error:
        features.inception_weights()
    message, name = str(error.value), torch_fidelity.URL_INCEPTION_V3.rpartition("/")[2]
    assert "\n" not in message
    assert f"put {name} of torch-fidelity in that folder" in message
    assert str(tmp_path / "feature-nets") in message
    assert "GENBENCH_DATA" in message
    assert list((tmp_path / "feature-nets").glob("*.pth*")) == []
    run = Run(suite="s", name="n", model="gans.gan:GAN", data="digits", steps=0, metrics=("fidelity:inception",))
    record = perform(run, work=str(tmp_path / "work"))
    assert (record.status, record.error) == ("error", f"fidelity:inception: UsageError: {message}")


def test_weights_whose_digest_matches_in_the_first_digits_only_are_set_aside(tmp_path, monkeypatch, capsys):
    """The published name has 8 of 64 digits, so that 2^32 tries match it; here the file has its own 8 in the name."""
    content = b"other weights"
    digest = hashlib.sha256(content).hexdigest()
    name = f"weights-{digest[:8]}.pth"
    path = tmp_path / "feature-nets" / name
    path.parent.mkdir()
    path.write_bytes(content)
    monkeypatch.setenv("GENBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(torch_fidelity, "URL_INCEPTION_V3", f"https://example.invalid/{name}")
    monkeypatch.setattr(features, "INCEPTION_SHA256", f"{digest[:8]}{'0' * 56}")
    monkeypatch.setattr(torch.hub, "urlopen", lambda *_, **__: Response(content))
    with pytest.raises(UsageError, match=r"could not be downloaded \(invalid hash value"):
        features.inception_weights()
    assert f"{path} is damaged: its SHA-256 is {digest} and should be" in capsys.readouterr().err
    assert [p.name for p in path.parent.glob("*") if not p.name.startswith(".")] == [f"{name}.damaged"]
    monkeypatch.setattr(features, "INCEPTION_SHA256", digest)
    assert features.inception_weights() == path
    assert path.read_bytes() == content


class Response(io.BytesIO):
    """A response of urlopen."""

    def info(self):
        return Message()


def test_data_other_than_images_need_no_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("GENBENCH_DATA", str(tmp_path))
    data = find("datasets", "toys:moons")()
    run = Run(suite="s", name="n", model="m", data="toys:moons")
    assert INCEPTION.measure(Evaluation(Sampler(data.space, lambda n: torch.randn(n, 2)), data, run)) == {}
