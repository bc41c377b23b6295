"""Data sets: splits, true densities and entropies of the toys, files of the image data sets."""

import functools
import gzip
import hashlib
import io
import pickle
import socket
import struct
from email.message import Message

import numpy as np
import pytest
import torch
from scipy.io import savemat
from scipy.stats import chisquare, norm

from genbench.dataset import Dataset, Space
from genbench.datasets import photos as photo_patches
from genbench.datasets import vision
from genbench.datasets.toy_densities import SmoothingNoise
from genbench.errors import UsageError
from genbench.registry import find, names

EMBEDDED = [name for name in names("datasets") if not name.startswith(("vision", "tabular"))]
TOYS = [name for name in EMBEDDED if name.startswith("toys")]
VISION = ["MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "SVHN", "CelebA"]
FEW = dict.fromkeys(["digits", "digits:binary", "named"], (1437, 180, 180))
FEW |= dict.fromkeys(["digits:but_nine", "digits:binary_but_nine"], (1295, 158, 164))
SIZES = (
    FEW | {"photos": (9296, 1104, 1104), "ising": (50_000, 5_000, 5_000)} | dict.fromkeys(TOYS, (50_000, 5_000, 20_000))
)

CELL = 0.05  # side of a grid cell in integrals; the smallest noise is 0.08
SIDE = 200  # cells along each axis of [-5, 5]^2


@functools.cache
def on_grid(name):
    """Return log p at the center of every cell, (SIDE, SIDE)."""
    middle = (torch.arange(SIDE, dtype=torch.float64) + 0.5) * CELL - 5
    return find("datasets", name)().log_prob(torch.cartesian_prod(middle, middle)).reshape(SIDE, SIDE)


def same_rows(a, b):
    """Return whether a and b (N, ...) have the same points in any order."""
    a, b = (sorted(row.tobytes() for row in np.ascontiguousarray(x).reshape(len(x), -1)) for x in (a, b))
    return a == b


# --------------------------------------------------------------------------------------------- all embedded data sets


def test_every_data_set_is_listed_with_a_description():
    listed = names("datasets")
    assert {f"vision:{name}" for name in VISION} | {"digits", "photos"} <= listed.keys()
    assert len(TOYS) == 8
    assert all(listed.values())


@pytest.mark.parametrize("name", EMBEDDED)
def test_splits_have_the_shape_and_range_of_the_space(name):
    data = find("datasets", name)()
    splits = (data.train, data.validation, data.test)
    assert tuple(len(x) for x in splits) == SIZES[name]
    for x in splits:
        assert x.shape[1:] == data.space.shape
        if data.space.levels is None:
            assert x.dtype == torch.float32
            assert x.isfinite().all()
        else:
            assert x.dtype == torch.uint8
            assert (x.min(), x.max()) == (0, data.space.levels - 1)


@pytest.mark.parametrize(
    "name", ["toys:moons", "toys:two_spirals", "toys:checkerboard", "digits", "digits:binary", "photos"]
)
def test_data_sets_are_reproducible(name):
    make = find("datasets", name)
    assert make() is make()
    assert make.__wrapped__().sha256 == make().sha256


# --------------------------------------------------------------------------------------------------------- toys


@pytest.mark.parametrize("name", TOYS)
def test_no_point_is_in_two_splits(name):
    data = find("datasets", name)()
    assert len(torch.cat([data.train, data.validation, data.test]).unique(dim=0)) == 75_000


@pytest.mark.parametrize("name", TOYS)
def test_density_integrates_to_one(name):
    assert on_grid(name).exp().sum() * CELL**2 == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", TOYS)
def test_entropy_matches_the_density(name):
    p = on_grid(name).exp()
    entropy = -torch.special.xlogy(p, p).sum() * CELL**2
    assert find("datasets", name)().entropy == pytest.approx(entropy.item(), abs=1e-4)


@pytest.mark.parametrize("name", TOYS)
def test_mean_log_prob_of_the_test_split_is_minus_the_entropy(name):
    data = find("datasets", name)()
    log_prob = data.log_prob(data.test)
    assert log_prob.shape == (20_000,)
    stderr = log_prob.std().item() / 20_000**0.5
    assert -log_prob.mean().item() == pytest.approx(data.entropy, abs=4 * stderr + 1e-9)


@pytest.mark.parametrize("name", TOYS)
def test_points_follow_the_density(name):
    """Chi-square over squares of side 0.5, pooling those with fewer than ten expected points."""
    data = find("datasets", name)()
    x = torch.cat([data.train, data.validation, data.test]).double()
    counts = torch.histogramdd(x, [20, 20], range=[-5.0, 5.0] * 2).hist.flatten()
    p = on_grid(name).exp().reshape(20, 10, 20, 10).sum((1, 3)).flatten() * CELL**2
    expected, rare = 75_000 * p / p.sum(), p < 10 / 75_000
    observed = torch.cat([counts[~rare], 75_000 - counts[~rare].sum(0, keepdim=True)])
    expected = torch.cat([expected[~rare], expected[rare].sum(0, keepdim=True)])
    possible = expected > 0  # the checkerboard has no rare squares
    assert observed[~possible].sum() == 0
    assert chisquare(observed[possible], expected[possible]).pvalue > 1e-3


@pytest.mark.parametrize("name", TOYS)
def test_log_prob_of_a_point_ignores_the_rest_of_the_batch(name):
    data = find("datasets", name)()
    x = data.test[:1030]  # more than two chunks
    torch.testing.assert_close(data.log_prob(x)[1000:], data.log_prob(x[1000:]))


def test_log_prob_far_away_is_finite_except_for_the_checkerboard():
    far = torch.tensor([[40.0, -30.0]])
    for name in TOYS:
        value = find("datasets", name)().log_prob(far)
        assert value < -50
        assert value.isfinite() == (name != "toys:checkerboard")


def test_density_of_noise_with_a_box_is_a_difference_of_normal_cdfs():
    noise, x = SmoothingNoise(0.1, box=0.2), torch.linspace(-0.7, 0.7, 41, dtype=torch.float64)
    axis = (norm.cdf(x + 0.2, scale=0.1) - norm.cdf(x - 0.2, scale=0.1)) / 0.4
    torch.testing.assert_close(
        noise.log_density(torch.stack([x, x.flip(0)], -1)), torch.from_numpy(np.log(axis * axis[::-1]))
    )


def test_variance_of_noise_is_the_sum_of_its_parts():
    x = SmoothingNoise(0.3, box=0.6).sample(100_000, torch.Generator().manual_seed(1))
    torch.testing.assert_close(x.var(0), torch.full((2,), 0.3**2 + 0.6**2 / 3, dtype=torch.float64), rtol=0.02, atol=0)


# -------------------------------------------------------------------------------------------- digits and photos


def test_digits_are_split_by_a_permutation_with_seed_0():
    from sklearn.datasets import load_digits

    source, data = load_digits(), find("datasets", "digits")()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0)).numpy()
    for x, y, part in zip(
        (data.train, data.validation, data.test), data.labels, np.split(order, [1437, 1617]), strict=True
    ):
        np.testing.assert_array_equal(x[:, 0], source.images[part])
        np.testing.assert_array_equal(y, source.target[part])


