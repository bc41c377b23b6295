"""The five data sets on which flows of plain vectors are compared, from the archive of Masked Autoregressive Flow.

Masked Autoregressive Flow for Density Estimation (2017), appendix D, and its released code say what columns go, what
noise comes in and how rows are split and scaled. The archive (data.tar.gz) is unpacked by hand in the folder that
GENBENCH_DATA names (default: data), or beside it; nothing is downloaded. x (N, D) float32.

GAS is a pickle, a format that can make its reader call any function. It is read by an unpickler that calls only what
tables of pandas and NumPy are made of, listed in `TABLE_PARTS`, and refuses everything else.
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
    """Where a data set is and how it is made of its files; called, it gives the data set.

    Attributes:
        files: in the archive's folder ``data``.
        prepare: makes the three splits of what the files hold.
    """

    files: tuple[str, ...]
    prepare: Callable[..., Splits]

    def __call__(self) -> Dataset:
        """Return the data set.

        Raises:
            UsageError: a file is not there, cannot be read, or needs a package that is missing.
        """
        return loaded(self, tuple(self.fetch()))

    def fetch(self) -> list[Path]:
        """Return the paths of the files.

        Raises:
            UsageError: one is not there.
        """
        return [found(data_root(), file) for file in self.files]

    def paths(self) -> list[Path]:
        """Return the paths of the files that are read; raises UsageError if one is missing."""
        return self.fetch()


@functools.lru_cache(maxsize=1)
def loaded(table: Table, paths: tuple[Path, ...]) -> Dataset:
    """Return the data set of `table`, whose files are at `paths`; the latest one is kept in memory."""
    contents = [opened(path) for path in paths]
    try:
        splits = table.prepare(*contents)
    except (ValueError, LookupError, TypeError, AttributeError, ZeroDivisionError) as error:
        files, why = ", ".join(map(str, paths)), " ".join(str(error).split())[:200]
        raise UsageError(f"{files} cannot be prepared ({why}): unpack data.tar.gz again") from None
    train, validation, test = (torch.from_numpy(np.asarray(x, np.float32)) for x in splits)
    return Dataset(Space((train.shape[1],)), train, validation, test)


def found(root: Path, file: str) -> Path:
    """Return the path of `file` of the archive, unpacked in `root` (which may be its folder ``data``).

    Raises:
        UsageError: it is not there.
    """
    for path in (root / file, root / "data" / file):
        if path.is_file():
            return path
    raise UsageError(
        f"{root / file} is not there: unpack data.tar.gz of Masked Autoregressive Flow, which holds data/{file}, "
        f"so that it is, or name another folder in GENBENCH_DATA"
    )


def opened(path: Path) -> Any:
    """Return what the file holds: an array, a table with named columns, or the arrays of an HDF5 file by name.

    Raises:
        UsageError: it is damaged, or needs a package that is missing.
    """
    try:
        return READERS[path.suffix](path)
    except UsageError:
        raise
    except Exception as error:  # there is no end to what readers raise on damaged files
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(f"{path} cannot be read ({why}): unpack data.tar.gz again") from None


def numpy_array(path: Path) -> Array:
    """Return the array of an .npy file; one of Python objects, which would be pickled, is refused."""
    array: Array = np.load(path, allow_pickle=False).astype(np.float64)
    return array


def csv(path: Path) -> pd.DataFrame:
    """Return the table of a .csv file, whose first row names the columns."""
    import pandas as pd

    return pd.read_csv(path, index_col=False)


def hdf5(path: Path) -> dict[str, Array]:
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


TABLE_PARTS = {  # by package: the classes and functions that pickles of tables call, in whichever module they are
    "pandas": {
        *("DataFrame", "BlockManager", "Index", "RangeIndex", "Int64Index", "Float64Index", "StringArray"),
        *("StringDtype", "_new_Index", "_unpickle_block", "new_block", "__pyx_unpickle_NDArrayBacked"),
    },
    "numpy": {"ndarray", "dtype", "_reconstruct", "_frombuffer", "scalar"},
    "builtins": {"slice", "object"},
    "copyreg": {"_reconstructor"},  # of any object in pickles of protocols 0 and 1
    "_codecs": {"encode"},  # of bytes in pickles of protocols 0 to 2
}
OLD_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # of Python 2


def unpickled(path: Path) -> pd.DataFrame:
    """Return a pickled table; one that pandas of 2017 wrote may be beyond the pandas of today.

    Raises:
        UsageError: it is, or the pickle calls something that is not in `TABLE_PARTS`, or holds no table.
    """
    import pandas as pd
    from pandas.compat import pickle_compat  # type: ignore[import-not-found]

    class TableUnpickler(pickle_compat.Unpickler):  # type: ignore[misc]
        """The unpickler of pandas, which knows where old versions had what, with no access to anything else."""

        def find_class(self, module: str, name: str) -> Any:
            package = OLD_NAMES.get(module, module.partition(".")[0])
            if name not in TABLE_PARTS.get(package, ()):
                raise UsageError(f"{path} is refused: it would call {module}.{name}, which is no part of a table")
            return super().find_class(module, name)

    try:
        with path.open("rb") as file:
            table = TableUnpickler(file, encoding="latin-1").load()
    except (AttributeError, ImportError, TypeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"{path} cannot be read by pandas {pd.__version__} ({' '.join(str(error).split())[:200]}): "
            f"read it once with pandas 1.2 and write it again with to_pickle"
        ) from None
    if not isinstance(table, pd.DataFrame):
        raise UsageError(f"{path} holds a {type(table).__name__} and no table")
    return table


READERS: dict[str, Callable[[Path], Any]] = {".npy": numpy_array, ".csv": csv, ".hdf5": hdf5, ".pickle": unpickled}


# ------------------------------------------------------------------------------------------------------ the sets


def last_tenths(x: Array) -> Splits:
    """Return the rows x (N, D) split: the last tenth is the test split, the last tenth of the rest validation."""
    rest, test = np.split(x, [len(x) - int(0.1 * len(x))])
    train, validation = np.split(rest, [len(rest) - int(0.1 * len(rest))])
    return train, validation, test


def standardised(splits: Splits) -> Splits:
    """Return the splits with mean 0 and variance 1 over the first two together."""
    seen = np.concatenate(splits[:2])
    train, validation, test = ((x - seen.mean(0)) / seen.std(0) for x in splits)
    return train, validation, test


def power(x: Array) -> Splits:
    """Return minutes of a household's electricity: active power, voltage, three meters and the time of day.

    Rows are shuffled by seed 42. Reactive power and current go; each measured number gets uniform noise of the width
    of its last digit, drawn for voltage first.
    """
    generator = np.random.RandomState(42)
    x = x.copy()
    generator.shuffle(x)
    n, x = len(x), np.delete(x, (1, 3), axis=1)
    voltage, active, meters = 0.01 * generator.rand(n, 1), 0.001 * generator.rand(n, 1), generator.rand(n, 3)
    return standardised(last_tenths(x + np.hstack((active, voltage, meters, np.zeros((n, 1))))))


def gas(table: pd.DataFrame) -> Splits:
    """Return the signals of chemical sensors in a mixture of ethylene and carbon monoxide, scaled over all rows.

    Time and concentrations go; then, of the sensors that correlate by more than 0.98 with another, the first, again and
    again until there is none.
    """
    table = table.drop(columns=["Meth", "Eth", "Time"])
    while len(alike := np.flatnonzero((table.corr().to_numpy() > 0.98).sum(1) > 1)):
        table = table.drop(columns=table.columns[alike[0]])
    return last_tenths(((table - table.mean()) / table.std()).to_numpy(np.float64))


def hepmass(train: pd.DataFrame, test: pd.DataFrame) -> Splits:
    """Return the signals (label 1) among simulated collisions of particles of mass 1000, scaled by the training file.

    Columns whose smallest value occurs more than five times go: the released code drops these as discrete. The test
    file has a last column more. The last tenth of the training file is for validation.
    """
    signal, other = (table[table.iloc[:, 0] == 1].iloc[:, 1:] for table in (train, test))
    a, b = signal.to_numpy(np.float64), other.iloc[:, :-1].to_numpy(np.float64)
    kept = (a == a.min(0)).sum(0) <= 5
    x, y = ((z - a.mean(0)) / a.std(0, ddof=1) for z in (a, b))
    first, validation = np.split(x[:, kept], [len(x) - int(0.1 * len(x))])
    return first, validation, y[:, kept]


def miniboone(x: Array) -> Splits:
    """Return events of a neutrino experiment; outliers and discrete columns have been taken out in the archive."""
    return standardised(last_tenths(x))


def bsds300(held: dict[str, Array]) -> Splits:
    """Return grey patches of 8x8 pixels of photographs without mean and without last pixel, as the archive has them."""
    return held["train"], held["validation"], held["test"]


POWER = Table(("power/data.npy",), power)
GAS = Table(("gas/ethylene_CO.pickle",), gas)
HEPMASS = Table(("hepmass/1000_train.csv", "hepmass/1000_test.csv"), hepmass)
MINIBOONE = Table(("miniboone/data.npy",), miniboone)
BSDS300 = Table(("BSDS300/BSDS300.hdf5",), bsds300)
