"""Faults that are done, not imagined: killed workers, drivers and nodes, hangs, no memory, Ctrl-C, two drivers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from genbench.records.record import Record
from genbench.records.store import Store
from genbench.runner.driver import drive
from genbench.runner.executors import Executor, in_process, on_ray
from genbench.runner.progress import ProgressReporter
from genbench.runner.ray_cluster import disconnect
from genbench.runner.worker import perform
from genbench.suite import ROOT, Resources
from tests.faulty import a_run, not_performing, on_linux, weights, without_end

quietly = partial(drive, progress=ProgressReporter())


@pytest.fixture(scope="module")
def ray2() -> Iterator[Executor]:
    """Ray with two cores."""
    yield partial(on_ray, cpus=2, grace=1.0)
    disconnect()


def until(true: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until `true`; raises TimeoutError after `seconds`."""
    limit = time.monotonic() + seconds
    while not true():
        if time.monotonic() > limit:
            raise TimeoutError
        time.sleep(0.05)


def steps(folder: Path) -> list[str]:
    """Return the process of every step that was taken."""
    return (folder / "steps").read_text().split() if (folder / "steps").exists() else []


# --------------------------------------------------------------------------------------- the worker, the node


def test_a_killed_worker_costs_a_try_and_no_bit(ray2: Executor, tmp_path: Path) -> None:
    run = a_run(options={"fault": "killed", "at": 15, "folder": str(tmp_path)})
    (record,) = ray2(partial(perform, work=str(tmp_path / "killed"), checkpoint_every=0.0), [run])
    assert (record.status, record.attempts) == ("ok", 2)
    assert list(Counter(steps(tmp_path)).values()) == [15, 26]  # it went on from the checkpoint of step 14
    (undisturbed,) = in_process(partial(perform, work=str(tmp_path / "undisturbed")), [run])
    assert (undisturbed.status, undisturbed.attempts) == ("ok", 1)
    assert record.measurements == undisturbed.measurements
    assert record.selected_step == undisturbed.selected_step
    assert [(p.step, p.loss, p.validation) for p in record.curve] == [
        (p.step, p.loss, p.validation) for p in undisturbed.curve
    ]
    assert weights(tmp_path / "killed", run) == weights(tmp_path / "undisturbed", run)


def test_every_way_to_fail_is_a_record_and_retried_only_on_request(ray2: Executor, tmp_path: Path) -> None:
    store = Store(tmp_path)
    work = partial(perform, work=str(store.work))
    folder = {"folder": str(tmp_path)}
    runs = [
        a_run(0, options={"fault": "nan"}),
        a_run(0, options={"fault": "raise"}),
        a_run(0, options={"pause": 0.05}, resources={"timeout": 0.2}),  # minds it
        a_run(0, options={"fault": "hang", "at": 1, **folder}, resources={"timeout": 0.5}),  # does not
        a_run(0, steps=50, resources={"gpus": 1000}),
    ]
    statuses = ["diverged", "error", "timeout", "timeout", "unschedulable"]
    outcome = quietly(runs, store, ray2, perform=work)
    assert outcome.done == 0
    assert {r.id: r.status for r in outcome.failed} == dict(zip((r.id for r in runs), statuses, strict=True))
    assert all(record.measurements == {} and record.error for record in store.records())

    assert quietly(runs, store, in_process, perform=not_performing) == outcome  # nothing is performed
    unhurried = runs[3].model_copy(update={"resources": Resources()})
    (tmp_path / "fault").touch()  # it hangs only once; a slow machine may have stopped it before it did
    outcome = quietly([unhurried], store, ray2, perform=work, retry_failed=True)
    assert (outcome.done, outcome.failed) == (1, ())
    assert [record.status for record in store.of(runs[3])] == ["timeout", "ok"]


@pytest.mark.slow
def test_a_machine_without_memory_gives_one_more_try_with_twice_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    disconnect()
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.001")  # every machine is above it
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    (record,) = on_ray(without_end, [a_run(resources={"memory": 10**8})], cpus=2)
    disconnect()
    assert (record.status, record.attempts, record.run.resources.memory) == ("host_oom", 2, 2 * 10**8)


