"""Tabular data sets: files in the layout of the archive, prepared as by the paper's code."""

import os
import pickle

import numpy as np
import pandas as pd
import pytest
import torch

from genbench.commands.run import with_data
from genbench.datasets import tabular
from genbench.errors import UsageError
from genbench.registry import find
from genbench.suite import Run

N = 1000
NAMES = {"POWER": 6, "GAS": 4, "HEPMASS": 3, "MINIBOONE": 5}  # dimensions of the test files


def numbers(n: int = N, D: int = 5) -> np.ndarray:
    return np.random.default_rng(0).normal(3, 2, (n, D)) @ np.diag(np.arange(1, D + 1))


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with small files in the layout of the archive."""
    for folder in ("power", "gas", "hepmass", "miniboone"):
        (tmp_path / folder).mkdir()
    np.save(tmp_path / "power/data.npy", numbers(D=8))
    np.save(tmp_path / "miniboone/data.npy", numbers())
    write_sensors(tmp_path / "gas/ethylene_CO.pickle")
    write_particles(tmp_path / "hepmass")
    monkeypatch.setenv("GENBENCH_DATA", str(tmp_path))
    tabular.load.cache_clear()
    return tmp_path


def write_sensors(path):
    """Write sensors a, a2, a3, b, c, d, the first three strongly correlated."""
    x = numbers(D=4)
    table = pd.DataFrame({"Time": range(N), "Meth": 1.0, "Eth": 2.0, "a": x[:, 0]})
    table["a2"], table["a3"] = 3 * x[:, 0] + 0.01 * x[:, 1], x[:, 0] - 0.01 * x[:, 2]
    for name, column in zip("bcd", x.T[1:], strict=True):
        table[name] = column
    table.to_pickle(path)


def write_particles(folder):
    """Write tables of a label, three numbers and a discrete column, and an extra column in the test file."""
    generator = np.random.default_rng(1)
    for name, n, more in (("train", N, 0), ("test", 300, 1)):
        x = pd.DataFrame(generator.normal(size=(n, 4 + more)))
        x[3] = generator.integers(0, 3, n)
        x.insert(0, "# label", generator.integers(0, 2, n).astype(float))
        x.to_csv(folder / f"1000_{name}.csv", index=False)


def load(name: str):
    return find("datasets", f"tabular:{name}")()


@pytest.mark.parametrize(("name", "D"), NAMES.items())
def test_splits_are_finite_vectors_of_the_space(root, name, D):
    data = load(name)
    assert data.space.shape == (D,)
    assert data.space.levels is None
    for x in (data.train, data.validation, data.test):
        assert (x.dtype, x.shape[1:], bool(x.isfinite().all())) == (torch.float32, (D,), True)


@pytest.mark.parametrize("name", ["POWER", "GAS", "MINIBOONE"])
def test_last_tenth_is_the_test_split_and_last_tenth_of_the_rest_validation(root, name):
    data = load(name)
    assert [len(x) for x in (data.train, data.validation, data.test)] == [810, 90, 100]


@pytest.mark.parametrize(
    ("n", "sizes"),
    [
        (2_049_280, (1_659_917, 184_435, 204_928)),
        (1_052_065, (852_174, 94_685, 105_206)),
        (36_488, (29_556, 3_284, 3_648)),
    ],
)
def test_split_sizes_match_the_paper(n, sizes):
    """Masked Autoregressive Flow for Density Estimation (2017), table 4: POWER, GAS, MINIBOONE."""
    assert tuple(map(len, tabular.split_last_tenths(np.zeros((n, 1))))) == sizes


@pytest.mark.parametrize("name", ["POWER", "MINIBOONE"])
def test_data_are_standardized_by_train_and_validation_together(root, name):
    data = load(name)
    fitted = torch.cat([data.train, data.validation]).double()
    torch.testing.assert_close(fitted.mean(0), torch.zeros(fitted.shape[1]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(fitted.std(0, correction=0), torch.ones(fitted.shape[1]).double(), atol=1e-6, rtol=0)
    assert data.test.mean(0).abs().max() > 1e-3


def test_miniboone_is_not_shuffled(root):
    x = numbers()
    expected = (x - x[:900].mean(0)) / x[:900].std(0)
    data = load("MINIBOONE")
    actual = torch.cat([data.train, data.validation, data.test])
    torch.testing.assert_close(actual, torch.from_numpy(expected).float())


def test_power_is_shuffled_without_two_columns_and_with_noise():
    """The last digit of active power is 0.001, of voltage 0.01, of meters 1; the time of day gets no noise."""
    x = np.round(numbers(2000, 9), 0)[:, :8]
    splits = tabular.prepare_power(x)
    order = np.random.RandomState(42).permutation(2000)
    columns = x[order][:, [0, 2, 4, 5, 6, 7]]
    width = np.array([0.001, 0.01, 1, 1, 1, 0])
    scaled = np.concatenate(splits)
    fitted = columns[:1800]
    for column in range(6):
        slope, level = np.polyfit(scaled[:, column], columns[:, column], 1)
        noise = scaled[:, column] * slope + level - columns[:, column]
        assert np.ptp(noise) == pytest.approx(width[column], rel=0.05, abs=1e-9)
        assert slope == pytest.approx(np.sqrt(fitted[:, column].var() + width[column] ** 2 / 12), rel=0.01)


def test_noise_of_power_is_drawn_in_the_order_of_the_released_code():
    x = np.zeros((10, 8))
    generator = np.random.RandomState(42)
    generator.shuffle(np.arange(10))
    voltage, active, meters = (generator.rand(10, k) for k in (1, 1, 3))
    noise = np.hstack((0.001 * active, 0.01 * voltage, meters))
    expected = (noise - noise[:9].mean(0)) / noise[:9].std(0)
    with np.errstate(invalid="ignore"):
        actual = np.concatenate(tabular.prepare_power(x))
    np.testing.assert_allclose(actual[:, :5], expected)


def test_gas_drops_correlated_sensors_and_is_standardized_over_all_rows(root):
    data, x = load("GAS"), pd.read_pickle(root / "gas/ethylene_CO.pickle")[["a3", "b", "c", "d"]]
    actual = torch.cat([data.train, data.validation, data.test]).numpy()
    np.testing.assert_allclose(actual, (x - x.mean()) / x.std(), rtol=1e-5, atol=1e-6)


def test_hepmass_is_the_signal_without_its_discrete_column(root):
    data = load("HEPMASS")
    a, b = (pd.read_csv(root / f"hepmass/1000_{name}.csv") for name in ("train", "test"))
    a, b = (table[table["# label"] == 1][["0", "1", "2"]] for table in (a, b))
    expected = ((a - a.mean()) / a.std()).to_numpy()
    last = int(0.1 * len(a))
    np.testing.assert_allclose(data.train, expected[:-last], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(data.validation, expected[-last:], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(data.test, (b - a.mean()) / a.std(), rtol=1e-5, atol=1e-6)


def test_archive_may_be_unpacked_with_its_data_folder(root, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    expected = load("MINIBOONE").sha256
    (tmp_path / "other" / "data").symlink_to(root)
    monkeypatch.setenv("GENBENCH_DATA", str(tmp_path / "other"))
    assert load("MINIBOONE").sha256 == expected


@pytest.mark.parametrize("name", [*NAMES, "BSDS300"])
def test_missing_files_are_reported_in_one_line_with_their_path(tmp_path, monkeypatch, name):
    monkeypatch.setenv("GENBENCH_DATA", str(tmp_path))
    message = rf"^{tmp_path}/.* is missing: unpack it there from data.tar.gz .* or set GENBENCH_DATA to the folder"
    with pytest.raises(UsageError, match=message):
        load(name)


def test_runs_with_missing_data_are_skipped_with_one_line_per_data_set(root, capsys):
    (root / "power/data.npy").unlink()
    names = ["tabular:POWER", "tabular:MINIBOONE", "toys:moons", "tabular:BSDS300"]
    runs = [Run(suite="s", name="n", model="m", data=data, seed=seed) for data in names for seed in range(3)]
    assert [run.data for run in with_data(runs)] == ["tabular:MINIBOONE"] * 3 + ["toys:moons"] * 3
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["tabular:POWER", "tabular:BSDS300"]
    with pytest.raises(UsageError, match="no dataset is available"):
        with_data(runs[:3])


@pytest.mark.parametrize("content", [b"cpandas.nowhere\nDataFrame\n.", b"cpandas\nStringDtype\n(I1\ntR."])
def test_pickles_that_pandas_cannot_read_are_reported(content, root):
    (root / "gas/ethylene_CO.pickle").write_bytes(content)
    with pytest.raises(UsageError, match=r"ethylene_CO.pickle cannot be read by pandas .* to_pickle$"):
        load("GAS")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_tables_are_read_from_every_pickle_protocol(protocol, tmp_path):
    path, table = tmp_path / "x.pickle", pd.DataFrame({"a": [1.5, 2.5], "b": [1, 2], "c": ["x", "y"]})
    table.to_pickle(path, protocol=protocol)
    pd.testing.assert_frame_equal(tabular.read_pickled_table(path), table)


class CallOnLoad:
    """An object whose pickle calls a function when it is loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.mkdir, ("{root}/called",)),
        (eval, ("__import__('os').mkdir('{root}/called')",)),
        (pd.read_pickle, ("{root}/called",)),
        (np.load, ("{root}/called",)),
        (np.memmap, ("{root}/called", "uint8", "w+", 0, (1,))),
        (pd.eval, ("1 + 1",)),
        (getattr, (1, "real")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_pickles_that_call_other_functions_are_rejected_before_the_call(function, arguments, protocol, root):
    call = CallOnLoad(function, *(a.format(root=root) if isinstance(a, str) else a for a in arguments))
    (root / "gas/ethylene_CO.pickle").write_bytes(pickle.dumps({"table": call}, protocol))
    with pytest.raises(UsageError, match=rf"ethylene_CO.pickle is rejected: it would call .*{function.__name__}"):
        load("GAS")
    assert not (root / "called").exists()


def test_dotted_names_in_pickles_are_rejected(root):
    for name in (b"core.frame.DataFrame", b"DataFrame.to_pickle"):
        (root / "gas/ethylene_CO.pickle").write_bytes(b"\x80\x04\x8c\x06pandas\x8c%c%s\x93." % (len(name), name))
        with pytest.raises(UsageError, match="is rejected"):
            load("GAS")


@pytest.mark.parametrize("content", [b"", b"\0", b"garbage", b"\x80\x05K\x01.", b"\x80\x05(((."])
@pytest.mark.parametrize(
    "file", ["gas/ethylene_CO.pickle", "power/data.npy", "hepmass/1000_train.csv", "BSDS300/BSDS300.hdf5"]
)
def test_damaged_files_are_reported_in_one_line_with_their_name(content, file, root):
    path = root / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    name = {"gas": "GAS", "power": "POWER", "hepmass": "HEPMASS", "BSDS300": "BSDS300"}[file.partition("/")[0]]
    with pytest.raises(UsageError, match=path.name) as error:
        load(name)
    assert "\n" not in str(error.value)


def test_bsds300_is_read_unchanged(root):
    h5py = pytest.importorskip("h5py")
    (root / "BSDS300").mkdir()
    x = numbers(60, 63)
    with h5py.File(root / "BSDS300/BSDS300.hdf5", "w") as file:
        for name, rows in (("train", x[:40]), ("validation", x[40:45]), ("test", x[45:])):
            file[name] = rows
    data = load("BSDS300")
    np.testing.assert_allclose(torch.cat([data.train, data.validation, data.test]), x, rtol=1e-6)
    assert [len(s) for s in (data.train, data.validation, data.test)] == [40, 5, 15]


def test_missing_h5py_is_reported(root, monkeypatch):
    (root / "BSDS300").mkdir()
    (root / "BSDS300/BSDS300.hdf5").touch()
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(UsageError, match="needs the package 'h5py'"):
        load("BSDS300")
