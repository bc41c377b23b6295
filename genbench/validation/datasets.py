"""Validation of data sets when they are loaded; the rest of the code relies on it.

An error is one line that names the data set, the split and the problem, and says what to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from genbench.dataset import Dataset, Modes, Space
from genbench.errors import UsageError
from genbench.registry import find

SPLITS = ("train", "validation", "test")
UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # torch supports few operations on them


class InvalidData(UsageError):
    """A data set does not follow the contract of `Dataset`."""


def describe(value: object) -> str:
    """Return a description of `value` for error messages: "a tensor of float32 and shape (3, 2)", "None"."""
    if isinstance(value, Tensor):
        return f"a tensor of {dtype_name(value.dtype)} and shape {tuple(value.shape)}"
    return "None" if value is None else f"a value of type {type(value).__name__}"


def dtype_name(dtype: torch.dtype) -> str:
    """Return "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")


def is_integer(x: Tensor) -> bool:
    """Return whether x has an integer type; booleans do not count."""
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)


def load_dataset(name: str) -> Dataset:
    """Return the data set called `name`, validated.

    Raises:
        UsageError: no data set has that name, or a file or package that it needs is missing.
        InvalidData: its loader fails, or returns something that `check_dataset` rejects.
    """
    loader = find("datasets", name)
    if not callable(loader):
        raise InvalidData(f"data {name}: expected a function that returns a Dataset, got {describe(loader)}")
    try:
        data = loader()
    except (UsageError, MemoryError, TimeoutError):
        raise
    except Exception as error:
        if "can't allocate memory" in str(error):
            raise
        raise InvalidData(f"data {name}: its loader failed with {type(error).__name__}: {error}") from error
    return check_dataset(name, data)


def check_dataset(name: str, data: object) -> Dataset:
    """Return `data` with its tensors in the types that `Dataset` documents; other floating-point types become float32.

    Raises:
        InvalidData: one line with `name`, the split or field, and the problem.
    """
    if not isinstance(data, Dataset):
        raise InvalidData(f"data {name}: its loader returned {describe(data)}, not a Dataset")
    try:
        _check_space(data.space)
        checked: dict[str, Any] = {s: _split(f"split {s}", getattr(data, s), data.space) for s in SPLITS}
        if len({x.dtype for x in checked.values()}) > 1:
            checked = {split: x.long() for split, x in checked.items()}
        if data.bernoulli_probs is not None:
            checked["bernoulli_probs"] = _bernoulli_probs(data.bernoulli_probs, checked["train"], data.space)
        if data.labels is not None:
            checked["labels"] = _labels(data.labels, [len(checked[split]) for split in SPLITS])
        _check_truth(data)
    except InvalidData as error:
        raise InvalidData(f"data {name}: {error}") from error
    if data.log_prob is not None:
        true_log_prob(name, data.log_prob, checked["test"][:2])
    changed = {field: value for field, value in checked.items() if not _same(value, getattr(data, field))}
    return replace(data, **changed) if changed else data


def _same(value: Any, before: Any) -> bool:
    pairs = zip(value, before, strict=True) if isinstance(value, tuple) else [(value, before)]
    return all(a is b for a, b in pairs)


def _check_space(space: object) -> None:
    if not isinstance(space, Space):
        raise InvalidData(f"space is {describe(space)}, not a Space")
    shape, levels = space.shape, space.levels
    if not isinstance(shape, tuple) or not shape or not all(_is_count(size, 1) for size in shape):
        raise InvalidData(f"space.shape is {shape!r}; expected a tuple of positive integers, as (D,) or (C, H, W)")
    if levels is not None and not _is_count(levels, 2):
        raise InvalidData(f"space.levels is {levels!r}; expected an integer of at least 2, or None for reals")


def _is_count(value: object, least: int) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= least


def _dense(what: str, x: object) -> Tensor:
    """Return x, a dense tensor on the CPU, detached."""
    if not isinstance(x, Tensor):
        hint = "; torch.from_numpy converts" if type(x).__module__ == "numpy" else ""
        raise InvalidData(f"{what} is {describe(x)}; expected a torch.Tensor{hint}")
    if x.layout is not torch.strided or x.device.type != "cpu" or x.is_quantized:
        raise InvalidData(f"{what} is {x.layout} on {x.device}; expected a dense tensor on the CPU")
    return x.detach() if x.requires_grad else x


def _split(what: str, x: object, space: Space) -> Tensor:
    x = _dense(what, x)
    if x.ndim == 0 or tuple(x.shape[1:]) != tuple(space.shape):
        raise InvalidData(f"{what} has shape {tuple(x.shape)}; expected (N, {', '.join(map(str, space.shape))})")
    if len(x) == 0:
        raise InvalidData(f"{what} is empty; every split needs at least one point")
    return as_reals(what, x) if space.levels is None else as_integers(what, x, space.levels)


def as_reals(what: str, x: Tensor) -> Tensor:
    """Return x as float32."""
    if not x.is_floating_point():
        hint = "declare space.levels for integers, or convert with .float()"
        raise InvalidData(f"{what} is {dtype_name(x.dtype)}, but its space is of reals; {hint}")
    x = x if x.dtype == torch.float32 else x.float()
    if not (finite := x.isfinite()).all():
        bad = (~finite).nonzero()
        first, value = bad[0].tolist(), x[~finite][0].item()
        where = f"point {first[0]}" + (f", index {tuple(first[1:])}" if x.ndim > 1 else "")
        raise InvalidData(f"{what} has {len(bad)} values that are not finite, the first {value} at {where}")
    return x


