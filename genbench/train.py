"""The only training loop. Models choose what is optimized with `Model.configure_optimizers`."""

from __future__ import annotations

import functools
import hashlib
import io
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from genbench.dataset import Dataset
from genbench.model import Diverged, Model, OptimizedLoss
from genbench.records.artifacts import Work
from genbench.records.record import Point
from genbench.snapshots import Snapshots, snapshot, steps_of
from genbench.suite import Optimizer, Run
from genbench.validation.models import (
    check_log_prob,
    check_loss,
    check_optimized_losses,
    check_parameters,
    check_state,
    state_of,
)

Batch = Callable[[int], Tensor]
NAN_CHECK_EVERY = 50  # steps between two looks at whether the loss is still finite


class ForeignCheckpoint(ValueError):
    """A checkpoint that does not fit the run; loading it may have changed the model, which has to be built again."""


def seed_of(*key: int | str) -> int:
    """Return 63 bits that depend on `key` alone."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little") >> 1


def reseed(*key: int | str) -> None:
    """Seed the generators of torch, NumPy and Python from `key` alone: no draw depends on what was drawn before."""
    seed = seed_of(*key)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed does the same, at 20 times the cost on a CPU
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


# ------------------------------------------------------------------------------------------------ batches


class Shuffled:
    """Batch number i of an endless sequence of epochs, each in an order of its own, known from (seed, i) alone."""

    def __init__(self, x: Tensor, size: int, seed: int) -> None:
        self.x, self.size, self.seed = x, size, seed
        self._order = functools.lru_cache(maxsize=2)(self._shuffle)

    def _shuffle(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed_of(self.seed, "epoch", epoch))
        return torch.randperm(len(self.x), generator=generator)

    def __call__(self, i: int) -> Tensor:
        n, start = len(self.x), i * self.size
        first, last = start // n, (start + self.size - 1) // n
        order = (
            torch.cat([self._order(epoch) for epoch in range(first, last + 1)]) if last > first else self._order(first)
        )
        return self.x[order[start - first * n :][: self.size].to(self.x.device)]


def batches(dataset: Dataset, size: int, seed: int, device: torch.device) -> Batch:
    """Return what gives batch number i of the training split: drawn from `bernoulli_probs` where there are some."""
    if dataset.bernoulli_probs is None:
        return Shuffled(dataset.train.to(device), size, seed)
    probs, dtype = Shuffled(dataset.bernoulli_probs.to(device), size, seed), dataset.train.dtype
    return lambda i: torch.bernoulli(probs(i)).to(dtype)


# ---------------------------------------------------------------------------------------------- optimizers

RULES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": functools.partial(torch.optim.Adam, fused=True),
    "adamw": functools.partial(torch.optim.AdamW, fused=True),
    "adamax": torch.optim.Adamax,
    "rmsprop": torch.optim.RMSprop,
    "sgd": functools.partial(torch.optim.SGD, fused=True),
}


def make_optimizer(settings: Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer that `settings` asks for; for rmsprop and sgd, betas[0] is not used."""
    rates = {"betas": settings.betas} if settings.name.startswith("adam") else {}
    return RULES[settings.name](parameters, lr=settings.lr, weight_decay=settings.weight_decay, **rates)


def rate(settings: Optimizer, progress: float, steps_done: int) -> float:
    """Return the factor on the learning rate at `progress` (0 to 1) of the part of the run in which a loss is active.

    "stages" are those of Importance Weighted Autoencoders (2016), section 5: eight of lengths 1, 3, 9, ... 3^7, from
    each to the next of which it falls by 10^(1/7), from 1 to a tenth.
    """
    warm = min(1.0, (steps_done + 1) / settings.warmup) if settings.warmup else 1.0
    match settings.schedule:
        case "cosine":
            return warm * 0.5 * (1 + math.cos(math.pi * progress))
        case "linear":
            return warm * (1 - progress)
        case "stages":
            return warm * 10 ** (-math.floor(math.log(1 + (3**8 - 1) * progress, 3)) / 7)
        case _:
            return warm


# --------------------------------------------------------------------------------------------------- a step


