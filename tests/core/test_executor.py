"""The executors: same results everywhere, and nothing hangs when a worker is lost."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from gleanings.core.errors import ConfigError
from gleanings.core.executor import InProcess, Processes, RayTasks, TaskResult, kept, map_tasks


def square(x: int) -> int:
    if x == 3:
        raise ValueError("three is\nrefused")
    return x * x


def threads_and_flags(_: int) -> tuple[str, str]:
    return os.environ["OMP_NUM_THREADS"], os.environ.get("XLA_FLAGS", "")


def die_once(marker: str) -> str:
    if not Path(marker).exists():
        Path(marker).write_text("tried")
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def meet(item: tuple[Path, str, str]) -> list[int]:
    folder, mine, other = item
    (folder / mine).touch()
    while not (folder / other).exists():
        time.sleep(0.05)
    return sorted(os.sched_getaffinity(0))


def worker(_: int) -> int:
    return os.getpid()


def die(_: int) -> None:
    os._exit(7)


def pause(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def wait_or_release(item: tuple[str, Path]) -> None:
    action, folder = item
    if action == "release":
        (folder / "released").touch()
    while action == "wait" and not (folder / "released").exists():
        time.sleep(0.05)


def unsendable(_: int) -> object:
    return lambda: None


def collected(fn, items, executor) -> list[TaskResult]:
    return sorted(map_tasks(fn, items, executor), key=lambda result: result.index)


def test_results_do_not_depend_on_the_executor():
    here, there = collected(square, range(6), InProcess()), collected(square, range(6), Processes(2))
    assert here == there
    assert [result.value for result in here] == [0, 1, 4, None, 16, 25]
    assert here[3].error is not None
    assert here[3].error.startswith("ValueError: three is refused (test_executor.py:")
    assert {result.attempts for result in here} == {1}


def test_results_come_in_order_of_completion(tmp_path: Path):
    # The first task ends only after the third has begun, which needs the second to be done.
    items = [("wait", tmp_path), ("go on", tmp_path), ("release", tmp_path)]
    order = [result.index for result in map_tasks(wait_or_release, items, Processes(2))]
    assert order[0] == 1
    assert sorted(order) == [0, 1, 2]


def test_a_killed_worker_is_replaced_and_its_task_tried_again(tmp_path: Path):
    items = [str(tmp_path / "a"), str(tmp_path / "b")]
    start = time.monotonic()
    results = collected(die_once, items, Processes(2))
    assert [(result.value, result.attempts) for result in results] == [("survived", 2)] * 2
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("retries", [0, 1])
def test_a_task_that_always_loses_its_worker_is_given_up(retries: int):
    (result,) = collected(die, [0], Processes(1, retries=retries))
    assert result == TaskResult(0, None, "worker lost: it ended with exit code 7", retries + 1)


def test_an_overdue_task_is_ended_and_the_others_finish():
    slow, quick = collected(pause, [600.0, 0.0], Processes(2, timeout_s=8.0, retries=0))
    assert quick.value == 0.0
    assert slow.error == "worker lost: it took longer than its time limit"


def test_closing_the_iterator_ends_the_workers():
    results = map_tasks(pause, [0.0, 600.0], Processes(2))
    assert next(results).value == 0.0
    results.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


def test_kept_workers_serve_several_runs_and_end_with_the_context():
    with kept(Processes(2)) as executor:
        first = {result.value for result in collected(worker, [0] * 4, executor)}
        assert {result.value for result in collected(worker, [0] * 4, executor)} <= first
        assert [result.value for result in collected(square, [2, 4], executor)] == [4, 16]
        results = map_tasks(pause, [0.0, 600.0], executor)
        assert next(results).value == 0.0
        results.close()  # type: ignore[attr-defined]
        assert len(multiprocessing.active_children()) == 1
        assert {result.error for result in collected(die, [0], executor)} == {"worker lost: it ended with exit code 7"}
        assert len(collected(worker, [0] * 4, executor)) == 4
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("executor", [None, InProcess()])
def test_what_has_no_workers_is_kept_as_it_is(executor: InProcess | None):
    with kept(executor) as same:
        assert same is executor


def test_workers_share_the_cores_and_the_parent_is_left_as_it_was():
    before = dict(os.environ)
    (result,) = collected(threads_and_flags, [0], Processes(1))
    assert result.value[0] == str(os.cpu_count())
    results = collected(threads_and_flags, [0] * (os.cpu_count() or 1), Processes(64))
    assert {result.value[0] for result in results} == {"1"}
    assert all("intra_op_parallelism_threads" in result.value[1] for result in results)
    assert dict(os.environ) == before


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_workers_keep_to_cores_of_their_own(tmp_path: Path):
    own = sorted(os.sched_getaffinity(0))
    if len(own) < 2:
        pytest.skip("needs two cores")
    both = [result.value for result in collected(meet, [(tmp_path, "a", "b"), (tmp_path, "b", "a")], Processes(2))]
    assert [len(cores) for cores in both] == [len(own) // 2] * 2
    assert not set(both[0]) & set(both[1])
    assert sorted(os.sched_getaffinity(0)) == own


def test_what_cannot_be_sent_is_named():
    with pytest.raises(ConfigError, match="task 0 cannot be sent"):
        collected(lambda x: x, [0], Processes(1))
    (result,) = collected(unsendable, [0], Processes(1))
    assert result.error is not None
    assert result.error.startswith("the result cannot be sent back")


@pytest.mark.parametrize("fields", [{"n": 0}, {"n": 1, "retries": -1}, {"n": 1, "timeout_s": 0.0}])
def test_impossible_settings_are_refused(fields: dict):
    with pytest.raises(ConfigError, match="expected n >= 1"):
        Processes(**fields)


def test_no_items_and_the_default_executor():
    assert list(map_tasks(square, [], Processes(2))) == []
    assert [result.value for result in map_tasks(square, [2])] == [4]


def test_a_missing_ray_is_named_with_its_install_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'gleanings\[ray\]'"):
        collected(square, [1], RayTasks())


@pytest.mark.slow
def test_ray_gives_the_same_results_and_survives_lost_workers(tmp_path: Path):
    ray = pytest.importorskip("ray")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}},
    )
    try:
        assert collected(square, range(6), RayTasks()) == collected(square, range(6), InProcess())
        (survived,) = collected(die_once, [str(tmp_path / "a")], RayTasks())
        assert (survived.value, survived.attempts) == ("survived", 2)
        (lost,) = collected(die, [0], RayTasks(retries=0))
        assert lost.error == "worker lost: WorkerCrashedError"
    finally:
        ray.shutdown()
