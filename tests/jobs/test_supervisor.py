"""Real worker processes, killed and left alone. No model in them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from tests.jobs.fake_executors import NAME, asks
from tests.jobs.queues import a_store, add, wait_for

from recurvid.errors import InputError
from recurvid.jobs import supervisor as supervisor_module
from recurvid.jobs.claims import Claims
from recurvid.jobs.limits import Limits
from recurvid.jobs.slots import held
from recurvid.jobs.states import JobState, QueueState
from recurvid.jobs.store import JobStore
from recurvid.jobs.supervisor import Supervisor

S = JobState
ROOT = Path(__file__).parents[2]
SERVER = """
import sys, time
from pathlib import Path
from recurvid.jobs.supervisor import Supervisor
with Supervisor(Path(sys.argv[1]), ("cpu",), executor=sys.argv[2]) as supervisor:
    while True:
        time.sleep(0.05)
"""


@pytest.fixture(autouse=True)
def _fakes_can_be_imported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@contextmanager
def supervised(home: Path, **limits: int) -> Generator[Supervisor]:
    with Supervisor(home, ("cpu",), Limits(**limits), executor=NAME, grace=20.0) as supervisor:
        yield supervisor


def pid_of(supervisor: Supervisor) -> int:
    wait_for(lambda: supervisor.workers()[0].pid)
    pid = supervisor.workers()[0].pid
    assert pid is not None
    return pid


def server(home: Path) -> subprocess.Popen[bytes]:
    """A process of its own that supervises, as `recurvid serve` does."""
    return subprocess.Popen([sys.executable, "-c", SERVER, str(home), NAME], cwd=ROOT)


def made_sections(store: JobStore, id: str) -> list[str]:
    return (store.folders.of(id) / "log").read_text().split()


def video(store: JobStore, id: str) -> bytes:
    path = store.video(id)
    assert path is not None
    return path.read_bytes()


def test_a_killed_worker_is_replaced_and_its_job_goes_on(own_home: Path):
    store = a_store(own_home)
    undisturbed = add(store, asks(sections=8, sleep=0.05)).id
    id = add(store, asks(sections=8, sleep=0.05)).id
    with supervised(own_home) as supervisor:
        wait_for(lambda: len(store.get(id).progress.done_sections) >= 2)
        first = pid_of(supervisor)
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: store.get(id).state is S.DONE)
        assert pid_of(supervisor) != first
        assert supervisor.workers()[0].last_end == "killed by SIGKILL"
    job = store.get(id)
    assert job.attempts == 2
    assert made_sections(store, id) == [str(i) for i in range(8)]
    assert video(store, id) == video(store, undisturbed)
    states = [e.data["state"] for e in store.events(job_id=id) if e.kind == "state"]
    assert states == ["queued", "running", "interrupted", "running", "done"]


def test_a_job_that_kills_its_process_fails_alone(own_home: Path):
    store = a_store(own_home)
    bad = add(store, asks(fault="kill", at=1)).id
    once = add(store, asks(fault="kill once")).id
    bug = add(store, asks(fault="bug")).id
    good = add(store, asks()).id
    with supervised(own_home, crashes=2):
        wait_for(lambda: store.get(good).state is S.DONE)
        wait_for(lambda: not any(job.state.is_active for job in store.list()))
    job = store.get(bad)
    assert (job.state, job.error_code, job.attempts) == (S.FAILED, "worker_crashed", 2 + 0)
    assert "killed by SIGKILL" in str(job.error)
    assert job.progress.done_sections == (0,)
    assert store.get(once).state is S.DONE
    assert store.get(bug).error_code == "internal_error"


def test_sigterm_of_the_server_ends_in_good_order(own_home: Path):
    store = a_store(own_home)
    id = add(store, asks(sections=100, sleep=0.05)).id
    with supervised(own_home) as supervisor:
        wait_for(lambda: len(store.get(id).progress.done_sections) >= 2)
        pid = pid_of(supervisor)
    assert not psutil.pid_exists(pid)
    job = store.get(id)
    assert (job.state, job.attempts) == (S.INTERRUPTED, 1)
    done = len(made_sections(store, id))
    with supervised(own_home):
        wait_for(lambda: len(made_sections(store, id)) > done)
    assert made_sections(store, id) == [str(i) for i in range(len(made_sections(store, id)))]


def test_an_orphan_leaves_and_the_next_server_goes_on(own_home: Path):
    store = a_store(own_home)
    id = add(store, asks(sections=12, sleep=0.1)).id
    first = server(own_home)
    try:
        wait_for(lambda: len(store.get(id).progress.done_sections) >= 2)
        (orphan,) = psutil.Process(first.pid).children()
    finally:
        first.kill()
        first.wait()
    second = server(own_home)
    try:
        wait_for(lambda: not orphan.is_running() or orphan.status() == "zombie", 20)
        wait_for(lambda: store.get(id).state is S.DONE)
    finally:
        second.terminate()
        second.wait(20)
    assert made_sections(store, id) == [str(i) for i in range(12)]
    assert store.get(id).attempts == 2


def test_a_stopped_orphan_keeps_others_off_its_job(own_home: Path):
    """It cannot leave, and holds its slot: nobody runs its job a second time."""
    store = a_store(own_home)
    id = add(store, asks(sections=12, sleep=0.05)).id
    first = server(own_home)
    orphan = None
    try:
        wait_for(lambda: len(store.get(id).progress.done_sections) >= 1)
        (orphan,) = psutil.Process(first.pid).children()
        orphan.suspend()
        first.kill()
        first.wait()
        with supervised(own_home) as supervisor:
            pid_of(supervisor)
            time.sleep(1.0)
            assert store.get(id).state is S.RUNNING
            assert store.get(id).attempts == 1
            orphan.resume()
            wait_for(lambda: store.get(id).state is S.DONE)
    finally:
        first.kill()
        if orphan is not None and orphan.is_running():
            orphan.kill()
    assert made_sections(store, id) == [str(i) for i in range(12)]


def test_a_worker_that_dies_waiting_takes_nothing_from_the_one_before(own_home: Path):
    store = a_store(own_home)
    id = add(store, asks()).id
    with held(own_home, "cpu") as ours:  # by an orphan, and its job
        assert ours
        assert Claims(store).take("cpu") is not None
        with supervised(own_home) as supervisor:
            for _ in range(2):
                os.kill(pid_of(supervisor), signal.SIGKILL)
                starts = supervisor.workers()[0].starts
                wait_for(lambda n=starts: supervisor.workers()[0].starts > n)
            assert store.get(id).state is S.RUNNING
    assert store.get(id).attempts == 1


def test_both_killed_at_once(own_home: Path):
    store = a_store(own_home)
    id = add(store, asks(sections=10, sleep=0.05)).id
    for _ in range(2):
        before = store.get(id).progress.done_sections
        process = server(own_home)
        wait_for(lambda b=before: store.get(id).progress.done_sections > b)
        (worker,) = psutil.Process(process.pid).children()
        worker.kill()
        process.kill()
        process.wait()
    assert store.get(id).state is S.RUNNING  # nobody was left to say otherwise
    with supervised(own_home):
        wait_for(lambda: store.get(id).state is S.DONE)
    assert made_sections(store, id) == [str(i) for i in range(10)]


def test_a_second_supervisor_waits_and_takes_over(own_home: Path):
    store = a_store(own_home)
    first = Supervisor(own_home, ("cpu",), executor=NAME)
    first.start()
    pid_of(first)
    with supervised(own_home) as second:
        wait_for(lambda: second.workers()[0].alive)  # for /metrics: the device has a worker
        assert second.workers()[0].starts == 0
        os.kill(pid_of(first), signal.SIGSTOP)  # even one that is silent
        assert second.workers()[0].alive
        os.kill(pid_of(first), signal.SIGCONT)
        id = add(store, asks()).id
        wait_for(lambda: store.get(id).state is S.DONE)
        first.stop()
        pid_of(second)
        again = add(store, asks()).id
        wait_for(lambda: store.get(again).state is S.DONE)
        assert first.workers()[0].pid is None
    assert not second.workers()[0].alive


def test_a_worker_that_cannot_start_is_said(own_home: Path):
    store = a_store(own_home)
    with Supervisor(own_home, ("cpu",), executor="nothing.here:make") as supervisor:
        wait_for(lambda: store.queue_state().paused)
        assert "cannot start (exit code 2)" in str(store.queue_state().reason)
        starts = supervisor.workers()[0].starts
        assert starts < 10  # and not in a hot loop
    with supervised(own_home):
        id = add(store, asks()).id
        wait_for(lambda: store.get(id).state is S.DONE)
        wait_for(lambda: not store.queue_state().paused)


def test_a_device_that_cannot_start_does_not_stop_the_others(own_home: Path):
    store = a_store(own_home)
    with Supervisor(own_home, ("xpu", "cpu"), executor=NAME):
        wait_for(lambda: store.queue_state().notices)
        ids = [add(store, asks()).id for _ in range(2)]
        wait_for(lambda: all(store.get(id).state is S.DONE for id in ids))
        text = "the worker for xpu cannot start: no xpu device here; there are cuda, cpu"
        wait_for(lambda: store.queue_state() == QueueState(False, notices=(text,)))
    assert store.queue_state() == QueueState(False)


def test_no_device_that_can_start_is_a_pause(own_home: Path):
    store = a_store(own_home)
    with Supervisor(own_home, ("xpu",), executor=NAME):
        wait_for(lambda: store.queue_state().paused)
        assert "the worker for xpu cannot start: no xpu" in str(store.queue_state().reason)


def test_a_worker_that_the_system_does_not_start_is_said(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
):
    store = a_store(own_home)
    id = add(store, asks()).id
    monkeypatch.setattr(supervisor_module, "_REFUSED_SECONDS", 0.2)
    with monkeypatch.context() as refusing, supervised(own_home) as supervisor:

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        refusing.setattr(supervisor_module.subprocess, "Popen", refuse)
        wait_for(lambda: store.queue_state().paused)
        text = "the worker for cpu cannot start (Permission denied)"
        assert store.queue_state().reason == text
        assert supervisor.workers()[0].pid is None
        refusing.undo()
        wait_for(lambda: store.get(id).state is S.DONE)
        assert not store.queue_state().paused


def test_what_a_dead_server_said_is_forgotten(own_home: Path):
    store = a_store(own_home)
    Claims(store).note_pause("cuda-7", "the worker for cuda:7 cannot start")
    with held(own_home, "cuda-6", "supervisor"):
        Claims(store).note_pause("cuda-6", "the worker for cuda:6 cannot start")
        with supervised(own_home):
            wait_for(lambda: store.queue_state().notices == ("the worker for cuda:6 cannot start",))


def test_jobs_of_a_device_that_is_gone_are_taken_back(own_home: Path):
    store = a_store(own_home)
    id = add(store, asks()).id
    assert Claims(store).take("cuda-7") is not None  # its process ended long ago
    with supervised(own_home):
        wait_for(lambda: store.get(id).state is S.DONE)


def test_a_worker_of_its_own_needs_no_supervisor(own_home: Path):
    store = a_store(own_home)
    id = add(store, asks()).id
    command = [sys.executable, "-m", "recurvid.jobs.worker", "--home", str(own_home)]
    process = subprocess.Popen(
        [*command, "--device", "cpu", "--executor", NAME], stdin=subprocess.DEVNULL, cwd=ROOT
    )
    try:
        wait_for(lambda: store.get(id).state is S.DONE)
    finally:
        process.terminate()
        assert process.wait(20) == 0
    with held(own_home, "cpu") as ours:
        assert ours


@pytest.mark.parametrize("devices", [(), ("../x",)])
def test_devices_that_are_none(own_home: Path, devices: tuple[str, ...]):
    with pytest.raises(InputError):
        Supervisor(own_home, devices)