@dataclass
class TrainStep:
    """One training step: every loss of the model, phase by phase; those of a phase are updated simultaneously."""

    model: Model
    run: Run
    phases: list[tuple[OptimizedLoss, ...]] = field(init=False)

    def __post_init__(self) -> None:
        make_parameters_dense(self.model)
        trains = any(parameter.requires_grad for parameter in self.model.parameters())
        phases = self.model.configure_optimizers(self._make_optimizer) if trains else []
        phases = check_optimized_losses(self.model, phases)
        self.phases = [phase if isinstance(phase, tuple) else (phase,) for phase in phases]

    def _make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return make_optimizer(self.run.optimizer, check_parameters(self.model, parameters))

    @property
    def losses(self) -> list[OptimizedLoss]:
        """Every loss with its optimizer, in order."""
        return [loss for phase in self.phases for loss in phase]

    @property
    def batches(self) -> int:
        """How many batches a step takes: the most repeats of any loss."""
        return max((loss.repeats for loss in self.losses), default=1)

    def __call__(self, i: int, batch: Batch) -> Tensor | None:
        """Take step number i; return the value () of its first loss, None if no loss is active."""
        first = None
        for phase in self.phases:
            active = [loss for loss in phase if loss.start <= i / self.run.steps < loss.stop and loss.trainable]
            for k in range(max((loss.repeats for loss in active), default=0)):
                values = self._update([loss for loss in active if k < loss.repeats], i, batch(i * self.batches + k))
                first = values[0] if first is None else first
        return first

    def _update(self, losses: list[OptimizedLoss], i: int, x: Tensor) -> list[Tensor]:
        """Update the parameters of each loss, once all gradients are computed; return the values of the losses."""
        values, gradients = [], []
        for loss in losses:
            with self._precision(x.device):
                value = check_loss(self.model, loss.loss, loss.loss(x))
            gradients.append(gradients_of(value, loss.trainable))
            values.append(value.detach())
        for loss, its_gradients in zip(losses, gradients, strict=True):
            for parameter, gradient in zip(loss.trainable, its_gradients, strict=True):
                parameter.grad = gradient
            self._optimize(loss, i)
        return values

    def _optimize(self, loss: OptimizedLoss, i: int) -> None:
        settings, start, stop = self.run.optimizer, loss.start * self.run.steps, loss.stop * self.run.steps
        factor = rate(settings, (i - start) / (stop - start), int(i - start))
        for group in loss.optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
        if settings.clip is not None:
            clip_grad_norm_(loss.parameters, settings.clip)
        loss.optimizer.step()
        loss.optimizer.zero_grad(set_to_none=True)

    def _precision(self, device: torch.device) -> Any:
        if self.run.precision == "bfloat16":
            return torch.autocast(device.type, torch.bfloat16)
        return nullcontext()


def gradients_of(loss: Tensor, parameters: list[nn.Parameter]) -> list[Tensor | None]:
    """Return the gradient of `loss` () in each of `parameters`, laid out in memory as it is; None where it has none.

    `backward` lays a gradient out as its parameter and gives each its own memory, which fused optimizers and clipping
    in place rely on; `torch.autograd.grad` returns transposed, expanded and shared tensors as they come.
    """
    loss.backward(inputs=parameters)
    gradients = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return gradients


@torch.no_grad()
def make_parameters_dense(model: nn.Module) -> None:
    """Copy parameters with gaps in memory, as ``nn.Parameter(x[:, :-1])``, into memory of their own.

    A gradient cannot be laid out as they are, and fused optimizers take both for the same.
    """
    for parameter in model.parameters():
        if torch.empty_like(parameter, device="meta").stride() != parameter.stride():
            parameter.data = parameter.data.contiguous()


# ---------------------------------------------------------------------------------------- averaged weights


