"""A worker in this process, with executors that have no model."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.jobs.fake_executors import FakeExecutor, asks
from tests.jobs.queues import Disk, a_store, add, wait_for

from recurvid.errors import InputError
from recurvid.jobs.claims import Claims
from recurvid.jobs.executor import HERE, Made, Planned, SectionMade, Stepped, load_executor
from recurvid.jobs.running import JobRun
from recurvid.jobs.slots import hardware_held, held, slots_at_work
from recurvid.jobs.states import HowToRun, JobPlan, JobState, QueueState, SectionSpan
from recurvid.jobs.store import JobStore
from recurvid.jobs.worker import DISTRUSTED, LEFT, Worker

S = JobState
FAKE = "tests.jobs.fake_executors:make"


@contextmanager
def working(
    store: JobStore, device: str = "cpu", serves: tuple[str, ...] = ()
) -> Generator[Worker]:
    """A worker in a thread, told to stop at the end."""
    worker = Worker(store, device, serves)
    thread = threading.Thread(target=worker.run, args=(FAKE,))
    thread.start()
    try:
        yield worker
    finally:
        worker.stop.set()
        thread.join(30)
        assert not thread.is_alive()


def made_sections(store: JobStore, id: str) -> list[str]:
    return (store.folders.of(id) / "log").read_text().split()


def test_jobs_are_done_in_order(own_home: Path):
    store = a_store(own_home)
    ids = [add(store, asks(sections=2, number=i)).id for i in range(3)]
    with working(store):
        wait_for(lambda: store.counts()[S.DONE] == 3)
    jobs = [store.get(id) for id in ids]
    ended = [job.finished_at or 0.0 for job in jobs]
    assert ended == sorted(ended)
    for job in jobs:
        assert made_sections(store, job.id) == ["0", "1"]
        assert job.progress.done_sections == (0, 1)
        assert (job.progress.frames, job.progress.fraction) == (24, 1.0)
        assert (job.width, job.height, job.fps, job.seconds) == (64, 64, 12.0, 2.0)
        assert store.video(job.id) is not None
        assert store.preview(job.id) is None  # the video is better
        kinds = [event.kind for event in store.events(job_id=job.id)]
        assert kinds.count("section") == 2
        assert kinds[-1] == "finished"


def test_cancelled_after_its_step_and_resumed(own_home: Path):
    store = a_store(own_home)
    id = add(store, asks(sections=50, sleep=0.05)).id
    with working(store):
        wait_for(lambda: store.get(id).progress.done_sections)
        assert store.preview(id) is not None
        assert store.cancel(id).cancelling
        wait_for(lambda: store.get(id).state is S.CANCELLED, 5)
        done = len(made_sections(store, id))
        assert 0 < done < 50
        progress = store.get(id).progress
        assert progress.done_sections == tuple(range(done))
        assert (progress.phase, progress.section, progress.seconds_left) == ("", None, None)
        assert store.so_far(id) is not None
        assert store.video(id) is None
        store.resume(id)
        wait_for(lambda: len(made_sections(store, id)) > done + 2)
    assert store.get(id).state is S.INTERRUPTED  # the worker left in its middle
    sections = made_sections(store, id)
    assert sections == [str(i) for i in range(len(sections))]  # none was made again


@pytest.mark.parametrize(
    ("fault", "code", "text"),
    [
        ("refused", "session_error", "the session the job's folder was begun with something else"),
        ("missing", "model_unavailable", "model x is not complete on this machine: vae (missing)"),
        ("bug", "internal_error", "an error that nobody foresaw (ZeroDivisionError)"),
    ],
)  # fmt: skip
def test_failures_tell_why_and_no_paths(
    own_home: Path, fault: str, code: str, text: str, caplog: Any
):
    store = a_store(own_home)
    id = add(store, asks(fault=fault, at=1)).id
    claim = Claims(store).take("cpu")
    assert claim is not None
    with caplog.at_level(logging.INFO):
        ended = Worker(store, "cpu").do(claim, FakeExecutor())
    assert ended == (DISTRUSTED if fault == "bug" else LEFT)
    job = store.get(id)
    assert (job.state, job.error_code) == (S.FAILED, code)
    assert str(job.error).removesuffix("; the server's log says more") == text
    assert job.progress.done_sections == (0,)  # what was made is kept
    if fault == "bug":
        assert "Traceback" in caplog.text  # for the log


@pytest.mark.parametrize("fault", ["disk", "wrapped"])
def test_a_disk_that_fills_up_in_mid_job(own_home: Path, fault: str):
    store = a_store(own_home)
    id = add(store, asks(fault=fault, at=1)).id
    full = store.folders.root / "full"
    full.touch()
    with working(store):
        wait_for(lambda: store.get(id).error_code == "disk_full")
        job = store.get(id)
        assert job.state is S.INTERRUPTED
        state = store.queue_state()
        assert state.paused
        assert state.reason == "the disk is full; the job goes on by itself when there is room"
        full.unlink()
        wait_for(lambda: store.get(id).state is S.DONE, 20)
    assert made_sections(store, id) == ["0", "1"]
    assert store.get(id).error is None


def test_too_little_room_stops_at_a_section_and_goes_on(own_home: Path):
    free = [10**12]
    store = JobStore(own_home, disk_usage=lambda _: Disk(10**12, free[0]))
    id = add(store, asks(sections=30, sleep=0.02)).id
    with working(store):
        wait_for(lambda: store.get(id).progress.done_sections)
        free[0] = 5 * 10**8  # below what is kept free: a running job may use that
        before = len(store.get(id).progress.done_sections)
        wait_for(lambda: len(store.get(id).progress.done_sections) > before + 2)
        free[0] = 10**8
        wait_for(lambda: store.get(id).state is S.INTERRUPTED)
        assert "nearly full (100 MB free" in str(store.queue_state().reason)
        time.sleep(0.5)
        assert store.get(id).attempts == 1
        free[0] = 10**12
        wait_for(lambda: store.get(id).state is S.DONE, 20)
    assert made_sections(store, id) == [str(i) for i in range(30)]


def test_two_names_of_one_card_are_one_worker(own_home: Path, caplog: Any):
    store = a_store(own_home)
    with working(store, "auto"):
        wait_for(lambda: slots_at_work(own_home) == {"auto"})
        with caplog.at_level(logging.INFO), working(store, "cuda:0") as second:
            wait_for(lambda: "cuda:0 has a worker under another name" in caplog.text)
            ids = [add(store, asks(sections=2, sleep=0.05, number=i)).id for i in range(4)]
            wait_for(lambda: store.counts()[S.DONE] == 4)
            running = 0
            for event in store.events():
                if event.kind == "state" and event.data["state"] in ("running", "done"):
                    running += 1 if event.data["state"] == "running" else -1
                    assert running <= 1
            assert slots_at_work(own_home) == {"auto"}
            assert store.queue_state() == QueueState(False)
            second.stop.set()
    with working(store, "cuda"):  # the first is gone
        wait_for(lambda: slots_at_work(own_home) == {"cuda"})
        ids.append(add(store, asks()).id)
        wait_for(lambda: store.get(ids[-1]).state is S.DONE)


def test_a_job_for_another_workers_device_is_left_to_it(own_home: Path):
    store = a_store(own_home)
    with working(store, "auto"):
        with hardware_held(own_home, "cuda:1", "cuda-1") as ours:
            assert ours
            theirs = add(store, asks(), how=HowToRun(device="cuda:1")).id
            own = add(store, asks(), how=HowToRun(device="cuda")).id
            nowhere = add(store, asks(), how=HowToRun(device="xpu")).id
            wait_for(lambda: store.get(nowhere).state is S.DONE)
            assert store.get(own).state is S.DONE
            assert (store.get(theirs).state, store.get(theirs).attempts) == (S.QUEUED, 0)
        wait_for(lambda: store.get(theirs).state is S.DONE)  # now nobody else has it


def test_a_device_that_breaks_the_executor_is_no_matter_of_the_queue(own_home: Path):
    store = a_store(own_home)
    add(store, asks(), how=HowToRun(device="odd"))
    own = add(store, asks()).id
    with working(store, "auto"):
        wait_for(lambda: store.get(own).state is S.DONE)


def test_nothing_is_kept_on_what_was_lent(own_home: Path, monkeypatch: pytest.MonkeyPatch):
    told: list[int] = []
    monkeypatch.setattr(FakeExecutor, "rest", lambda _: told.append(store.counts()[S.DONE]))
    store = a_store(own_home)
    with working(store, "auto"):
        for device in ("cuda", "cuda:1", "auto"):
            id = add(store, asks(), how=HowToRun(device=device)).id
            wait_for(lambda i=id: store.get(i).state is S.DONE)
    assert told == [2]


def test_a_worker_answers_to_every_name_of_its_device(own_home: Path):
    store = a_store(own_home)
    id = add(store, asks(), how=HowToRun(device="cuda:0")).id
    with working(store, "cuda", ("cuda", "cuda:0")):  # the post cuda:0 waits for good
        wait_for(lambda: store.get(id).state is S.DONE)


def test_an_idle_worker_rests_once(own_home: Path, monkeypatch: pytest.MonkeyPatch):
    told: list[int] = []
    monkeypatch.setattr(FakeExecutor, "rest", lambda _: told.append(store.counts()[S.DONE]))
    store = a_store(own_home, keep_model_seconds=0.3)
    with working(store):
        time.sleep(0.5)
        assert told == []  # there was no job yet
        for number in (1, 2):
            id = add(store, asks(number=number)).id
            wait_for(lambda i=id: store.get(i).state is S.DONE)
            wait_for(lambda n=number: len(told) == n)
            time.sleep(0.5)
    assert told == [1, 2]


def test_a_worker_waits_for_the_one_before(own_home: Path):
    store = a_store(own_home)
    id = add(store, asks()).id
    with held(own_home, "cpu") as ours:
        assert ours
        with working(store):
            time.sleep(0.4)
            assert store.get(id).state is S.QUEUED
    with working(store):
        wait_for(lambda: store.get(id).state is S.DONE)


def test_a_worker_that_lost_its_claim_changes_nothing(own_home: Path):
    store = a_store(own_home)
    id = add(store, asks(sections=3)).id
    claims = Claims(store)
    claim = claims.take("cpu")
    assert claim is not None
    claims.recover("cpu")  # taken for dead
    newer = claims.take("other")
    assert newer is not None
    before = store.get(id)
    assert Worker(store, "cpu").do(claim, FakeExecutor()) == LEFT
    assert store.get(id) == before


def test_progress_costs_little(own_home: Path):
    """A thousand quick steps are a few writes, and end with the truth."""
    store = a_store(own_home)

    class Quick:
        def hardware(self, device: str) -> str:
            return device

        def rest(self) -> None:
            pass

        def run(self, job: Any, folder: Path):
            yield Planned(JobPlan(8, 8, 1.0, 1, "forward", (SectionSpan(0, 1),)))
            for step in range(1000):
                yield Stepped("denoise", 0, step + 1, 1000)
            yield SectionMade(0, 1, 1)
            (folder / "video.mp4").write_bytes(b"")
            yield Made(1)

    id = add(store).id
    claims = Claims(store)
    claim = claims.take("cpu")
    assert claim is not None
    JobRun(claims, claim, threading.Event()).run(Quick())
    job = store.get(id)
    assert job.state is S.DONE
    assert job.revision < 20


def test_an_executor_that_ends_without_a_video_is_a_bug(own_home: Path):
    class Nothing:
        def hardware(self, device: str) -> str:
            return device

        def rest(self) -> None:
            pass

        def run(self, job: Any, folder: Path):
            yield Planned(JobPlan(8, 8, 1.0, 1))

    store = a_store(own_home)
    id = add(store).id
    claim = Claims(store).take("cpu")
    assert claim is not None
    assert Worker(store, "cpu").do(claim, Nothing()) == DISTRUSTED
    assert store.get(id).error_code == "internal_error"


@pytest.mark.parametrize("name", ["", "nothing.here:make", "json:nothing"])
def test_executors_that_are_none(name: str):
    with pytest.raises(InputError, match="cannot be loaded"):
        load_executor(name, "cpu")


def test_the_executor_that_is_there():
    assert type(load_executor(HERE, "cpu")).__name__ == "SessionExecutor"


def test_how_to_run_reaches_the_session(own_home: Path):
    """Refused by the session itself, before anything is loaded; nothing is kept from it."""
    store = a_store(own_home)
    id = add(store, how=HowToRun(attention="nothing", device="cpu")).id
    claim = Claims(store).take("cpu")
    assert claim is not None
    assert Worker(store, "cpu").do(claim, load_executor(HERE, "auto")) == LEFT
    job = store.get(id)
    assert (job.state, job.error_code) == (S.FAILED, "invalid_request")
    assert "unknown attention kernel 'nothing'" in str(job.error)
    local = json.loads((store.folders.of(id) / "session" / "local.json").read_text())
    assert (local["device"], local["offline"]) == ("cpu", True)