@pytest.mark.parametrize(("name", "rest"), [("digits", "but_nine"), ("digits:binary", "binary_but_nine")])
def test_digits_but_nine_are_the_digits_without_nines(name, rest):
    whole, data = find("datasets", name)(), find("datasets", f"digits:{rest}")()
    splits = [(whole.train, data.train), (whole.validation, data.validation), (whole.test, data.test)]
    for (x, without_nines), y, labels in zip(splits, whole.labels, data.labels, strict=True):
        np.testing.assert_array_equal(without_nines, x[y != 9])
        np.testing.assert_array_equal(labels, y[y != 9])
        assert set(labels.tolist()) == set(range(9))
    assert whole.bernoulli_probs is None or torch.equal(
        data.bernoulli_probs, whole.bernoulli_probs[whole.labels[0] != 9]
    )


def test_photo_patches_show_both_photographs_and_splits_share_no_pixel():
    height, width = 427, 640
    pixel = torch.arange(2 * height * width).reshape(2, 1, height, width)
    used = []
    for x in photo_patches.split(pixel):
        corner = x[:, :, :1, :1]
        offset = torch.arange(16)[:, None] * width + torch.arange(16)
        assert (x == corner + offset).all()
        assert set((x // (height * width)).unique().tolist()) == {0, 1}
        assert len(corner.unique()) == len(x)
        used.append(x.unique())
    assert len(torch.cat(used).unique()) == sum(len(pixels) for pixels in used)


def test_photo_splits_have_similar_statistics():
    data = find("datasets", "photos")()
    level = [x.float().mean((0, 2, 3)) for x in (data.train, data.validation, data.test)]
    spread = [x.float().std((0, 2, 3)) for x in (data.train, data.validation, data.test)]
    torch.testing.assert_close(torch.stack(level[1:]), level[0].expand(2, 3), atol=5, rtol=0)
    torch.testing.assert_close(torch.stack(spread[1:]), spread[0].expand(2, 3), atol=5, rtol=0)


# ------------------------------------------------------------------------- torchvision's data sets, from files on disk


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def write_idx(path, array):
    """Write unsigned bytes in the IDX format: 0, 0, type 8, number of axes, their lengths, the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty data folder, without network access."""

    def no_network(*args, **kwargs):
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setenv("GENBENCH_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST"])
def test_idx_files_are_read_and_a_sixth_of_the_training_split_is_for_validation(name, root):
    x, y = pixels(80, 28, 28), np.arange(80, dtype=np.uint8) % 10
    for part, rows in (("train", slice(60)), ("t10k", slice(60, 80))):
        write_idx(root / name / "raw" / f"{part}-images-idx3-ubyte", x[rows])
        write_idx(root / name / "raw" / f"{part}-labels-idx1-ubyte", y[rows])
    data = find("datasets", f"vision:{name}")()
    assert (data.space.shape, data.space.levels) == ((1, 28, 28), 256)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0)).numpy()
    np.testing.assert_array_equal(data.train[:, 0], x[order[:50]])
    np.testing.assert_array_equal(data.validation[:, 0], x[order[50:]])
    np.testing.assert_array_equal(data.test[:, 0], x[60:])
    np.testing.assert_array_equal(torch.cat(data.labels), y[np.concatenate([order, np.arange(60, 80)])])