class EMA:
    """An exponential moving average of a model's parameters, with the decay warmed up as (1 + i) / (10 + i)."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.live: list[torch.Tensor] = list(model.parameters())
        self.mean = [p.detach().clone() for p in self.live] if decay else []

    @torch.no_grad()
    def update(self, i: int) -> None:
        """Move towards the weights after step `i`."""
        if self.mean:
            decay = min(self.decay, (1 + i) / (10 + i))
            torch._foreach_lerp_(self.mean, self.live, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model its averaged weights inside."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for i, mean in enumerate(self.mean):
            weights = self.live[i].detach().clone()
            self.live[i].copy_(mean)
            self.mean[i] = weights


# ------------------------------------------------------------------------------------------------- the loop


@dataclass
class TrainState:
    """How far training has come; saved in every checkpoint, with the weights."""

    step: int = 0
    seconds: float = 0.0
    curve: list[Point] = field(default_factory=list)
    best: float = math.inf
    selected: dict[str, Any] | None = None  # weights
    selected_step: int = 0
    losses: list[float] = field(default_factory=list)  # since the last point
    snapshots: Snapshots = field(default_factory=dict)  # of models that have some to draw


def train(
    model: Model,
    dataset: Dataset,
    run: Run,
    work: Work,
    *,
    code: str,
    checkpoint_every: float = 30.0,
    deadline: float = math.inf,
) -> TrainState:
    """Train `model` in place as `run` says and leave in it the selected weights; return how it went.

    It resumes from ``<work>/<run.id>/checkpoint.pt`` if the same `code` wrote that, and is then bit-identical to an
    uninterrupted run: every step seeds its own draws from (seed, step).

    Raises:
        Diverged: the loss is not finite.
        ForeignCheckpoint: the checkpoint is of another model, optimizer or run.
        TimeoutError: `deadline` (time.monotonic) has passed; a checkpoint is left.
    """
    name = f"{run.id}/checkpoint.pt"
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    model.prepare(dataset.train)
    train_step, ema = TrainStep(model, run), EMA(model, run.optimizer.ema)
    batch = batches(dataset, run.batch, run.seed, device)
    snapshot_steps = steps_of(run.steps)
    checks = {round(run.steps * (k + 1) / run.checks) for k in range(run.checks)}
    state = _resume(work.load(name), code, model, train_step, ema)
    began, saved = time.monotonic() - state.seconds, time.monotonic()
    initial_state, pending = state_of(model), list[Tensor]()

    def flush_losses() -> None:
        values = torch.stack(pending).double().tolist() if pending else []
        pending.clear()
        if not all(map(math.isfinite, values)):
            raise Diverged(f"the loss is {next(v for v in values if not math.isfinite(v))} by step {state.step}")
        state.losses += values

    model.train()
    while state.step < run.steps:
        i = state.step
        if i in snapshot_steps:
            save_snapshot(model, dataset, run, state)
        reseed(run.seed, i)
        try:
            loss = train_step(i, batch)
        except Diverged:
            raise
        except Exception:  # parameters that are not finite may raise anything, as torch.distributions does
            check_finite(model, i)
            raise
        if i == 0 or i + 1 in checks:
            check_state(model, initial_state)
        ema.update(i)
        pending += [] if loss is None else [loss]
        state.step = i + 1
        state.seconds = time.monotonic() - began
        if state.step % NAN_CHECK_EVERY == 0 or state.step in checks:
            flush_losses()
        if state.step in checks:
            with ema.applied():
                validate(model, dataset, run, state)
        if time.monotonic() - saved > checkpoint_every or time.monotonic() > deadline:
            flush_losses()
            work.save(name, _pack(code, model, train_step, ema, state))
            saved = time.monotonic()
        if time.monotonic() > deadline:
            raise TimeoutError(f"stopped at step {state.step} of {run.steps} after {state.seconds:.0f} s")

    if run.steps:
        check_finite(model, state.step)
        save_snapshot(model, dataset, run, state)
    state.seconds = time.monotonic() - began
    if state.selected is not None:
        model.load_state_dict(state.selected)
    model.eval()
    return state


def check_finite(model: Model, step: int) -> None:
    """Raise Diverged if a parameter is not finite after `step` steps."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise Diverged(f"the parameter {name!r} is not finite after {step} steps")


def validate(model: Model, dataset: Dataset, run: Run, state: TrainState) -> None:
    """Score the validation split in nats and select the weights if they are the best so far.

    Without a likelihood, or where no score was ever finite, the last weights are selected.
    """
    score = validation_score(model, dataset, run)
    state.curve.append(
        Point(
            step=state.step,
            seconds=state.seconds,
            loss=sum(state.losses) / len(state.losses) if state.losses else None,
            validation=score if score is not None and math.isfinite(score) else None,
        )
    )
    state.losses.clear()
    better = score is not None and math.isfinite(score) and score < state.best
    never = state.step == run.steps and state.selected is None
    if run.selection == "last" or score is None or better or never:
        state.best = score if score is not None and better else math.inf
        state.selected_step = state.step
        state.selected = {k: v.detach().clone() for k, v in model.state_dict().items()}


