"""Options of the speed tests, the description of the machine in their JSON, and their time limit."""

from __future__ import annotations

import subprocess
from time import time
from typing import Any

import pytest
import torch

LAUNCHES = pytest.StashKey[dict[str, dict[str, int | None]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to test the tests, not the kernels"
    )
    parser.addoption("--tiny", action="store_true", help="smallest sizes and few rounds")
    parser.addoption("--deadline", type=float, default=float("inf"), help="time.time() after which no test starts")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LAUNCHES] = {}


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.config.getoption("--device") == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    grace = 30 if item.name.startswith("test_launches") else 0  # they run last, are quick, and decide a goal
    if time() > item.config.getoption("--deadline") + grace:
        give_up = pytest.skip if item.path.name == "test_speed.py" else pytest.fail
        give_up("not run: the time limit is reached")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """Return the device under test."""
    return torch.device(request.config.getoption("--device"))


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info.pop("node", None)  # the host name, not hardware
    machine_info["versions"] = {"torch": torch.__version__, "cuda": torch.version.cuda, "triton": _triton()}
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        machine_info["gpu"] = {
            "name": gpu.name,
            "capability": f"{gpu.major}.{gpu.minor}",
            "multiprocessors": gpu.multi_processor_count,
            "memory": gpu.total_memory,
            "L2": gpu.L2_cache_size,
            "driver": _driver(),
        }


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    output_json["launches"] = config.stash[LAUNCHES]


def _triton() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    return str(triton.__version__)


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None
