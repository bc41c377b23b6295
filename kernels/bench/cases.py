"""What is timed: ops at realistic sizes, the code a user would otherwise write, and the forms of both.

Baselines are the plain torch a user would write, not the package's reference, whose checks would add host time.
`min_bytes` is the least that a call has to move; a copy of as many bytes is the lower bound of every case.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils import parametrizations

from bench.timing import Cache, Call, without_collection

Direction = Literal["forward", "backward", "both"]
Form = Literal["plain", "compiled", "max-autotune", "graph"]
Function = Callable[..., tuple[Tensor, ...]]
COMPILED: dict[str, dict[str, Any]] = {
    "compiled": {"fullgraph": True, "dynamic": False},
    "max-autotune": {"fullgraph": True, "dynamic": False, "mode": "max-autotune-no-cudagraphs"},
}


@dataclass(frozen=True)
class Inputs:
    """Arguments of a function, the tensors to differentiate with respect to, and the cotangents of its results."""

    args: tuple[Any, ...]
    leaves: tuple[Tensor, ...]
    cotangents: tuple[Tensor, ...]


@dataclass(frozen=True)
class Contender:
    """A function in one form; `arrange` maps a case's inputs to the arguments of the function."""

    function: Function
    form: Form = "plain"
    arrange: Callable[[Inputs], Inputs] = lambda inputs: inputs


@dataclass(frozen=True)
class Case:
    """One call of an op: fresh random inputs on a device, contenders by name, and minimum bytes per direction."""

    name: str
    inputs: Callable[[torch.device], Inputs]
    contenders: dict[str, Contender]
    min_bytes: dict[str, int]


class Unavailable(RuntimeError):
    """A contender that this machine cannot run."""


# ------------------------------------------------------------------------------------------------- the cases

SIZES: dict[str, dict[str, Any]] = {  # those with goals first: time may run out
    "coupling-64MB": {"shape": (256, 64, 32, 32)},
    "coupling-256MB": {"shape": (1024, 64, 32, 32)},
    "reparameterize-16M": {"shape": (8192, 2048)},
    "spectral-dcgan64": {"channels": (3, 64, 128, 256, 512, 1)},
    "coupling-64MB-glow": {"shape": (256, 64, 32, 32), "layout": "interleave", "scale": "sigmoid"},
    "coupling-cifar": {"shape": (128, 6, 16, 16)},
    "reparameterize-head": {"shape": (128, 128)},
}
TINY: dict[str, tuple[int, ...]] = {"shape": (2, 4, 3, 3), "channels": (3, 4, 8, 1)}


def cases(package: ModuleType, *, backend: str = "auto", tiny: bool = False) -> list[Case]:
    """Return the cases of the ops in `package`, a version of genbench_kernels; `tiny` ones are for testing the code."""
    selected = []
    for name, sizes in SIZES.items():
        op, make = OPS[name.partition("-")[0]]
        shrunk = {key: TINY[key][: len(value)] for key, value in sizes.items() if key in TINY} if tiny else {}
        if hasattr(package, op):
            label = f"{name}-tiny" if tiny else name
            selected.append(make(label, getattr(package, op), backend, **{**sizes, **shrunk}))
    return selected


def _forms(ours: Function, eager: Function, arrange: Callable[[Inputs], Inputs]) -> dict[str, Contender]:
    """Return the contenders of every case: plain torch and the op, each in all forms."""
    baseline, op = Contender(eager), Contender(ours, arrange=arrange)
    return {
        "eager": baseline,
        "eager, graph": replace(baseline, form="graph"),
        "compile": replace(baseline, form="compiled"),
        "max-autotune": replace(baseline, form="max-autotune"),
        "ours": op,
        "ours, compiled": replace(op, form="compiled"),
        "ours, graph": replace(op, form="graph"),
    }


def _unchanged(inputs: Inputs) -> Inputs:
    return inputs


def _min_bytes(unit: int, forward: float, backward: float) -> dict[str, int]:
    return {
        "forward": int(forward * unit),
        "backward": int(backward * unit),
        "both": int((forward + backward) * unit),
    }


def _coupling(
    name: str, op: Any, backend: str, *, shape: tuple[int, ...], layout: str = "chunk", scale: str = "tanh"
) -> Case:
    def inputs(device: torch.device) -> Inputs:
        x, gy = (torch.randn(shape, device=device) for _ in range(2))
        params = torch.randn(shape[0], 2 * shape[1], *shape[2:], device=device)
        gain = (torch.randn(shape[1], device=device),) if scale == "tanh" else ()
        args = tuple(t.requires_grad_() for t in (x, params, *gain))
        return Inputs(args, args, (gy, torch.randn(shape[0], device=device)))

    def ours(x: Tensor, params: Tensor, gain: Tensor | None = None) -> tuple[Tensor, ...]:
        y, logdet = op(x, params, layout=layout, scale=scale, gain=gain, backend=backend)
        return y, logdet

    def realnvp(x: Tensor, params: Tensor, gain: Tensor) -> tuple[Tensor, ...]:
        raw, t = params.chunk(2, 1)
        s = gain.view(-1, 1, 1) * torch.tanh(raw)
        return x * torch.exp(s) + t, s.flatten(1).sum(1)

    def glow(x: Tensor, params: Tensor) -> tuple[Tensor, ...]:
        s = torch.sigmoid(params[:, 0::2] + 2)
        return x * s + params[:, 1::2], torch.log(s).flatten(1).sum(1)

    unit = 4 * torch.Size(shape).numel()
    contenders = _forms(ours, realnvp if scale == "tanh" else glow, _unchanged)
    return Case(name, inputs, contenders, _min_bytes(unit, 4, 5))


