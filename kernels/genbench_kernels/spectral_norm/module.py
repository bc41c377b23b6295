"""spectral_norm_ and its inverse: layers whose weights are normalized together at the start of each forward pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from genbench_kernels.op import Backend, choose
from genbench_kernels.spectral_norm.autograd import fused, version
from genbench_kernels.spectral_norm.reference import Mode, Order, initial_vectors, matrix, reference

Modules = TypeVar("Modules", bound=nn.Module | Iterable[nn.Module])
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


def spectral_norm_(
    modules: Modules,
    *,
    eps: float = 1e-12,
    n_iter: int = 1,
    order: Order = "torch",
    mode: Mode = "weight",
    backend: Backend = "auto",
) -> Modules:
    """Return `modules`, a network or layers, after registering spectral normalization on each layer.

    Of a network, every Linear, Conv and ConvTranspose is taken. State dicts have the same keys as torch's own, so
    checkpoints are exchangeable: with `torch.nn.utils.parametrizations.spectral_norm` for order="torch" (u before v),
    with the older `torch.nn.utils.spectral_norm` for "legacy" (v before u). mode="weight" makes `.weight` W / sigma;
    "sigma" leaves `.weight` at W and divides the layer's *input* by sigma, which is the same map, W (x / sigma) + b,
    without writing a second W: use it where weights are larger than activations.

    **When u and v are updated.** All layers are updated together, at the start of a pass. A pass starts when a weight
    is requested (by the layer's forward; for order="torch" by any access to `.weight`) that was already used in the
    current pass, or that has changed since, through an optimizer, train() or eval(), or grad mode. So a network whose
    layers each run once per forward makes `n_iter` iterations per forward, as torch's does; a layer used twice starts a
    second pass for all layers. Under torch.compile a pass ends with its graph: if a network is compiled in pieces,
    normalize each piece by itself. In eval mode u and v do not change. They are saved per pass, so several forwards may
    precede one backward; one node of the graph then computes the gradients of all layers, once all have arrived.

    To undo it for a layer, use `remove_spectral_norm_`, or, for order="torch" and mode="weight", torch's
    `parametrize.remove_parametrizations`; the other layers stay normalized. (In mode "sigma" torch's function leaves W,
    which is what `.weight` is there, and the input is no longer divided.)

    Source: Spectral Normalization for Generative Adversarial Networks, 2018, algorithm 1; 15 + n_iter iterations at
    initialization for order="torch", none for "legacy", as in torch. Arithmetic is float32, or float64 for float64
    weights. Raises ValueError for a layer without weight or already normalized, and for unknown order, mode or backend.
    """
    layers = _collect_layers(modules)
    _check(layers, eps, n_iter, order, mode, backend)
    group = LayerGroup(layers, eps, n_iter, order, mode, backend)
    group.attach()
    return modules


def remove_spectral_norm_(modules: Modules) -> Modules:
    """Return `modules`, a network or layers, with W / sigma as the plain weight of every layer that was normalized.

    u and v are not updated, and layers of the same group that are not among `modules` stay normalized. Raises
    ValueError if none of the layers is normalized by `spectral_norm_`.
    """
    candidates = list(modules.modules()) if isinstance(modules, nn.Module) else list(modules)
    members = [(layer, member) for layer in candidates if (member := _membership(layer)) is not None]
    if not members:
        raise ValueError(f"none of {[type(layer).__name__ for layer in candidates]} is under spectral_norm_")
    for layer, (group, index) in members:
        group.remove(index)
        hooks = layer._forward_pre_hooks
        for key in [k for k, h in hooks.items() if isinstance(h, ForwardPreHook) and h.group is group]:
            del hooks[key]
    return modules


def _membership(layer: nn.Module) -> tuple[LayerGroup, int] | None:
    """Return the group that normalizes a layer, and the layer's index in it; None if the layer is not normalized."""
    owners: list[Any] = [h for h in layer._forward_pre_hooks.values() if isinstance(h, ForwardPreHook)]
    if parametrize.is_parametrized(layer, "weight"):
        chain: Any = layer.parametrizations
        owners += [p for p in chain.weight if isinstance(p, SpectralNorm)]
    return next(((o.group, o.index) for o in owners if o.group.normalizes(o.index)), None)


def _collect_layers(modules: nn.Module | Iterable[nn.Module]) -> list[nn.Module]:
    """Return the layers to normalize: those of a network, the module itself if it has none, or the given ones."""
    if not isinstance(modules, nn.Module):
        return list(modules)
    layers: list[nn.Module] = [m for m in modules.modules() if isinstance(m, LAYERS)]
    return layers or [modules]


def _output_dim(layer: nn.Module) -> int:
    return 1 if isinstance(layer, TRANSPOSED) else 0


def _check(layers: list[nn.Module], eps: float, n_iter: int, order: str, mode: str, backend: str) -> None:
    if order not in ("torch", "legacy") or mode not in ("weight", "sigma"):
        raise ValueError(f"order must be torch or legacy, mode weight or sigma; got {order!r} and {mode!r}")
    if n_iter < 1 or not eps > 0:
        raise ValueError(f"n_iter must be at least 1 and eps positive, got {n_iter} and {eps}")
    if not layers or len({id(layer) for layer in layers}) < len(layers):
        raise ValueError(f"need one or more distinct layers, got {[type(layer).__name__ for layer in layers]}")
    for layer in layers:
        name = type(layer).__name__
        if parametrize.is_parametrized(layer, "weight") or hasattr(layer, "weight_orig"):
            raise ValueError(f"the weight of {layer} is already parametrized; apply spectral_norm_ only once")
        weight = layer._parameters.get("weight")
        if weight is None or isinstance(weight, nn.UninitializedParameter):
            raise ValueError(f"{name} has no parameter `weight`, or its shape is not known yet: {layer}")
        if weight.ndim < 2 or weight.numel() == 0 or not weight.is_floating_point():
            raise ValueError(
                f"weight of {name} must be floating point with two or more non-empty dimensions, "
                f"got {tuple(weight.shape)}, {weight.dtype}"
            )
        if mode == "sigma" and not isinstance(layer, LAYERS):
            raise ValueError(f"mode='sigma' divides the input, which needs a linear layer or convolution, not {name}")
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be auto, fused or reference, not {backend!r}")


def lower(
    modules: Any, *, eps: float = 1e-12, n_iter: int = 1, order: Order = "torch", mode: Mode = "weight"
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments that `spectral_norm_(modules, ...)` would pass to `reference` and `fused` at each pass."""
    layers = _collect_layers(modules)
    _check(layers, eps, n_iter, order, mode, "auto")
    weights = tuple(layer.get_parameter("weight") for layer in layers)
    dims = tuple(map(_output_dim, layers))
    pairs = [initial_vectors(matrix(w.detach(), dim), eps) for w, dim in zip(weights, dims, strict=True)]
    us, vs = zip(*pairs, strict=True)
    return (weights, us, vs, dims, order, eps, n_iter, mode), {}


# -------------------------------------------------------------------------------------------------- the group


@dataclass
class PendingValue:
    """What the current pass computed for a layer and has not handed out, and (in eager) the state it depends on."""

    value: Any = None
    state: tuple[Any, ...] | None = None


class LayerGroup:
    """Layers that are normalized together; `take` hands out W / sigma (or sigma) of one, and starts passes."""

    def __init__(
        self, layers: list[nn.Module], eps: float, n_iter: int, order: Order, mode: Mode, backend: Backend
    ) -> None:
        self.layers, self.eps, self.n_iter, self.order, self.mode, self.backend = (
            layers, eps, n_iter, order, mode, backend,
        )  # fmt: skip
        self.dims = list(map(_output_dim, layers))
        self.pending = [PendingValue() for _ in layers]
        self.pending_in_trace: tuple[Any, dict[int, Any]] = (None, {})
        # not as a decorator: that imports Dynamo, which takes seconds
        torch.compiler.assume_constant_result(LayerGroup._is_pending_in_trace)

    def __getstate__(self) -> dict[str, Any]:
        fresh: dict[str, Any] = {"pending": [PendingValue() for _ in self.layers], "pending_in_trace": (None, {})}
        return {**self.__dict__, **fresh}  # values belong to an autograd graph, which cannot be copied or pickled

    def attach(self) -> None:
        """Give each layer u and v, under torch's names, and the parametrization or hook that calls `take`."""
        weights = [layer.get_parameter("weight") for layer in self.layers]
        vectors = [
            initial_vectors(matrix(w.detach(), dim), self.eps) for w, dim in zip(weights, self.dims, strict=True)
        ]
        attach = _attach_parametrization if self.order == "torch" else _attach_hook
        for index, (u, v) in enumerate(vectors):
            attach(self, index, u, v)
        if self.order == "torch":
            for members in self._by_dtype_and_device(range(len(self.layers))):
                self._normalize(members, 15 + self.n_iter, "sigma", "auto")

    def tensors(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return W, u and v of a layer."""
        layer: Any = self.layers[index]
        if self.order == "legacy":
            return layer.weight_orig, layer.weight_u, layer.weight_v
        chain = layer.parametrizations.weight
        return chain.original, chain[0]._u, chain[0]._v

    def normalizes(self, index: int) -> bool:
        """Return whether a layer is still normalized: its parametrization or hook may have been removed."""
        layer: Any = self.layers[index]
        if self.order == "legacy":
            return "weight_orig" in layer._parameters
        if not parametrize.is_parametrized(layer, "weight"):
            return False
        first = layer.parametrizations.weight[0]
        return isinstance(first, SpectralNorm) and first.group is self

    def remove(self, index: int) -> None:
        """Make W / sigma, with the current u and v, the plain weight of a layer."""
        layer: Any = self.layers[index]
        with torch.no_grad():
            (value,) = self._normalize([index], 0, "weight", self.backend)
        if self.order == "torch":
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        else:
            layer.__dict__.pop("weight")
            layer.register_parameter("weight", layer._parameters.pop("weight_orig"))
            del layer.weight_u, layer.weight_v
        with torch.no_grad():
            layer.weight.copy_(value)

    def take(self, index: int) -> Tensor:
        """Return W / sigma (or sigma) of a layer, from the current pass if it is pending there, else from a new one."""
        entry = self.pending[index]
        if torch.compiler.is_compiling():
            training = [layer.training for layer in self.layers]
            pending = self._is_pending_in_trace(index, torch.is_grad_enabled(), training)
        else:
            pending = entry.state == self._state(index)
        if not pending:
            self._start_pass(index)
        value: Tensor = entry.value
        entry.value, entry.state = None, None
        return value

    def _state(self, index: int) -> tuple[Any, ...] | None:
        """Return what W / sigma of a layer depends on: identity and version of W, and modes; None while tracing."""
        if torch.compiler.is_compiling():
            return None
        weight, *_ = self.tensors(index)
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), self.layers[index].training
        return (id(weight), weight.data_ptr(), version(weight), *modes)

    def _is_pending_in_trace(self, index: int, grad: bool, training: list[bool]) -> bool:
        """Return whether the graph being traced has started a pass whose value for this layer is not yet used.

        This runs while a graph is traced, never inside it: which calls of `take` start a pass is a constant of the
        graph.
        """
        trace = torch._guards.CompileContext.current_trace_id()
        if self.pending_in_trace[0] != trace:
            self.pending_in_trace = trace, {}
        left = self.pending_in_trace[1]
        pending: bool = left.pop(index, None) == (grad, training[index])
        if not pending:
            left.update({i: (grad, t) for i, t in enumerate(training) if t == training[index] and i != index})
        return pending

    def _start_pass(self, index: int) -> None:
        """Normalize all layers that are in the same mode, training or eval, as one of them."""
        training = self.layers[index].training
        same_mode = [i for i, layer in enumerate(self.layers) if layer.training == training and self.normalizes(i)]
        for members in self._by_dtype_and_device(same_mode):
            values = self._normalize(members, self.n_iter if training else 0, self.mode, self.backend)
            for i, value in zip(members, values, strict=True):
                self.pending[i].value, self.pending[i].state = value, self._state(i)

    def _by_dtype_and_device(self, indices: Iterable[int]) -> list[list[int]]:
        """Return the indices in lists of layers that share dtype and device."""
        lists: dict[Any, list[int]] = {}
        for i in indices:
            weight, *_ = self.tensors(i)
            lists.setdefault((weight.dtype, weight.device), []).append(i)
        return list(lists.values())

    def _normalize(self, members: list[int], n_iter: int, mode: Mode, backend: Backend) -> list[Tensor]:
        weights, us, vs = zip(*(self.tensors(i) for i in members), strict=True)
        form = fused if choose(backend, *weights)[0] == "fused" else reference
        dims = tuple(self.dims[i] for i in members)
        with torch.autocast(weights[0].device.type, enabled=False):
            return form(weights, us, vs, dims, self.order, self.eps, n_iter, mode)


# ----------------------------------------------------------------------------------- parametrization and hook


class SpectralNorm(nn.Module):
    """The parametrization of one layer's weight; its buffers `_u` and `_v` have the names of torch's own."""

    def __init__(self, group: LayerGroup, index: int, u: Tensor, v: Tensor) -> None:
        super().__init__()
        self.group, self.index = group, index
        self.register_buffer("_u", u)
        self.register_buffer("_v", v)

    def forward(self, weight: Tensor) -> Tensor:
        return self.group.take(self.index) if self.group.mode == "weight" else weight

    def right_inverse(self, value: Tensor) -> Tensor:
        return value


class ForwardPreHook:
    """What runs before a layer: in mode "sigma" it divides the input, else it sets the layer's weight."""

    def __init__(self, group: LayerGroup, index: int) -> None:
        self.group, self.index = group, index

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not self.group.normalizes(self.index):  # the parametrization was removed: leave the input as it is
            return None
        value = self.group.take(self.index)
        if self.group.order == "legacy":
            weight = value if self.group.mode == "weight" else layer.weight_orig
            object.__setattr__(layer, "weight", weight)  # bypasses registration, even where it is a parameter
        return None if self.group.mode == "weight" else (inputs[0] / value, *inputs[1:])


def _attach_parametrization(group: LayerGroup, index: int, u: Tensor, v: Tensor) -> None:
    layer = group.layers[index]
    parametrize.register_parametrization(layer, "weight", SpectralNorm(group, index, u, v), unsafe=True)
    if group.mode == "sigma":
        layer.register_forward_pre_hook(ForwardPreHook(group, index))


def _attach_hook(group: LayerGroup, index: int, u: Tensor, v: Tensor) -> None:
    layer = group.layers[index]
    weight = layer.get_parameter("weight")
    del layer._parameters["weight"]
    layer.register_parameter("weight_orig", weight)
    layer.__dict__["weight"] = weight.detach()  # as in torch: code that initializes weights expects the attribute
    layer.register_buffer("weight_u", u)
    layer.register_buffer("weight_v", v)
    layer.register_forward_pre_hook(ForwardPreHook(group, index))
