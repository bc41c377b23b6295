"""The five tabular data sets of the density estimation literature, from the archive of Masked Autoregressive Flow.

Columns, noise, splits and scaling follow Masked Autoregressive Flow for Density Estimation (2017), appendix D, and its
released code. Unpack the archive (data.tar.gz) in the folder named by GENBENCH_DATA (default: data), or next to it;
nothing is downloaded. x (N, D) float32.

GAS is a pickle, a format that can make its reader call any function. The unpickler here calls only the classes and
functions that tables of pandas and NumPy need, listed in `ALLOWED_GLOBALS`, and rejects everything else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from genbench.dataset import Dataset, Space
from genbench.datasets.downloads import data_root
from genbench.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BSDS300", "GAS", "HEPMASS", "MINIBOONE", "POWER"]

Array = NDArray[np.float64]
Splits = tuple[Array, Array, Array]  # train, validation, test, each (N, D)


@dataclass(frozen=True)
class Table:
    """The files of a data set and how they are prepared; calling it returns the data set.

    Attributes:
        files: paths in the archive's folder ``data``.
        prepare: contents of the files -> the three splits.
    """

    files: tuple[str, ...]
    prepare: Callable[..., Splits]

    def __call__(self) -> Dataset:
        """Return the data set.

        Raises:
            UsageError: a file is missing, cannot be read, or needs a package that is not installed.
        """
        return load(self, tuple(self.fetch()))

    def fetch(self) -> list[Path]:
        """Return the paths of the files.

        Raises:
            UsageError: one is missing.
        """
        return [find_file(data_root(), file) for file in self.files]

    def paths(self) -> list[Path]:
        """Return the paths of the files; raises UsageError if one is missing."""
        return self.fetch()


@functools.lru_cache(maxsize=1)
def load(table: Table, paths: tuple[Path, ...]) -> Dataset:
    """Return the data set of `table` from its files `paths`; the last one stays in memory."""
    contents = [read_file(path) for path in paths]
    try:
        splits = table.prepare(*contents)
    except (ValueError, LookupError, TypeError, AttributeError, ZeroDivisionError) as error:
        files, why = ", ".join(map(str, paths)), " ".join(str(error).split())[:200]
        raise UsageError(f"{files} cannot be prepared ({why}): unpack data.tar.gz again") from None
    train, validation, test = (torch.from_numpy(np.asarray(x, np.float32)) for x in splits)
    return Dataset(Space((train.shape[1],)), train, validation, test)


def find_file(root: Path, file: str) -> Path:
    """Return the path of `file` of the archive, unpacked in `root` or as its folder ``data``.

    Raises:
        UsageError: it is missing.
    """
    for path in (root / file, root / "data" / file):
        if path.is_file():
            return path
    raise UsageError(
        f"{root / file} is missing: unpack it there from data.tar.gz of Masked Autoregressive Flow (data/{file}), "
        f"or set GENBENCH_DATA to the folder that has it"
    )


def read_file(path: Path) -> Any:
    """Return the content of the file: an array, a table with named columns, or the arrays of an HDF5 file by name.

    Raises:
        UsageError: it is damaged, or needs a package that is not installed.
    """
    try:
        return READERS[path.suffix](path)
    except UsageError:
        raise
    except Exception as error:  # readers raise almost anything on damaged files
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(f"{path} cannot be read ({why}): unpack data.tar.gz again") from None


def read_npy(path: Path) -> Array:
    """Return the array of an .npy file; arrays of Python objects, which are pickles, are rejected."""
    array: Array = np.load(path, allow_pickle=False).astype(np.float64)
    return array


def read_csv_table(path: Path) -> pd.DataFrame:
    """Return the table of a .csv file, whose first row names the columns."""
    import pandas as pd

    return pd.read_csv(path, index_col=False)


def read_hdf5(path: Path) -> dict[str, Array]:
    """Return the arrays of an HDF5 file by name.

    Raises:
        UsageError: h5py is not installed.
    """
    try:
        import h5py
    except ModuleNotFoundError:
        raise UsageError(f"{path.name} needs the package 'h5py', which is not installed: pip install h5py") from None
    with h5py.File(path) as file:
        return {name: file[name][:] for name in file}


ALLOWED_GLOBALS = {  # by package: classes and functions that pickles of tables use, in any module
    "pandas": {
        *("DataFrame", "BlockManager", "Index", "RangeIndex", "Int64Index", "Float64Index", "StringArray"),
        *("StringDtype", "_new_Index", "_unpickle_block", "new_block", "__pyx_unpickle_NDArrayBacked"),
    },
    "numpy": {"ndarray", "dtype", "_reconstruct", "_frombuffer", "scalar"},
    "builtins": {"slice", "object"},
    "copyreg": {"_reconstructor"},  # for objects in pickles of protocols 0 and 1
    "_codecs": {"encode"},  # for bytes in pickles of protocols 0 to 2
}
PYTHON2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}


def read_pickled_table(path: Path) -> pd.DataFrame:
    """Return a pickled table.

    Raises:
        UsageError: pandas cannot read it (it may be too old), or the pickle uses something that is not in
            `ALLOWED_GLOBALS`, or it is not a table.
    """
    import pandas as pd
    from pandas.compat import pickle_compat  # type: ignore[import-not-found]

    class TableUnpickler(pickle_compat.Unpickler):  # type: ignore[misc]
        """The unpickler of pandas, which can read old pickles, limited to `ALLOWED_GLOBALS`."""

        def find_class(self, module: str, name: str) -> Any:
            package = PYTHON2_MODULES.get(module, module.partition(".")[0])
            if name not in ALLOWED_GLOBALS.get(package, ()):
                raise UsageError(f"{path} is rejected: it would call {module}.{name}, which tables do not need")
            return super().find_class(module, name)

    try:
        with path.open("rb") as file:
            table = TableUnpickler(file, encoding="latin-1").load()
    except (AttributeError, ImportError, TypeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"{path} cannot be read by pandas {pd.__version__} ({' '.join(str(error).split())[:200]}): "
            f"load it with pandas 1.2 and save it again with to_pickle"
        ) from None
    if not isinstance(table, pd.DataFrame):
        raise UsageError(f"{path} contains a {type(table).__name__}, not a table")
    return table


READERS: dict[str, Callable[[Path], Any]] = {
    ".npy": read_npy,
    ".csv": read_csv_table,
    ".hdf5": read_hdf5,
    ".pickle": read_pickled_table,
}


# -------------------------------------------------------------------------------------------------- preparation


def split_last_tenths(x: Array) -> Splits:
    """Return x (N, D) split by rows: the last tenth is the test split, the last tenth of the rest validation."""
    rest, test = np.split(x, [len(x) - int(0.1 * len(x))])
    train, validation = np.split(rest, [len(rest) - int(0.1 * len(rest))])
    return train, validation, test


def standardize(splits: Splits) -> Splits:
    """Return the splits, scaled to mean 0 and variance 1 over train and validation together."""
    fitted = np.concatenate(splits[:2])
    train, validation, test = ((x - fitted.mean(0)) / fitted.std(0) for x in splits)
    return train, validation, test


def prepare_power(x: Array) -> Splits:
    """Return electricity use of a household by minute: active power, voltage, three meters and the time of day.

    Rows are shuffled with seed 42. Reactive power and current are dropped. Measurements get uniform noise of the width
    of their last digit, drawn for voltage first.
    """
    generator = np.random.RandomState(42)
    x = x.copy()
    generator.shuffle(x)
    n, x = len(x), np.delete(x, (1, 3), axis=1)
    voltage, active, meters = 0.01 * generator.rand(n, 1), 0.001 * generator.rand(n, 1), generator.rand(n, 3)
    return standardize(split_last_tenths(x + np.hstack((active, voltage, meters, np.zeros((n, 1))))))


def prepare_gas(table: pd.DataFrame) -> Splits:
    """Return signals of chemical sensors in a mixture of ethylene and carbon monoxide, standardized over all rows.

    Time and concentrations are dropped. Then the first sensor whose correlation with another exceeds 0.98 is dropped,
    repeatedly, until none is left.
    """
    table = table.drop(columns=["Meth", "Eth", "Time"])
    while len(correlated := np.flatnonzero((table.corr().to_numpy() > 0.98).sum(1) > 1)):
        table = table.drop(columns=table.columns[correlated[0]])
    return split_last_tenths(((table - table.mean()) / table.std()).to_numpy(np.float64))


def prepare_hepmass(train: pd.DataFrame, test: pd.DataFrame) -> Splits:
    """Return the signals (label 1) of simulated collisions at mass 1000, standardized by the training file.

    Columns whose smallest value occurs more than five times are dropped as discrete, as in the released code. The test
    file has an extra last column. The last tenth of the training file is for validation.
    """
    signal, other = (table[table.iloc[:, 0] == 1].iloc[:, 1:] for table in (train, test))
    a, b = signal.to_numpy(np.float64), other.iloc[:, :-1].to_numpy(np.float64)
    continuous = (a == a.min(0)).sum(0) <= 5
    x, y = ((z - a.mean(0)) / a.std(0, ddof=1) for z in (a, b))
    first, validation = np.split(x[:, continuous], [len(x) - int(0.1 * len(x))])
    return first, validation, y[:, continuous]


def prepare_miniboone(x: Array) -> Splits:
    """Return events of a neutrino experiment; the archive has no outliers and no discrete columns."""
    return standardize(split_last_tenths(x))


def prepare_bsds300(arrays: dict[str, Array]) -> Splits:
    """Return gray 8x8 patches of photographs, minus their mean and without the last pixel, as in the archive."""
    return arrays["train"], arrays["validation"], arrays["test"]


POWER = Table(("power/data.npy",), prepare_power)
GAS = Table(("gas/ethylene_CO.pickle",), prepare_gas)
HEPMASS = Table(("hepmass/1000_train.csv", "hepmass/1000_test.csv"), prepare_hepmass)
MINIBOONE = Table(("miniboone/data.npy",), prepare_miniboone)
BSDS300 = Table(("BSDS300/BSDS300.hdf5",), prepare_bsds300)