@pytest.mark.slow
def test_a_lost_node_costs_a_try_and_the_last_node_the_run(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    disconnect()
    impatient = {
        "health_check_initial_delay_ms": 1000,
        "health_check_period_ms": 500,
        "health_check_failure_threshold": 3,
    }
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": impatient})
    first, second = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
    execute = partial(on_ray, address=cluster.address, grace=1.0)
    slow = {"options": {"folder": str(tmp_path), "pause": 0.1}}

    def lose(node: Any, after: int) -> None:
        until(lambda: len(steps(tmp_path)) >= after)
        cluster.remove_node(node, allow_graceful=False)

    def performed(seeds: range, node: Any, after: int) -> list[Record]:
        loser = threading.Thread(target=lose, args=(node, after))
        loser.start()
        work = partial(perform, work=str(tmp_path), checkpoint_every=0.0)
        records = list(execute(work, [a_run(seed, **slow) for seed in seeds]))
        loser.join()
        return records

    try:
        records = performed(range(2), first, after=20)
        assert sorted((r.status, r.attempts) for r in records) == [("ok", 1), ("ok", 2)]
        assert len(steps(tmp_path)) <= 82  # 40 each, and at most one of them twice
        (record,) = performed(range(2, 3), second, after=len(steps(tmp_path)) + 5)
        assert record.status == "crashed"
        assert "1 CPU requested, 0 available" in str(record.error)
    finally:
        disconnect()
        cluster.shutdown()


# ------------------------------------------------------------------------------------------------- the driver


def suite(folder: Path, seeds: int, metrics: list[str], pause: float = 0.05) -> Path:
    """Write a suite of slow runs, two seconds each, that note their steps in `folder`."""
    path = folder / "suite.yaml"
    options = {"folder": str(folder), "pause": pause}
    content = {
        "suite": "faulty",
        "defaults": {"steps": 40, "batch": 50, "checks": 4, "seeds": list(range(seeds))},
        "data": ["tests.faulty:normal"],
        "metrics": [f"tests.faulty:{metric}" for metric in metrics],
        "models": {"Slow": {"model": "tests.faulty:Gaussian", "options": options}},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def started(path: Path, executor: str) -> subprocess.Popen[str]:
    """Start a real driver, in a session of its own, to which all that it starts belongs."""
    command = [sys.executable, "-m", "genbench", "run", str(path), "--results", str(path.parent / "results")]
    return subprocess.Popen(
        [*command, "--executor", executor, "--checkpoint-every", "0"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=path.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # which a job in the background inherits ignored
    )


AGENTS = ("ray::DashboardA", "ray::RuntimeEnv")  # of a node: idle, they leave a minute after its daemon is killed


def left(driver: subprocess.Popen[str]) -> dict[int, str]:
    """Return the names of the processes of the driver's session that are alive, as /proc tells them."""
    alive = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            head, _, stat = (process / "stat").read_text().rpartition(")")
        except OSError:  # it is over
            continue
        state, _, _, session = stat.split()[:4]
        if int(session) == driver.pid and state != "Z":
            alive[int(process.name)] = head.partition("(")[2]
    return alive


def holds(store: Store, records: int) -> Callable[[], bool]:
    """Return whether there are `records` in `store` by now."""
    return lambda: len(list(store.folder.glob("faulty/*/*.json"))) >= records


@on_linux
@pytest.mark.slow
def test_a_killed_driver_loses_nothing_and_leaves_nobody(tmp_path: Path) -> None:
    path, store = suite(tmp_path, 4, ["nats"]), Store(tmp_path / "results")
    driver = started(path, "ray")
    until(holds(store, 2))
    taken = len(steps(tmp_path))
    until(lambda: len(steps(tmp_path)) >= taken + 10)
    driver.kill()
    driver.communicate()
    until(lambda: set(left(driver).values()) <= set(AGENTS), 10)
    for agent in left(driver):
        os.kill(agent, signal.SIGKILL)
    before = {file: file.read_bytes() for file in store.folder.glob("faulty/*/*.json")}
    assert len(store.records()) == len(before) >= 2
    assert store.damaged == []

    again = started(path, "process")
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert Counter(record.run.seed for record in store.records()) == Counter(range(4))
    assert {record.status for record in store.records()} == {"ok"}
    assert all(file.read_bytes() == content for file, content in before.items())
    assert len(steps(tmp_path)) <= 4 * 40 + 2  # what was under way went on from its last step


@on_linux
@pytest.mark.parametrize(
    ("executor", "stop"),
    [pytest.param("ray", signal.SIGINT, marks=pytest.mark.slow), ("process", signal.SIGTERM)],
)
def test_ctrl_c_ends_all_within_five_seconds(executor: str, stop: signal.Signals, tmp_path: Path) -> None:
    path, store = suite(tmp_path, 4, ["nats"]), Store(tmp_path / "results")
    driver = started(path, executor)
    until(holds(store, 1))
    began = time.monotonic()
    os.killpg(driver.pid, stop) if stop == signal.SIGINT else driver.send_signal(stop)  # a terminal tells the group
    out, errors = driver.communicate(timeout=60)
    assert driver.returncode == 130, errors
    assert time.monotonic() - began < 5
    until(lambda: not left(driver), 0.5)
    assert {record.status for record in store.records()} == {"ok"}
    assert store.damaged == []
    assert "Traceback" not in out + errors


def test_two_drivers_share_a_folder_and_perform_nothing_twice(tmp_path: Path) -> None:
    path, store = suite(tmp_path, 4, ["nats", "span"]), Store(tmp_path / "results")
    drivers = [started(path, "process") for _ in range(2)]
    for driver in drivers:
        _, errors = driver.communicate(timeout=120)
        assert driver.returncode == 0, errors
    held = Counter((record.run.seed, metric) for record in store.records() for metric in record.run.metrics)
    assert store.damaged == []
    assert held == Counter([(seed, "tests.faulty:nats") for seed in range(4)] + [(0, "tests.faulty:span")])
    taken = Counter(steps(tmp_path))
    assert sum(taken.values()) == 4 * 40
    assert len(taken) == 4  # a process for each run
    assert len({process.partition("<")[2] for process in taken}) == 2  # both drivers had their share


def test_speed_is_measured_by_one_driver_at_a_time(tmp_path: Path) -> None:
    store = Store(tmp_path)
    runs = [a_run(0, name=f"row {i}", steps=i, metrics=("tests.faulty:nats", "tests.faulty:span")) for i in range(4)]
    work = partial(perform, work=str(store.work))
    drivers = [threading.Thread(target=quietly, args=(runs, store, in_process), kwargs={"perform": work})]
    drivers[0].start()
    quietly(runs, store, in_process, perform=work)
    drivers[0].join()
    measured = [r.measurements["span"] for r in store.records() if "span" in r.measurements]
    assert len(measured) == 4
    spans = sorted((m.raw[0], m.raw[1]) for m in measured)
    assert all(end <= began for (_, end), (began, _) in pairwise(spans))
    assert {m.value for m in measured} == {float(os.cpu_count() or 1)}