def as_integers(what: str, x: Tensor, levels: int) -> Tensor:
    """Return x in an integer type that torch supports."""
    x = x.byte() if x.dtype == torch.bool else x.long() if x.dtype in UNSIGNED else x
    if not is_integer(x):
        hint = f"convert to integers 0..{levels - 1} (uint8, int64), or declare levels=None for reals"
        raise InvalidData(f"{what} is {dtype_name(x.dtype)}, but its space declares {levels} levels; {hint}")
    low, high = (int(edge) for edge in x.aminmax())
    if low < 0 or high >= levels:
        wrong = low if low < 0 else high
        raise InvalidData(f"{what} holds {wrong}, but its space declares {levels} levels: integers 0..{levels - 1}")
    return x


def _bernoulli_probs(value: object, train: Tensor, space: Space) -> Tensor:
    probs = _dense("bernoulli_probs", value)
    if space.levels != 2:
        raise InvalidData(f"bernoulli_probs are of binary data, but levels={space.levels}; expected levels=2")
    if probs.shape != train.shape:
        raise InvalidData(
            f"bernoulli_probs have shape {tuple(probs.shape)}; expected {tuple(train.shape)}, that of train"
        )
    probs = as_reals("bernoulli_probs", probs)
    low, high = (edge.item() for edge in probs.aminmax())
    if low < 0 or high > 1:
        raise InvalidData(f"bernoulli_probs hold {low if low < 0 else high}; expected probabilities from 0 to 1")
    return probs


def _labels(labels: object, sizes: list[int]) -> tuple[Tensor, ...]:
    if not isinstance(labels, tuple | list) or len(labels) != len(SPLITS):
        raise InvalidData(f"labels are {describe(labels)}; expected (train, validation, test), or None")
    return tuple(_label(f"labels of split {s}", y, n) for s, y, n in zip(SPLITS, labels, sizes, strict=True))


def _label(what: str, y: object, n: int) -> Tensor:
    y = _dense(what, y)
    if tuple(y.shape) != (n,):
        raise InvalidData(f"{what} have shape {tuple(y.shape)}; expected ({n},), one for each point")
    if not is_integer(y):
        raise InvalidData(f"{what} are {dtype_name(y.dtype)}; expected int64")
    y = y.long()
    if (least := int(y.min())) < 0:
        raise InvalidData(f"{what} hold {least}; expected integers of at least 0")
    return y


def _check_truth(data: Dataset) -> None:
    if data.log_prob is not None and not callable(data.log_prob):
        raise InvalidData(f"log_prob is {describe(data.log_prob)}; expected a function, or None")
    entropy = data.entropy
    if entropy is not None and not (isinstance(entropy, int | float) and math.isfinite(entropy)):
        raise InvalidData(f"entropy is {entropy!r}; expected a finite number of nats, or None")
    if data.modes is not None:
        _check_modes(data.modes, data.space)


def _check_modes(modes: Modes, space: Space) -> None:
    centers = as_reals("modes.centers", _dense("modes.centers", modes.centers))
    if tuple(centers.shape[1:]) != tuple(space.shape) or len(centers) == 0:
        raise InvalidData(f"modes.centers have shape {tuple(centers.shape)}; expected (K, *space.shape)")
    if not 0 < modes.sigma < math.inf:
        raise InvalidData(f"modes.sigma is {modes.sigma!r}; expected a positive number")


def true_log_prob(name: str, log_prob: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the true log p(x) of test points of the data set `name`, x (B, *shape) -> (B,) float64 nats.

    Raises:
        InvalidData: `log_prob` fails, or does not return a finite number for each point.
    """
    try:
        value = log_prob(x)
    except Exception as error:
        raise InvalidData(f"data {name}: its log_prob failed with {type(error).__name__}: {error}") from error
    if not isinstance(value, Tensor) or not value.is_floating_point() or tuple(value.shape) != (len(x),):
        raise InvalidData(
            f"data {name}: its log_prob returned {describe(value)}; expected floating point of shape ({len(x)},)"
        )
    if not (finite := value.isfinite()).all():
        at = int((~finite).nonzero()[0])
        raise InvalidData(
            f"data {name}: its log_prob is {value[at].item()} at point {at} of split test; expected a finite number"
        )
    return value.double()


def check_density(name: str, data: Dataset) -> None:
    """Raise if a dimension of real data is constant, for then their likelihood is unbounded.

    Raises:
        InvalidData: one line with `name` and the dimension.
    """
    if data.space.levels is not None:
        return
    low, high = data.train.aminmax(dim=0)
    if (constant := low == high).any():
        at, count = tuple(constant.nonzero()[0].tolist()), int(constant.sum())
        column = f"column {at[0]}" if len(at) == 1 else f"dimension {at}"
        what = f"{column} (always {low[at].item():g})" + (f" and {count - 1} more" if count > 1 else "")
        raise InvalidData(
            f"data {name}: split train is constant in {what}, which makes the likelihood unbounded; remove it"
        )
