"""The resources that runs request and machines have."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

from genbench.suite import Resources, Run

Node = Mapping[str, float]  # the resources of a machine: "CPU", "GPU", "memory" (bytes)


def this_machine(*, gpus: bool) -> Node:
    """Return the resources of this machine for this process; GPUs, which need torch, are counted only with `gpus`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not gpus:
        return {"CPU": cores, "memory": math.inf}
    import torch

    return {"CPU": cores, "memory": math.inf, "GPU": torch.cuda.device_count()}


def why_infeasible(request: Resources, nodes: Sequence[Node]) -> str | None:
    """Return why no single one of `nodes` can ever meet `request`, None if one can."""
    amounts = {"CPU": request.cpus, "GPU": request.gpus, "memory": request.memory or 0}
    if any(all(node.get(key, 0) >= amount for key, amount in amounts.items()) for node in nodes):
        return None
    most = {key: max((node.get(key, 0) for node in nodes), default=0) for key in amounts}
    missing = [f"{amounts[k]:g} {k} requested, {most[k]:g} available" for k in amounts if amounts[k] > most[k]]
    return "; ".join(missing) or "no single machine has all requested resources"


def with_cores(run: Run, nodes: Sequence[Node]) -> Run:
    """Return `run` with a request for all cores of the largest of `nodes` that can run it."""
    cores = max(node["CPU"] for node in nodes if not why_infeasible(run.resources, [node]))
    return run.model_copy(update={"resources": run.resources.model_copy(update={"cpus": cores})})


def with_twice_the_memory(run: Run, nodes: Sequence[Node]) -> Run:
    """Return `run` with a request for twice its memory (by default its share by cores), at most that of a node."""
    node = max(nodes, key=lambda node: node["memory"])
    bytes_ = run.resources.memory or node["memory"] * run.resources.cpus / node["CPU"]
    memory = int(min(2 * bytes_, node["memory"]))
    return run.model_copy(update={"resources": run.resources.model_copy(update={"memory": memory})})