def test_binary_digits_are_bernoulli_samples_of_their_intensities():
    gray, data = find("datasets", "digits")(), find("datasets", "digits:binary")()
    torch.testing.assert_close(data.bernoulli_probs, gray.train / 16)
    for x, k in zip((data.train, data.validation, data.test), (gray.train, gray.validation, gray.test), strict=True):
        assert torch.equal(x[k == 0].unique(), torch.tensor([0], dtype=torch.uint8))
        assert torch.equal(x[k == 16].unique(), torch.tensor([1], dtype=torch.uint8))
        half = x[(k > 6) & (k < 10)].double()
        assert half.mean().item() == pytest.approx(0.5, abs=4 * 0.5 / len(half) ** 0.5 + 0.02)


def idx_archives(folder, n=60):
    """Write MNIST's four files and return their gzip archives by name."""
    archives = {}
    for part in ("train", "t10k"):
        write_idx(folder / f"{part}-images-idx3-ubyte", pixels(n, 28, 28))
        write_idx(folder / f"{part}-labels-idx1-ubyte", np.zeros(n, dtype=np.uint8))
    for path in folder.glob("*-ubyte"):
        archives[f"{path.name}.gz"] = gzip.compress(path.read_bytes())
    return archives


DAMAGE = {
    "empty": lambda whole: b"",
    "short": lambda whole: whole[:1000],
    "no header": lambda whole: whole[:7],
    "zeros": lambda whole: b"\0" * len(whole),
    "text": lambda whole: b"<html>quota exceeded</html>",
    "another type": lambda whole: whole[:2] + b"\x0d" + whole[3:],
    "endless": lambda whole: whole[:4] + b"\xff" * 4 + whole[8:],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_idx_files_are_reported(damage, root):
    idx_archives(root / "MNIST" / "raw")
    images = root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(damage(images.read_bytes()))
    with pytest.raises(UsageError, match="MNIST is missing or damaged"):
        find("datasets", "vision:MNIST")()


@pytest.mark.parametrize("damage", [*DAMAGE.values()][:5], ids=[*DAMAGE][:5])
def test_damaged_matlab_files_are_reported(damage, root, monkeypatch):
    from torchvision.datasets import SVHN

    for part in ("train", "test"):
        savemat(root / f"{part}_32x32.mat", {"X": pixels(32, 32, 3, 9), "y": np.ones((9, 1))}, do_compression=True)
    monkeypatch.setattr(SVHN, "split_list", {part: ["", f"{part}_32x32.mat", None] for part in ("train", "test")})
    path = root / "train_32x32.mat"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UsageError, match="SVHN is missing or damaged"):
        find("datasets", "vision:SVHN")()


