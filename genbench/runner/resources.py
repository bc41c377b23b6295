"""What a run asks of a machine, what machines have to give, and whether the two meet."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

from genbench.suite import Resources, Run

Node = Mapping[str, float]  # what a machine has to give: "CPU", "GPU", "memory" (bytes)


def this_machine(*, gpus: bool) -> Node:
    """Return what this machine gives to this process; it looks for GPUs, which takes torch, only if told to."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not gpus:
        return {"CPU": cores, "memory": math.inf}
    import torch

    return {"CPU": cores, "memory": math.inf, "GPU": torch.cuda.device_count()}


def unmet(asked: Resources, there: Sequence[Node]) -> str | None:
    """Return why no single node of those `there` can ever grant what is `asked`, None if one can."""
    wanted = {"CPU": asked.cpus, "GPU": asked.gpus, "memory": asked.memory or 0}
    if any(all(node.get(key, 0) >= amount for key, amount in wanted.items()) for node in there):
        return None
    most = {key: max((node.get(key, 0) for node in there), default=0) for key in wanted}
    short = [f"{wanted[k]:g} {k} asked for, {most[k]:g} there" for k in wanted if wanted[k] > most[k]]
    return "; ".join(short) or "no one machine has all that is asked for"


def with_cores(run: Run, there: Sequence[Node]) -> Run:
    """Return `run` asking for all cores of the largest node `there` that can grant it."""
    cores = max(node["CPU"] for node in there if not unmet(run.resources, [node]))
    return run.model_copy(update={"resources": run.resources.model_copy(update={"cpus": cores})})


def with_twice_the_memory(run: Run, there: Sequence[Node]) -> Run:
    """Return `run` asking for twice its memory (its share by cores where it asked for none), at most a node's."""
    node = max(there, key=lambda node: node["memory"])
    bytes_ = run.resources.memory or node["memory"] * run.resources.cpus / node["CPU"]
    memory = int(min(2 * bytes_, node["memory"]))
    return run.model_copy(update={"resources": run.resources.model_copy(update={"memory": memory})})