def save_snapshot(model: Model, dataset: Dataset, run: Run, state: TrainState) -> None:
    """Save a snapshot for pictures: by the weights in training, not their averages, which hide cycles.

    Every snapshot uses the same draws, so that they differ by the weights alone.
    """
    reseed(run.seed, "moment")
    model.eval()
    with torch.no_grad():
        drawn = snapshot(model, dataset)
    model.train()
    if drawn:
        state.snapshots[state.step] = drawn


def validation_score(model: Model, dataset: Dataset, run: Run) -> float | None:
    """Return the mean negative log-likelihood of the validation split in nats, None for a model without one.

    Every validation draws the same noise, so that scores differ by the weights alone.
    """
    if model.likelihood is None:
        return None
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    reseed(run.seed, "validation")
    model.eval()
    with torch.no_grad():
        batches = (x.to(device) for x in torch.split(dataset.validation, dataset.space.eval_batch_size))
        log_p = torch.cat([check_log_prob(model, model.log_prob(x), x).double() for x in batches])
    model.train()
    return -log_p.mean().item()


# ---------------------------------------------------------------------------------------------- checkpoints


def _pack(code: str, model: Model, train_step: TrainStep, ema: EMA, state: TrainState) -> bytes:
    file = io.BytesIO()
    checkpoint = {
        "code": code,
        "model": model.state_dict(),
        "optimizers": [loss.optimizer.state_dict() for loss in train_step.losses],
        "ema": ema.mean,
        "state": asdict(state),
    }
    torch.save(checkpoint, file)
    return file.getvalue()


def _resume(packed: bytes | None, code: str, model: Model, train_step: TrainStep, ema: EMA) -> TrainState:
    """Load a checkpoint into model, optimizers and EMA, and return the state; raises ForeignCheckpoint."""
    try:
        checkpoint = unpack(packed, code)
        return TrainState() if checkpoint is None else _restore(checkpoint, model, train_step, ema)
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # whatever another program wrote, a user's own load_state_dict included
        raise ForeignCheckpoint(f"{type(error).__name__}: {error}") from error


def _restore(checkpoint: dict[str, Any], model: Model, train_step: TrainStep, ema: EMA) -> TrainState:
    model.load_state_dict(checkpoint["model"])
    for loss, saved in zip(train_step.losses, checkpoint["optimizers"], strict=True):
        loss.optimizer.load_state_dict(saved)
        _check_state(loss.optimizer)
    means = [mean.to(live.device) for mean, live in zip(checkpoint["ema"], ema.live, strict=False)]
    _check_shapes(means, ema.mean)
    ema.mean = means
    state = train_state(checkpoint["state"])
    if state.selected is not None:
        weights = model.state_dict()
        _check_shapes([state.selected[name] for name in weights], list(weights.values()))
    if not 0 <= state.step <= train_step.run.steps:
        raise ValueError(f"it is of step {state.step}, and the run has {train_step.run.steps}")
    return state


def train_state(saved: Mapping[str, Any]) -> TrainState:
    """Return the training state that was saved as a mapping, with the points of its curve as mappings."""
    return TrainState(**{**saved, "curve": [Point(**point) for point in saved["curve"]]})


def _check_state(optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError if a moment has another shape than its parameter: fused kernels do not check."""
    for parameter, state in optimizer.state.items():
        moments = [value for value in state.values() if isinstance(value, Tensor) and value.dim()]
        _check_shapes(moments, [parameter] * len(moments))


def _check_shapes(saved: list[Tensor], expected: list[Tensor]) -> None:
    shapes, right = ([tuple(x.shape) for x in tensors] for tensors in (saved, expected))
    if shapes != right:
        raise ValueError(f"shapes {shapes} are saved where the run has {right}")


def unpack(packed: bytes | None, code: str) -> dict[str, Any] | None:
    """Return what torch.save wrote to `packed`, None if it is None or was written by other code."""
    if packed is None:
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
    return state if state["code"] == code else None