@pytest.fixture
def mirror(root, monkeypatch):
    """The archives of MNIST by name, served by the second of two mirrors; none is on disk."""
    from torchvision.datasets import MNIST

    archives = idx_archives(root / "elsewhere")
    digests = {f"MNIST/raw/{name}": hashlib.sha256(content).hexdigest() for name, content in archives.items()}
    monkeypatch.setattr(vision, "SHA256", digests)
    md5s = [(name, hashlib.md5(content).hexdigest()) for name, content in archives.items()]
    monkeypatch.setattr(MNIST, "resources", md5s)
    monkeypatch.setattr(MNIST, "mirrors", ["https://example.invalid/", "https://example2.invalid/"])

    class Response(io.BytesIO):
        def info(self):
            return Message()

    def urlopen(request, *_, **__):
        if "example2" not in request.full_url:
            raise socket.gaierror("no such mirror")
        return Response(archives[request.full_url.rpartition("/")[2]])

    monkeypatch.setattr(torch.hub, "urlopen", urlopen)
    vision.load.cache_clear()
    return archives


def test_missing_files_are_downloaded_from_any_mirror(mirror, root):
    data = find("datasets", "vision:MNIST")()
    np.testing.assert_array_equal(data.test[:, 0], pixels(60, 28, 28))


def test_downloads_with_a_wrong_digest_are_rejected(mirror, root):
    from torchvision.datasets import MNIST

    name = "t10k-labels-idx1-ubyte.gz"
    mirror[name] = gzip.compress(b"other labels")
    MNIST.resources[[n for n, _ in MNIST.resources].index(name)] = (name, hashlib.md5(mirror[name]).hexdigest())
    with pytest.raises(UsageError, match=r"not be downloaded \(invalid hash value"):
        find("datasets", "vision:MNIST")()
    assert not (root / "MNIST" / "raw" / name).exists()


def test_damaged_files_are_renamed_and_replaced(mirror, root, capsys):
    find("datasets", "vision:MNIST")()
    images = root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:1000])
    archive = images.with_name(f"{images.name}.gz")
    archive.write_bytes(archive.read_bytes()[:-1])
    vision.load.cache_clear()
    np.testing.assert_array_equal(find("datasets", "vision:MNIST")().test[:, 0], pixels(60, 28, 28))
    errors = capsys.readouterr().err
    assert f"{archive} is damaged: its SHA-256 is" in errors
    assert f"{images} is damaged: a file of MNIST cannot be read" in errors
    assert images.with_name(f"{images.name}.damaged").exists()


def test_every_downloadable_file_has_a_digest():
    from torchvision import datasets

    for name in VISION:
        source = find("datasets", f"vision:{name}")
        urls = source.urls(getattr(datasets, name)) if isinstance(source, vision.ImageSource) else {}
        assert all(len(vision.SHA256[file]) == 64 and links for file, links in urls.items())
        assert urls or name == "BinaryMNIST"


