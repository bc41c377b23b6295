"""Validation of models and of what their methods return, where it is first used; the rest of the code relies on it.

An error is one line that names the class, the method, what it returned and what was expected. Values that are not
finite are errors in samples only: a likelihood or a loss that is not finite means that the run diverged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from genbench.dataset import Space
from genbench.errors import UsageError
from genbench.model import Model, OptimizedLoss
from genbench.suite import Kind
from genbench.validation.datasets import InvalidData, as_integers, as_reals, describe, dtype_name


class InvalidModel(UsageError):
    """A model, or the result of one of its methods, does not follow the contract of `Model`."""


def check_model(name: str, model: object) -> Model:
    """Return `model`, a Model with a valid `likelihood`."""
    if not isinstance(model, Model):
        raise InvalidModel(f"model {name}: expected a genbench.model.Model, got {describe(model)}")
    if model.likelihood not in (None, *get_args(Kind)):
        kinds = ", ".join(map(repr, get_args(Kind)))
        raise InvalidModel(f"model {name}: likelihood is {model.likelihood!r}; expected {kinds} or None")
    return model


def check_optimized_losses(model: nn.Module, result: object) -> list[OptimizedLoss | tuple[OptimizedLoss, ...]]:
    """Return `result`, that of `Model.configure_optimizers`: a list of `OptimizedLoss` and of tuples of them."""
    phases: list[Any] = result if isinstance(result, list) else [result]
    losses = [loss for phase in phases for loss in (phase if isinstance(phase, tuple) else (phase,))]
    if wrong := [loss for loss in losses if not isinstance(loss, OptimizedLoss)]:
        problem = f"{describe(wrong[0])}; expected a list of OptimizedLoss and of tuples of them"
        raise InvalidModel(f"{type(model).__name__}.configure_optimizers returned {problem}")
    return phases


def check_parameters(model: nn.Module, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters of an optimizer of `model`, as a list of at least one."""
    parameters = list(parameters)
    if not parameters:
        raise InvalidModel(f"{type(model).__name__}.configure_optimizers creates an optimizer without parameters")
    return parameters


State = dict[str, tuple[int | None, torch.Size]]  # by name: identity of the parameter (None: buffer), and shape


def state_of(model: nn.Module) -> State:
    """Return the identities and shapes of parameters and buffers, for `check_state`."""
    parameters = {name: id(p) for name, p in model.named_parameters()}
    return {
        name: (parameters.get(name), x.shape)
        for name, x in model.state_dict(keep_vars=True).items()
        if isinstance(x, Tensor)
    }


def check_state(model: nn.Module, before: State) -> None:
    """Raise if parameters or buffers were added, removed or replaced since `before`; no optimizer would update them.

    Raises:
        InvalidModel: one line with their names.
    """
    after = state_of(model)
    if changed := sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)):
        names = ", ".join(map(repr, changed[:5])) + (", ..." if len(changed) > 5 else "")
        advice = "create parameters and buffers in __init__ and change them in place"
        raise InvalidModel(f"{type(model).__name__} added or replaced {names} after it was built; {advice}")


def check_reloaded(model: nn.Module, before: Tensor | None, repeated: Tensor | None, after: Tensor | None) -> None:
    """Raise if a part of the model's state is not in its state dict, so that the reloaded model gives other results.

    Args:
        before, repeated: the same output of the trained model, computed twice; None if it has none.
        after: that output of a new model with the same state dict.
    """
    if before is None or repeated is None or after is None or not close(before, repeated):
        return
    if not close(before, after):
        advice = "store tensors that training or fit_closed_form sets in buffers (register_buffer)"
        raise InvalidModel(f"{type(model).__name__} has state outside its state dict and is lost when saved; {advice}")


def close(a: Tensor, b: Tensor) -> bool:
    """Return whether two outputs, floating point or integers, differ by rounding only."""
    a, b = a.double(), b.double()
    alike = torch.allclose(a, b, rtol=1e-3, atol=1e-3, equal_nan=True)
    return alike or bool((a - b).abs().mean() <= 1e-3 * a.abs().mean())