def _reparameterize(name: str, op: Any, backend: str, *, shape: tuple[int, ...]) -> Case:
    shape = shape[:2]

    def inputs(device: torch.device) -> Inputs:
        mu, logvar, gz = (torch.randn(shape, device=device) for _ in range(3))
        args = mu.requires_grad_(), logvar.requires_grad_()
        return Inputs(args, args, (gz, torch.randn(shape[0], device=device)))

    def ours(mu: Tensor, logvar: Tensor) -> tuple[Tensor, ...]:  # a fresh key per step is part of the cost
        key = torch.randint(2**63 - 1, (1,), device=mu.device)
        z, kl = op(mu, logvar, key, backend=backend)
        return z.squeeze(0), kl

    def plain(mu: Tensor, logvar: Tensor) -> tuple[Tensor, ...]:
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        return z, 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1)

    def distributions(mu: Tensor, logvar: Tensor) -> tuple[Tensor, ...]:
        normal = torch.distributions.Normal  # in its favour: validation would wait for the device
        prior = normal(torch.zeros_like(mu), torch.ones_like(mu), validate_args=False)
        posterior = normal(mu, torch.exp(0.5 * logvar), validate_args=False)
        return posterior.rsample(), torch.distributions.kl_divergence(posterior, prior).sum(1)

    contenders = {**_forms(ours, plain, _unchanged), "torch.distributions": Contender(distributions)}
    return Case(name, inputs, contenders, _min_bytes(4 * torch.Size(shape).numel(), 3, 5))


def _spectral(name: str, op: Any, backend: str, *, channels: tuple[int, ...]) -> Case:
    shapes = [(after, before, 4, 4) for before, after in pairwise(channels)]

    def inputs(device: torch.device) -> Inputs:
        weights = tuple(torch.randn(shape, device=device).mul_(0.02).requires_grad_() for shape in shapes)
        us = tuple(normalize(torch.randn(shape[0], device=device), dim=0) for shape in shapes)
        vs = tuple(normalize(torch.randn(torch.Size(shape[1:]).numel(), device=device), dim=0) for shape in shapes)
        return Inputs((*weights, *us, *vs), weights, tuple(torch.randn_like(w) for w in weights))

    def plain(*args: Tensor) -> tuple[Tensor, ...]:
        return tuple(_normalized(*layer) for layer in zip(*_thirds(args), strict=True))

    def ours(*modules: Any) -> tuple[Tensor, ...]:
        return tuple(m.weight for m in modules)

    def wrapped(inputs: Inputs) -> Inputs:
        return _as_modules(inputs, lambda modules: op(modules, backend=backend))

    def parametrized(inputs: Inputs) -> Inputs:
        return _as_modules(inputs, lambda modules: [parametrizations.spectral_norm(m) for m in modules])

    contenders = {
        **_forms(ours, plain, wrapped),
        "foreach": Contender(_foreach_normalized),
        "foreach, graph": Contender(_foreach_normalized, "graph"),
        "torch parametrization": Contender(ours, arrange=parametrized),
    }
    unit = 4 * sum(torch.Size(shape).numel() for shape in shapes)
    return Case(name, inputs, contenders, _min_bytes(unit, 3.25, 4))


def _thirds(args: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], ...]:
    n = len(args) // 3
    return args[:n], args[n : 2 * n], args[2 * n :]


