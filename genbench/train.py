"""The only training loop. What makes a way of training is in the players a model sends in."""

from __future__ import annotations

import functools
import hashlib
import io
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from genbench.dataset import Dataset
from genbench.model import Diverged, Model, Player
from genbench.records.artifacts import Work
from genbench.records.record import Point
from genbench.snapshots import Moments, moment, steps_of
from genbench.suite import Optimizer, Run
from genbench.validation.models import (
    check_log_prob,
    check_loss,
    check_parameters,
    check_players,
    check_state,
    state_of,
)

Batch = Callable[[int], Tensor]
LOOK = 50  # steps between two looks at whether the loss is still finite


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
    """Return what gives batch number i of the training split: drawn anew where the data set has means."""
    if dataset.means is None:
        return Shuffled(dataset.train.to(device), size, seed)
    means, dtype = Shuffled(dataset.means.to(device), size, seed), dataset.train.dtype
    return lambda i: torch.bernoulli(means(i)).to(dtype)


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
    """Return the factor on the learning rate at `progress` (0 to 1) of a player's share of the run.

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
class Game:
    """The players of a model, and one step of all of them."""

    model: Model
    run: Run
    turns: list[tuple[Player, ...]] = field(init=False)

    def __post_init__(self) -> None:
        make_parameters_dense(self.model)
        trains = any(parameter.requires_grad for parameter in self.model.parameters())
        turns = self.model.players(self._make_optimizer) if trains else []
        self.turns = [turn if isinstance(turn, tuple) else (turn,) for turn in check_players(self.model, turns)]

    def _make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return make_optimizer(self.run.optimizer, check_parameters(self.model, parameters))

    @property
    def players(self) -> list[Player]:
        """Every player, in order."""
        return [player for turn in self.turns for player in turn]

    @property
    def batches(self) -> int:
        """How many batches a step takes: the most moves of any player."""
        return max((player.repeats for player in self.players), default=1)

    def step(self, i: int, batch: Batch) -> Tensor | None:
        """Let everyone move once around; return the first loss () of the step, None if nobody moved."""
        first = None
        for turn in self.turns:
            present = [p for p in turn if p.start <= i / self.run.steps < p.stop and p.trainable]
            for k in range(max((p.repeats for p in present), default=0)):
                losses = self._move([p for p in present if k < p.repeats], i, batch(i * self.batches + k))
                first = losses[0] if first is None else first
        return first

    def _move(self, players: list[Player], i: int, x: Tensor) -> list[Tensor]:
        """All gradients are taken before anyone moves: a tuple of players is simultaneous."""
        losses, gradients = [], []
        for player in players:
            with self._precision(x.device):
                loss = check_loss(self.model, player.loss, player.loss(x))
            gradients.append(gradients_of(loss, player.trainable))
            losses.append(loss.detach())
        for player, theirs in zip(players, gradients, strict=True):
            for parameter, gradient in zip(player.trainable, theirs, strict=True):
                parameter.grad = gradient
            self._descend(player, i)
        return losses

    def _descend(self, player: Player, i: int) -> None:
        settings, start, stop = (
            self.run.optimizer,
            player.start * self.run.steps,
            player.stop * self.run.steps,
        )
        factor = rate(settings, (i - start) / (stop - start), int(i - start))
        for group in player.optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
        if settings.clip is not None:
            clip_grad_norm_(player.parameters, settings.clip)
        player.optimizer.step()
        player.optimizer.zero_grad(set_to_none=True)

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


class Average:
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
            kept = self.live[i].detach().clone()
            self.live[i].copy_(mean)
            self.mean[i] = kept


# ------------------------------------------------------------------------------------------------- the loop


@dataclass
class Progress:
    """Where a training stands; all of it, with the weights, is in a checkpoint."""

    step: int = 0
    seconds: float = 0.0
    curve: list[Point] = field(default_factory=list)
    best: float = math.inf
    selected: dict[str, Any] | None = None  # weights
    selected_step: int = 0
    losses: list[float] = field(default_factory=list)  # since the last point
    moments: Moments = field(default_factory=dict)  # of models that have some to draw


def train(
    model: Model,
    dataset: Dataset,
    run: Run,
    work: Work,
    *,
    code: str,
    checkpoint_every: float = 30.0,
    deadline: float = math.inf,
) -> Progress:
    """Train `model` in place as `run` says and leave in it the selected weights; return how it went.

    It goes on from ``<work>/<run.id>/checkpoint.pt`` if there is one of the same `code`, and then gives the same
    bits as if it had never stopped: every step seeds its own draws from (seed, step).

    Raises:
        Diverged: the loss is not finite.
        ForeignCheckpoint: the checkpoint is of another model, optimizer or run.
        TimeoutError: `deadline` (time.monotonic) has passed; a checkpoint is left.
    """
    name = f"{run.id}/checkpoint.pt"
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    model.prepare(dataset.train)
    game, average = Game(model, run), Average(model, run.optimizer.ema)
    batch = batches(dataset, run.batch, run.seed, device)
    moments = steps_of(run.steps)
    checks = {round(run.steps * (k + 1) / run.checks) for k in range(run.checks)}
    progress = _restored(work.load(name), code, model, game, average)
    began, saved = time.monotonic() - progress.seconds, time.monotonic()
    state, pending = state_of(model), list[Tensor]()

    def settle() -> None:
        values = torch.stack(pending).double().tolist() if pending else []
        pending.clear()
        if not all(map(math.isfinite, values)):
            raise Diverged(f"the loss is {next(v for v in values if not math.isfinite(v))} by step {progress.step}")
        progress.losses += values

    model.train()
    while progress.step < run.steps:
        i = progress.step
        if i in moments:
            keep(model, dataset, run, progress)
        reseed(run.seed, i)
        loss = game.step(i, batch)
        if i == 0 or i + 1 in checks:
            check_state(model, state)
        average.update(i)
        pending += [] if loss is None else [loss]
        progress.step = i + 1
        progress.seconds = time.monotonic() - began
        if progress.step % LOOK == 0 or progress.step in checks:
            settle()
        if progress.step in checks:
            with average.applied():
                check(model, dataset, run, progress)
        if time.monotonic() - saved > checkpoint_every or time.monotonic() > deadline:
            settle()
            work.save(name, _packed(code, model, game, average, progress))
            saved = time.monotonic()
        if time.monotonic() > deadline:
            raise TimeoutError(f"stopped at step {progress.step} of {run.steps} after {progress.seconds:.0f} s")

    if run.steps:
        keep(model, dataset, run, progress)
    progress.seconds = time.monotonic() - began
    if progress.selected is not None:
        model.load_state_dict(progress.selected)
    model.eval()
    return progress


def check(model: Model, dataset: Dataset, run: Run, progress: Progress) -> None:
    """Score the validation split in nats and keep the weights if they are to be selected.

    Of a model without a likelihood, or whose scores were never finite, these are the last.
    """
    score = validation_score(model, dataset, run)
    progress.curve.append(
        Point(
            step=progress.step,
            seconds=progress.seconds,
            loss=sum(progress.losses) / len(progress.losses) if progress.losses else None,
            validation=score if score is not None and math.isfinite(score) else None,
        )
    )
    progress.losses.clear()
    better = score is not None and math.isfinite(score) and score < progress.best
    never = progress.step == run.steps and progress.selected is None
    if run.selection == "last" or score is None or better or never:
        progress.best = score if score is not None and better else math.inf
        progress.selected_step = progress.step
        progress.selected = {k: v.detach().clone() for k, v in model.state_dict().items()}


def keep(model: Model, dataset: Dataset, run: Run, progress: Progress) -> None:
    """Keep what is to be drawn of this moment: of the weights that move, not of their averages, which hide cycles.

    Every moment has the same draws, so that they differ by the weights alone.
    """
    reseed(run.seed, "moment")
    model.eval()
    with torch.no_grad():
        kept = moment(model, dataset)
    model.train()
    if kept:
        progress.moments[progress.step] = kept


def validation_score(model: Model, dataset: Dataset, run: Run) -> float | None:
    """Return the mean negative log-likelihood of the validation split in nats, None for a model without one.

    Every check draws the same noise, so that checks differ by the weights alone.
    """
    if model.likelihood is None:
        return None
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    reseed(run.seed, "validation")
    model.eval()
    with torch.no_grad():
        batches = (x.to(device) for x in torch.split(dataset.validation, dataset.space.at_once))
        log_p = torch.cat([check_log_prob(model, model.log_prob(x), x).double() for x in batches])
    model.train()
    return -log_p.mean().item()


# ---------------------------------------------------------------------------------------------- checkpoints


def _packed(code: str, model: Model, game: Game, average: Average, progress: Progress) -> bytes:
    file = io.BytesIO()
    state = {
        "code": code,
        "model": model.state_dict(),
        "optimizers": [player.optimizer.state_dict() for player in game.players],
        "average": average.mean,
        "progress": asdict(progress),
    }
    torch.save(state, file)
    return file.getvalue()


def _restored(packed: bytes | None, code: str, model: Model, game: Game, average: Average) -> Progress:
    """Put a checkpoint into model, optimizers and average, and return where it stands; raises ForeignCheckpoint."""
    try:
        state = unpacked(packed, code)
        return Progress() if state is None else _restore(state, model, game, average)
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # whatever another program wrote, a user's own load_state_dict included
        raise ForeignCheckpoint(f"{type(error).__name__}: {error}") from error


def _restore(state: dict[str, Any], model: Model, game: Game, average: Average) -> Progress:
    model.load_state_dict(state["model"])
    for player, saved in zip(game.players, state["optimizers"], strict=True):
        player.optimizer.load_state_dict(saved)
        _check_state(player.optimizer)
    means = [mean.to(live.device) for mean, live in zip(state["average"], average.live, strict=False)]
    _check_shapes(means, average.mean)
    average.mean = means
    progress_state = state["progress"]
    progress = Progress(**progress_state | {"curve": [Point(**point) for point in progress_state["curve"]]})
    if progress.selected is not None:
        weights = model.state_dict()
        _check_shapes([progress.selected[name] for name in weights], list(weights.values()))
    if not 0 <= progress.step <= game.run.steps:
        raise ValueError(f"it is of step {progress.step}, and the run has {game.run.steps}")
    return progress


def _check_state(optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError if a moment has another shape than its parameter, which fused kernels take without a look."""
    for parameter, state in optimizer.state.items():
        moments = [value for value in state.values() if isinstance(value, Tensor) and value.dim()]
        _check_shapes(moments, [parameter] * len(moments))


def _check_shapes(saved: list[Tensor], expected: list[Tensor]) -> None:
    shapes, right = ([tuple(x.shape) for x in tensors] for tensors in (saved, expected))
    if shapes != right:
        raise ValueError(f"shapes {shapes} are saved where the run has {right}")


def unpacked(packed: bytes | None, code: str) -> dict[str, Any] | None:
    """Return what torch.save put in `packed`, or None if nothing is there or other code made it."""
    if packed is None:
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
    return state if state["code"] == code else None
