"""Hardware and software of a run, for its record."""

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
    """Return eight hexadecimal digits that identify this host without its name."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def installed(package: str) -> str | None:
    """Return the version of `package`, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@functools.cache
def hardware() -> dict[str, str | int | float | None]:
    """Return processor, cores, memory and system of this machine."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "host": host(),
    }


def _processor() -> str:
    """Return the name, family and model of the processor; on virtual machines the name alone is ambiguous."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, _, value in reversed(lines)}
    name, parts = fields.get("model name", platform.machine()), ("cpu family", "model")
    return f"{name} (family {fields[parts[0]]}, model {fields[parts[1]]})" if all(p in fields for p in parts) else name


def environment(device: torch.device) -> dict[str, Any]:
    """Return hardware, versions and settings that affect numbers, as a flat JSON-ready mapping."""
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