def materialize(model: Model, x: Tensor) -> None:
    """Initialize lazy parameters and buffers of `model`, if any, by computing a loss of x (B, *shape).

    Raises:
        InvalidModel: some are still uninitialized after that.
    """
    if not lazy_names(model):
        return
    model.eval()
    with torch.no_grad():
        model.loss(x)
    model.train()
    if names := lazy_names(model):
        problem = f"{', '.join(names)} without a shape after a first loss; set the sizes of their layers"
        raise InvalidModel(f"{type(model).__name__} leaves {problem}")


def lazy_names(model: nn.Module) -> list[str]:
    """Return the names of parameters and buffers that are not initialized yet."""
    return [name for name, x in (*model.named_parameters(), *model.named_buffers()) if is_lazy(x)]


def _tensor(model: nn.Module, method: str, value: object, device: torch.device | None) -> Tensor:
    where = f"{type(model).__name__}.{method}"
    if not isinstance(value, Tensor):
        raise InvalidModel(f"{where} returned {describe(value)}; expected a tensor")
    if device is not None and value.device != device:
        raise InvalidModel(f"{where} returned a tensor on {value.device}; expected one on {device}, as its input")
    return value


def check_log_prob(model: nn.Module, value: object, x: Tensor) -> Tensor:
    """Return `value`, the log-likelihood of x (B, *shape): (B,), floating point, on the device of x.

    It may be infinite or NaN, which means that the run has diverged.
    """
    value, expected = _tensor(model, "log_prob", value, x.device), (len(x),)
    if tuple(value.shape) != expected:
        problem = f"a tensor of shape {tuple(value.shape)} for {len(x)} points"
        raise InvalidModel(f"{type(model).__name__}.log_prob returned {problem}; expected {expected}, nats per point")
    return _floating(model, "log_prob", value)


def check_log_weights(model: nn.Module, value: object, x: Tensor, k: int) -> Tensor:
    """Return `value`, log-weights (k', B) of x (B, *shape), 1 to k per point."""
    value = _tensor(model, "log_weights", value, x.device)
    if value.ndim != 2 or value.shape[1] != len(x) or not 1 <= len(value) <= k:
        problem = f"a tensor of shape {tuple(value.shape)} for {k} draws of {len(x)} points"
        raise InvalidModel(f"{type(model).__name__}.log_weights returned {problem}; expected ({k}, {len(x)})")
    return _floating(model, "log_weights", value)


def _floating(model: nn.Module, method: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        raise InvalidModel(
            f"{type(model).__name__}.{method} returned {dtype_name(value.dtype)}; expected floating point"
        )
    return value


def check_loss(model: nn.Module, loss: Callable[[Tensor], Tensor], value: object) -> Tensor:
    """Return `value`, the result of `loss`: (), floating point, with a gradient."""
    method = name if (name := getattr(loss, "__name__", "")).isidentifier() else "loss"
    value = _tensor(model, method, value, None)
    if value.ndim:
        problem = f"a tensor of shape {tuple(value.shape)}; expected a scalar, shape (): its mean over the batch"
        raise InvalidModel(f"{type(model).__name__}.{method} returned {problem}")
    value = _floating(model, method, value)
    if not value.requires_grad:
        problem = "a loss without a gradient; it must depend on parameters that are trained, and not be detached"
        raise InvalidModel(f"{type(model).__name__}.{method} returned {problem}")
    return value


def check_samples(model: nn.Module, value: object, n: int, space: Space) -> Tensor:
    """Return `value` on the CPU, n samples (n, *shape) of `space`; reals as float32.

    Raises:
        InvalidModel: the number or the shape is wrong, values are not finite or not within the levels, or they are
            floating point for integers or integers for reals.
    """
    value, expected = _tensor(model, "sample", value, None), (n, *space.shape)
    where = f"{type(model).__name__}.sample"
    if tuple(value.shape) != expected:
        raise InvalidModel(f"{where}({n}) returned a tensor of shape {tuple(value.shape)}; expected {expected}")
    try:
        value, what = value.detach().cpu(), f"{where} returned a tensor that"
        return as_reals(what, value) if space.levels is None else as_integers(what, value, space.levels)
    except InvalidData as error:
        raise InvalidModel(str(error)) from None
