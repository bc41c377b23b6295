"""Where a run was performed and with which code: what a reader needs to reproduce or doubt a number."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import socket
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from genbench.suite import ROOT


def host() -> str:
    """Return eight hexadecimal digits that tell this host from others without naming it."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def installed(package: str) -> str | None:
    """Return the version of `package`, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@functools.cache
def hardware() -> dict[str, str | int | float | None]:
    """Return what the machine is: processor, cores, memory, system."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "host": host(),
    }


def _processor() -> str:
    """Return the processor's name with its family and model: virtual machines give one name to several generations."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        return platform.processor() or platform.machine()
    said = {key.strip(): value.strip() for key, _, value in reversed(lines)}
    name, parts = said.get("model name", platform.machine()), ("cpu family", "model")
    return f"{name} (family {said[parts[0]]}, model {said[parts[1]]})" if all(p in said for p in parts) else name


def environment(device: torch.device) -> dict[str, Any]:
    """Return hardware, versions and the switches that move numbers, flat and JSON-ready."""
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        **hardware(),
        "device": device.type,
        "gpu": gpu.name if gpu else None,
        "cuda": torch.version.cuda if gpu else None,
        "python": platform.python_version(),
        **{package: installed(package) for package in ("torch", "triton", "ray", "numpy", "scikit-learn")},
        "threads": torch.get_num_threads(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "lock": _lock(),
    }


@functools.cache
def _lock() -> str | None:
    path = ROOT / "requirements.lock"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else None
