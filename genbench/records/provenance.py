"""The version of the code, from git."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from genbench.suite import ROOT

CODE = ("genbench", "kernels", "pyproject.toml", "requirements.lock")


def code_version(root: Path = ROOT) -> dict[str, str | bool | None]:
    """Return the commit of the code under `root` and a digest of uncommitted changes; all None without git."""
    if _git(root, "rev-parse", "--show-toplevel") != str(root):
        return {"commit": None, "dirty": None, "diff": None}
    new = _git(root, "ls-files", "--others", "--exclude-standard", "--", *CODE) or ""
    digest = hashlib.sha256((changed := _git(root, "diff", "HEAD", "--", *CODE) or "").encode())
    for name in new.splitlines():
        digest.update(name.encode() + (root / name).read_bytes())
    dirty = bool(changed or new)
    return {
        "commit": _git(root, "rev-parse", "HEAD"),
        "dirty": dirty,
        "diff": digest.hexdigest()[:16] if dirty else None,
    }


def _git(root: Path, *arguments: str) -> str | None:
    """Return the output of a git command under `root`, None if it fails."""
    try:
        done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
