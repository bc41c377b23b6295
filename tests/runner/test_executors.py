"""Executors: what they take and when, what a run is given, and what becomes of one that cannot tell itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from genbench.errors import UsageError
from genbench.records.record import Record
from genbench.runner.executors import Executor, in_process, on_ray
from genbench.runner.ray_cluster import disconnect
from genbench.runner.resources import why_infeasible, with_cores, with_twice_the_memory
from genbench.runner.worker import perform
from genbench.suite import Resources, Run
from tests.faulty import a_run, always_killed, meeting, not_performing, on_linux, sleeper, weights, without_end


@pytest.fixture(scope="module")
def ray2() -> Iterator[Executor]:
    """Ray with two cores."""
    yield partial(on_ray, cpus=2, grace=0.5)
    disconnect()


def spans(folder: Path) -> list[tuple[float, float]]:
    """Return when each sleeper began and ended, in order."""
    texts = [path.read_text().split() for path in folder.iterdir()]
    return sorted((float(began), float(ended)) for began, ended in texts)


def test_a_request_is_met_by_one_node_or_not_at_all() -> None:
    small, big = {"CPU": 4.0, "memory": 8e9}, {"CPU": 2.0, "GPU": 1.0, "memory": 64e9}
    assert why_infeasible(Resources(cpus=4), [small, big]) is None
    assert why_infeasible(Resources(cpus=0.5, gpus=0.25, memory=10**10), [small, big]) is None
    assert why_infeasible(Resources(cpus=8), [small, big]) == "8 CPU requested, 4 available"
    assert why_infeasible(Resources(cpus=4, gpus=1), [small, big]) == "no single machine has all requested resources"
    assert why_infeasible(Resources(gpus=1), []) == "1 CPU requested, 0 available; 1 GPU requested, 0 available"


def test_cores_are_those_of_the_largest_node_that_has_the_rest() -> None:
    nodes = [{"CPU": 64.0, "memory": 1e9}, {"CPU": 8.0, "GPU": 2.0, "memory": 1e9}]
    assert with_cores(a_run(), nodes).resources.cpus == 64
    run = a_run(resources={"gpus": 0.5})
    assert with_cores(run, nodes).resources == Resources(cpus=8, gpus=0.5)
    assert with_cores(run, nodes).id == run.id


def test_memory_is_doubled_up_to_what_a_node_has() -> None:
    nodes = [{"CPU": 8.0, "memory": 64e9}]
    doubled = [with_twice_the_memory(a_run(resources={"cpus": 2, "memory": m}), nodes) for m in (None, 10**9, 10**11)]
    assert [run.resources.memory for run in doubled] == [32 * 10**9, 2 * 10**9, 64 * 10**9]


@pytest.mark.parametrize("where", ["process", "ray"])
def test_missing_gpus_are_reported_immediately(where: str, ray2: Executor) -> None:
    execute = in_process if where == "process" else ray2
    list(execute(always_ok, [a_run(1)]))  # Ray is up
    began = time.monotonic()
    (record,) = execute(not_performing, [a_run(resources={"gpus": 1000})])
    assert time.monotonic() - began < 5
    assert (record.status, record.attempts) == ("unschedulable", 1)
    assert "1000 GPU requested" in str(record.error)


def always_ok(run: Run) -> Record:
    """Return an ok record."""
    return Record(run=run, execution="x", status="ok")


@pytest.mark.parametrize("where", ["process", "ray"])
def test_an_exception_that_escapes_is_an_error_and_the_rest_goes_on(where: str, ray2: Executor) -> None:
    execute = in_process if where == "process" else ray2
    records = sorted(execute(not_performing, [a_run(0), a_run(1)]), key=lambda r: r.run.seed)
    assert [(r.status, r.attempts, r.run.seed) for r in records] == [("error", 1, 0), ("error", 1, 1)]
    assert records[1].error == "LookupError: of seed 1 escapes"


def test_runs_are_taken_only_when_they_can_start(ray2: Executor, tmp_path: Path) -> None:
    taken: list[int] = []

    def runs() -> Iterator[Run]:
        for seed in range(6):
            taken.append(seed)
            yield a_run(seed)

    for done, record in enumerate(ray2(partial(sleeper, folder=str(tmp_path)), runs())):
        assert len(taken) - done <= 2
        assert record.environment["OMP_NUM_THREADS"] == "1"
        assert record.environment["CUDA_VISIBLE_DEVICES"] == ""
    assert taken == list(range(6))
    assert len(spans(tmp_path)) == 6


@pytest.mark.parametrize(("cpus", "max_concurrency"), [(1, 2), (0.5, 4)])
def test_as_many_runs_at_once_as_cores_or_fractions_of_them(
    cpus: float, max_concurrency: int, ray2: Executor, tmp_path: Path
) -> None:
    runs = [a_run(seed, resources={"cpus": cpus}) for seed in range(max_concurrency)]
    records = list(ray2(partial(meeting, folder=str(tmp_path), size=max_concurrency), runs))
    assert [(r.status, r.error) for r in records] == [("ok", None)] * max_concurrency
    assert len({r.environment["pid"] for r in records}) == max_concurrency
    assert {r.environment["OMP_NUM_THREADS"] for r in records} == {"1"}


def test_alone_is_one_at_a_time_with_every_core(ray2: Executor, tmp_path: Path) -> None:
    records = list(ray2(partial(sleeper, folder=str(tmp_path)), [a_run(seed) for seed in range(3)], exclusive=True))
    assert [r.run.resources.cpus for r in records] == [2, 2, 2]
    assert {r.environment["OMP_NUM_THREADS"] for r in records} == {"2"}
    assert all(end <= began for (_, end), (began, _) in pairwise(spans(tmp_path)))


@on_linux
def test_no_worker_ends_while_a_run_is_alone(ray2: Executor, tmp_path: Path) -> None:
    pair = list(ray2(partial(meeting, folder=str(tmp_path), size=2), [a_run(0), a_run(1)]))
    workers = [str(record.environment["pid"]) for record in pair]
    (record,) = ray2(partial(survivors, workers=workers), [a_run(2)], exclusive=True)
    assert record.environment["alive"] == " ".join(workers)


def survivors(run: Run, *, workers: list[str]) -> Record:
    """Return a record of which workers are there after 2.5 s; by default Ray lets an idle one wait for 1 s."""
    time.sleep(2.5)
    alive = " ".join(pid for pid in workers if Path("/proc", pid).exists())
    return Record(run=run, execution="x", status="ok", environment={"alive": alive})


def test_a_run_that_kills_every_worker_is_crashed_after_three_tries(ray2: Executor) -> None:
    (record,) = ray2(always_killed, [a_run()])
    assert (record.status, record.attempts) == ("crashed", 3)


def test_a_run_that_minds_no_timeout_is_ended_by_force(ray2: Executor) -> None:
    began = time.monotonic()
    records = list(ray2(without_end, [a_run(0, resources={"timeout": 0.5}), a_run(1, resources={"timeout": 0.5})]))
    assert [(r.status, r.attempts, r.measurements) for r in records] == [("timeout", 1, {})] * 2
    assert time.monotonic() - began < 60
    (record,) = ray2(always_ok, [a_run()])  # its cores are free again
    assert record.status == "ok"


def test_both_executors_give_the_same_bits(ray2: Executor, tmp_path: Path) -> None:
    runs = [a_run(seed) for seed in range(3)]
    in_child = {r.id: r for r in in_process(partial(perform, work=str(tmp_path / "here")), runs)}
    on_ray = {r.id: r for r in ray2(partial(perform, work=str(tmp_path / "there")), runs)}
    assert {r.status for r in in_child.values()} == {"ok"}
    for run in runs:
        assert on_ray[run.id].measurements == in_child[run.id].measurements
        assert weights(tmp_path / "there", run) == weights(tmp_path / "here", run)


@pytest.mark.slow
def test_parts_of_a_gpu_are_shared_and_hidden_from_those_that_ask_for_none(tmp_path: Path) -> None:
    import ray

    disconnect()
    ray.init(address="local", num_cpus=3, num_gpus=1, include_dashboard=False, log_to_driver=False)
    runs = [a_run(seed, resources={"gpus": gpus}) for seed, gpus in enumerate((0, 0.5, 0.5))]
    records = sorted(on_ray(partial(sleeper, folder=str(tmp_path)), runs), key=lambda r: r.run.seed)
    disconnect()
    assert [r.environment["CUDA_VISIBLE_DEVICES"] for r in records] == ["", "0", "0"]
    assert len({r.environment["pid"] for r in records}) == 3


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_a_missing_cluster_is_one_line(address: str) -> None:
    disconnect()
    with pytest.raises(UsageError, match=f"--address '{address}': no Ray cluster was joined: .+") as caught:
        list(on_ray(always_ok, [a_run()], address=address))
    assert "\n" not in str(caught.value)


def test_where_ray_is_missing_only_ray_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert [r.status for r in in_process(always_ok, [a_run()])] == ["ok"]
    with pytest.raises(UsageError, match="or use --executor process"):
        list(on_ray(always_ok, [a_run()]))
