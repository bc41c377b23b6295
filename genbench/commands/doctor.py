"""`genbench doctor`: check this machine."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from genbench.command_line import FAILED, OK, results_option
from genbench.console import printable
from genbench.datasets.downloads import FEATURE_NETS, data_root
from genbench.errors import UsageError
from genbench.records.environment import hardware, installed
from genbench.records.store import Store

NEEDED = {
    "torch": "everything",
    "sklearn": "the digits and photo patches",
    "ray": "--executor ray; without it, use --executor process",
    "torchvision": "data sets under GENBENCH_DATA",
    "torch_fidelity": "FID, KID and inception score",
    "ot": "the Wasserstein distance of samples",
    "torchdiffeq": "FFJORD",
    "triton": "fused kernels on a GPU; Linux only",
}
DISTRIBUTIONS = {"sklearn": "scikit-learn", "ot": "POT"}  # by module, where the names differ


@click.command()
@results_option
def doctor(results: Path) -> int:
    """Check this machine: versions, GPU, data and results folder."""
    table = Table("", "what", "result", box=None, pad_edge=False)
    checks = list(_checks(results))
    for ok, what, detail in checks:
        mark = {True: Text("ok", "green"), False: Text("problem", "red"), None: Text("none", "yellow")}[ok]
        table.add_row(mark, what, Text(printable(detail)))
    Console().print(table)
    return OK if all(ok is not False for ok, _, _ in checks) else FAILED


def _checks(results: Path) -> Iterator[tuple[bool | None, str, str]]:
    machine = hardware()
    yield True, "machine", f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
    for module, purpose in NEEDED.items():
        try:
            importlib.import_module(module)
            yield True, module, installed(DISTRIBUTIONS.get(module, module)) or ""
        except Exception as error:  # also a package that is installed but broken
            yield (
                (False if module == "torch" else None),
                module,
                f"{type(error).__name__}: {error}; needed for {purpose}",
            )
    yield _gpu()
    yield _data(data_root())
    yield _results(results)


def _data(root: Path) -> tuple[bool | None, str, str]:
    try:
        folders = [path.name for path in root.iterdir() if path.is_dir()]
    except FileNotFoundError:
        folders = []
    except OSError as error:
        return False, "GENBENCH_DATA", f"{root} cannot be read: {error.strerror}"
    names = sorted(name for name in folders if name != FEATURE_NETS)
    return (bool(names) or None), "GENBENCH_DATA", f"{root}: {', '.join(names) if names else 'no data sets'}"


def _gpu() -> tuple[bool | None, str, str]:
    import torch

    if not torch.cuda.is_available():
        return None, "GPU", "none; every embedded suite runs without one"
    return True, "GPU", ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def _results(folder: Path) -> tuple[bool, str, str]:
    store = Store(folder)
    try:
        store.prepare()
        free = f"{shutil.disk_usage(folder).free / 2**30:.0f} GiB free"
    except UsageError as error:
        return False, "results", str(error)
    except OSError as error:
        return False, "results", f"{folder}: {error.strerror}"
    records, damaged = store.records(), store.damaged
    names = "".join(f"; {path}: damaged: {problem}" for path, problem in damaged[:3])
    more = f"; and {len(damaged) - 3} more" if len(damaged) > 3 else ""
    return not damaged, "results", f"{folder} is writable, {free}, {len(records)} records{names}{more}"