def test_cifar_batches_are_read_as_channels_first(root, monkeypatch):
    from torchvision.datasets import CIFAR10

    batches = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    x, y = pixels(120, 3, 32, 32), np.arange(120) % 10
    (root / "cifar-10-batches-py").mkdir()
    for i, batch in enumerate(batches):
        rows = slice(20 * i, 20 * i + 20)
        content = {"data": x[rows].reshape(20, 3072), "labels": y[rows].tolist()}
        (root / "cifar-10-batches-py" / batch).write_bytes(pickle.dumps(content))
    (root / "cifar-10-batches-py" / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(CIFAR10, "train_list", [[batch, None] for batch in batches[:5]])  # no checksums
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": None})

    data = find("datasets", "vision:CIFAR10")()
    assert (len(data.train), len(data.validation), len(data.test)) == (90, 10, 20)
    assert same_rows(torch.cat([data.train, data.validation]), x[:100])
    np.testing.assert_array_equal(data.test, x[100:])
    np.testing.assert_array_equal(data.labels[2], y[100:])


def test_svhn_files_are_read_with_label_10_as_digit_0(root, monkeypatch):
    from torchvision.datasets import SVHN

    x, y = {"train": pixels(40, 3, 32, 32), "test": pixels(20, 3, 32, 32)}, np.arange(40)[:, None] % 10 + 1
    for part in x:
        savemat(root / f"{part}_32x32.mat", {"X": x[part].transpose(2, 3, 1, 0), "y": y[: len(x[part])]})
    monkeypatch.setattr(SVHN, "split_list", {part: ["", f"{part}_32x32.mat", None] for part in x})

    data = find("datasets", "vision:SVHN")()
    assert (len(data.train), len(data.validation)) == (36, 4)
    assert same_rows(torch.cat([data.train, data.validation]), x["train"])
    np.testing.assert_array_equal(data.test, x["test"])
    np.testing.assert_array_equal(data.labels[2], np.arange(1, 21) % 10)


def test_faces_are_center_cropped_and_use_the_official_validation_split(root, monkeypatch):
    from PIL import Image
    from torchvision.datasets import CelebA

    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    for i in range(7):
        face = np.full((218, 178, 3), 255, dtype=np.uint8)  # a white frame around the central 148x148
        face[35:183, 15:163] = 10 * i
        Image.fromarray(face).save(folder / "img_align_celeba" / f"{i}.jpg", format="png")
    lines = {"list_eval_partition": [0, 0, 0, 1, 1, 2, 2], "identity_CelebA": [1] * 7}
    for name, values in lines.items():
        (folder / f"{name}.txt").write_text("".join(f"{i}.jpg {value}\n" for i, value in enumerate(values)))
    for name in ("list_bbox_celeba", "list_landmarks_align_celeba", "list_attr_celeba"):
        (folder / f"{name}.txt").write_text("7\na b\n" + "".join(f"{i}.jpg 1 -1\n" for i in range(7)))
    monkeypatch.setattr(CelebA, "file_list", [("", None, path.name) for path in folder.glob("*.txt")])

    data = find("datasets", "vision:CelebA")()
    assert data.space.shape == (3, 64, 64)
    assert data.labels is None
    for x, level in zip((data.train, data.validation, data.test), ([0, 10, 20], [30, 40], [50, 60]), strict=True):
        assert (x == torch.tensor(level)[:, None, None, None]).all()


@pytest.mark.parametrize("name", VISION)
def test_a_missing_data_set_is_reported_in_one_line_with_what_to_do(name, root):
    before = socket.getdefaulttimeout()
    with pytest.raises(UsageError) as error:
        find("datasets", f"vision:{name}")()
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{name} is missing or damaged in {root} and could not be downloaded")
    assert find("datasets", f"vision:{name}").files in message
    assert "GENBENCH_DATA" in message
    assert socket.getdefaulttimeout() == before


def test_sha256_covers_splits_labels_and_probabilities():
    def make(changed: int | None = None) -> Dataset:
        tensors = [torch.full((3, 2), i, dtype=torch.uint8) for i in range(3)]
        tensors += [torch.full((3,), i) for i in range(3)] + [torch.full((3, 2), 0.5)]
        if changed is not None:
            tensors[changed][-1] += 1
        return Dataset(Space((2,), 8), *tensors[:3], labels=tuple(tensors[3:6]), bernoulli_probs=tensors[6])

    digests = [make(i).sha256 for i in (None, *range(7))]
    assert make().sha256 == digests[0]
    assert len(set(digests)) == 8
    x = torch.zeros(4, 2)
    variants = [Dataset(Space((2,)), x, x, y) for y in (x, x.double(), x.view(2, 4))]
    assert len({data.sha256 for data in variants}) == 3, "dtype and shape matter"
