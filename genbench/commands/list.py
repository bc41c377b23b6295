"""`genbench list`: list suites, models, datasets, metrics and ops."""

from __future__ import annotations

import ast
import importlib.util
from functools import partial
from pathlib import Path

import click

from genbench.command_line import OK
from genbench.errors import UsageError
from genbench.registry import docs_of, first_line, names
from genbench.suite import read_suite, suite_paths

KINDS = ("suites", "models", "datasets", "metrics", "ops")


@click.command()
@click.argument("kind", type=click.Choice(KINDS), required=False)
def list(kind: str | None) -> int:
    """List suites, models, datasets, metrics and ops."""
    for each in [kind] if kind else KINDS:
        entries = {"suites": suites, "ops": ops}.get(each, partial(names, each))()
        width = max(map(len, entries), default=0)
        print(f"{each}:")
        for name, about in entries.items():
            print(f"  {name:<{width}}  {about}")
    return OK


def suites() -> dict[str, str]:
    """Return title and question of every suite by name, or what is wrong with its file."""
    about = {}
    for name, path in suite_paths().items():
        try:
            about[name] = f"{(suite := read_suite(path)).title}. {suite.question}"
        except UsageError as error:
            about[name] = f"invalid: {error}"
    return about


def ops() -> dict[str, str]:
    """Return the first docstring line of every op of genbench_kernels by name: modules and packages that define OP."""
    spec = importlib.util.find_spec("genbench_kernels")
    folder = Path(spec.origin or "").parent if spec else None
    files = [*folder.glob("*.py"), *folder.glob("*/__init__.py")] if folder else []
    about = {}
    for name, path in sorted((path.parent.name if path.stem == "__init__" else path.stem, path) for path in files):
        text = path.read_text(encoding="utf-8")
        if "\nOP = " in text:
            tree = ast.parse(text)
            about[name] = docs_of(tree).get(name) or first_line(tree)
    return about