def _normalized(weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Return W / (u^T W v) after one power iteration, which updates u and v in place."""
    matrix = weight.flatten(1)
    with torch.no_grad():
        u.copy_(normalize(matrix @ v, dim=0))
        v.copy_(normalize(matrix.T @ u, dim=0))
        saved_u, saved_v = u.clone(), v.clone()
    return weight / torch.dot(saved_u, matrix @ saved_v)


def _foreach_normalized(*args: Tensor) -> tuple[Tensor, ...]:
    """Return all W / (u^T W v) after one power iteration, with foreach ops where all layers do the same."""
    weights, us, vs = _thirds(args)
    matrices = [w.flatten(1) for w in weights]
    with torch.no_grad():
        new_us = _unit([m @ v for m, v in zip(matrices, vs, strict=True)])
        new_vs = _unit([m.T @ u for m, u in zip(matrices, new_us, strict=True)])
        torch._foreach_copy_(us, new_us)
        torch._foreach_copy_(vs, new_vs)
    sigmas = [torch.dot(u, m @ v) for m, u, v in zip(matrices, new_us, new_vs, strict=True)]
    return tuple(torch._foreach_div(weights, sigmas))


def _unit(vectors: list[Tensor]) -> list[Tensor]:
    norms = torch._foreach_norm(vectors)
    torch._foreach_clamp_min_(norms, 1e-12)
    return list(torch._foreach_div(vectors, norms))


def _as_modules(inputs: Inputs, normalize: Callable[[list[torch.nn.Module]], Any]) -> Inputs:
    """Return the inputs as convolutions under `normalize`, whose `.weight` is then spectrally normalized."""
    weights = _thirds(inputs.args)[0]
    modules: list[torch.nn.Module] = [
        torch.nn.Conv2d(w.shape[1], w.shape[0], 4, bias=False, device=w.device) for w in weights
    ]
    for module, weight in zip(modules, weights, strict=True):
        module.weight = torch.nn.Parameter(weight.detach().clone())
    normalize(modules)
    return Inputs(tuple(modules), tuple(p for m in modules for p in m.parameters()), inputs.cotangents)


OPS: dict[str, tuple[str, Callable[..., Case]]] = {
    "coupling": ("affine_coupling", _coupling),
    "reparameterize": ("reparameterize", _reparameterize),
    "spectral": ("spectral_norm_", _spectral),
}


# ------------------------------------------------------------------------------------------------- the forms


class Calls:
    """Forward and backward of a function on several sets of inputs; `backward(k)` needs a `forward(k)` before it."""

    def __init__(self, function: Function, sets: list[Inputs]) -> None:
        self.function, self.sets = function, sets
        self.results: dict[int, tuple[Tensor, ...]] = {}

    def forward(self, k: int) -> None:
        self.results[k] = self.function(*self.sets[k].args)

    def backward(self, k: int) -> None:
        torch.autograd.grad(self.results.pop(k), self.sets[k].leaves, self.sets[k].cotangents)

    def both(self, k: int) -> None:
        self.forward(k)
        self.backward(k)


class Graphs(Calls):
    """The same, replayed from two CUDA graphs per set, so that nothing is copied into static inputs."""

    def __init__(self, function: Function, sets: list[Inputs]) -> None:
        if not torch.cuda.is_available():
            raise Unavailable("CUDA graphs need a GPU")
        super().__init__(function, sets)
        self.captured = [self._capture(k) for k in range(len(sets))]

    def _capture(self, k: int) -> tuple[torch.cuda.CUDAGraph, torch.cuda.CUDAGraph, Any]:
        eager, stream = Calls(self.function, self.sets), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                eager.both(k)
        torch.cuda.current_stream().wait_stream(stream)
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        inputs = self.sets[k]
        with without_collection():
            with torch.cuda.graph(forward):
                results = self.function(*inputs.args)
            with torch.cuda.graph(backward, pool=forward.pool()):
                gradients = torch.autograd.grad(results, inputs.leaves, inputs.cotangents)
        return forward, backward, (results, gradients)

    def forward(self, k: int) -> None:
        self.captured[k][0].replay()

    def backward(self, k: int) -> None:
        self.captured[k][1].replay()


class Copies(Calls):
    """The lower bound: copies that move (read and write together) the minimum bytes of each direction."""

    def __init__(self, min_bytes: dict[str, int], device: torch.device, sets: int) -> None:
        size = {direction: max(1, moved // 8) for direction, moved in min_bytes.items()}
        make = torch.randn
        self.pairs = {
            d: [(make(n, device=device), make(n, device=device)) for _ in range(sets)] for d, n in size.items()
        }

    def _copy(self, direction: str, k: int) -> None:
        target, source = self.pairs[direction][k]
        target.copy_(source)

    def forward(self, k: int) -> None:
        self._copy("forward", k)

    def backward(self, k: int) -> None:
        self._copy("backward", k)

    def both(self, k: int) -> None:
        self._copy("both", k)


def build(case: Case, name: str, device: torch.device, sets: int = 3) -> Calls:
    """Return the calls of a contender, compiled or captured according to its form, or those of "copy".

    Raises Unavailable if the form needs a GPU and there is none.
    """
    torch.manual_seed(0)
    if name == "copy":
        return Copies(case.min_bytes, device, sets)
    contender = case.contenders[name]
    inputs = [contender.arrange(case.inputs(device)) for _ in range(sets)]
    if contender.form == "graph":
        return Graphs(contender.function, inputs)
    if contender.form == "plain":
        return Calls(contender.function, inputs)
    torch._dynamo.reset()
    return Calls(torch.compile(contender.function, **COMPILED[contender.form]), inputs)


def phase(calls: Calls, direction: Direction, cache: Cache) -> tuple[Call, Call]:
    """Return the call that is timed in a direction, and the untimed call that prepares each round.

    Backward is prepared by its forward; otherwise a warm round by the same call, a cold one by nothing.
    """
    call: Call = getattr(calls, direction)
    if direction == "backward":
        return call, calls.forward
    return call, call if cache == "warm" else lambda k: None
