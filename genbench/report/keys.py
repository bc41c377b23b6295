"""Names for files and anchors: short, of plain letters, and a different one for each thing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TypeVar

Thing = TypeVar("Thing", bound=tuple[object, ...])

LONGEST = 150  # letters of a key: with what is added to it, it is within the 255 that a file's name may have


def unique_keys(things: Iterable[Thing]) -> dict[Thing, str]:
    """Return a key for each of `things`, tuples of (suite, version) or (suite, version, data): ``suite-v1-data``.

    Letters that a file's name or an anchor cannot have become ``-``. Where that gives two of them one key, or ones that
    differ only in case, and where it would be too long, a digest of the thing follows; the first in order needs none.
    """
    keys: dict[Thing, str] = {}
    taken: set[str] = set()
    for thing in sorted(dict.fromkeys(things)):
        plain, short = _plain(map(str, thing)), _plain(str(part)[:20] for part in thing)
        digest = hashlib.sha256(repr(thing).encode("utf-8", "backslashreplace")).hexdigest()
        candidates = [plain] * (len(plain) <= LONGEST) + [f"{short}-{digest[:n]}" for n in (8, 64)]
        keys[thing] = next(key for key in candidates if key.lower() not in taken)
        taken.add(keys[thing].lower())
    return keys


def _plain(parts: Iterable[str]) -> str:
    suite, version, *data = parts
    text = "-".join([f"{suite}-v{version}", *data])
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in text).lstrip(".-")
