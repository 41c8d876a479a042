"""States under any sequence of what users, workers and deaths can do."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
)
from hypothesis.strategies import booleans, sampled_from
from tests.jobs.queues import a_store, add

from recurvid.errors import InputError, JobStateError, StaleClaimError, UnknownJobError
from recurvid.jobs.claims import Claim, Claims
from recurvid.jobs.slots import held, slot_of
from recurvid.jobs.states import HowToRun, JobPlan, JobProgress, JobState

S = JobState
CRASHES = 2


class QueueMachine(RuleBasedStateMachine):
    """The store beside a dictionary that says what it should be."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = a_store(Path(self.folder.name), crashes=CRASHES, restarts=1000)
        self.claims = Claims(self.store)
        self.states: dict[str, JobState] = {}
        self.order: list[str] = []  # of all that wait, interrupted or not
        self.cancelling: set[str] = set()
        self.crashes: dict[str, int] = {}
        self.running: dict[str, Claim] = {}  # by slot
        self.stale: list[Claim] = []
        self.last_event = 0

    def teardown(self):
        self.store.close()
        self.folder.cleanup()

    jobs = Bundle("jobs")

    @rule(target=jobs)
    def add(self):
        id = add(self.store).id
        self.states[id] = S.QUEUED
        self.order.append(id)
        self.crashes[id] = 0
        return id

    @rule(target=jobs, id=jobs)
    def duplicate(self, id: str):
        copy = self.store.duplicate(id).id
        self.states[copy] = S.QUEUED
        self.order.append(copy)
        self.crashes[copy] = 0
        return copy

    @rule(target=jobs, id=consumes(jobs))
    def delete(self, id: str):
        if self.states[id] is S.RUNNING:
            with pytest.raises(JobStateError):
                self.store.delete(id)
            return id
        self.store.delete(id)
        with pytest.raises(UnknownJobError):
            self.store.get(id)
        del self.states[id]
        self.order = [other for other in self.order if other != id]
        return multiple()

    @rule(id=jobs)
    def cancel(self, id: str):
        state = self.states[id]
        if state in (S.DONE, S.FAILED):
            with pytest.raises(JobStateError):
                self.store.cancel(id)
        elif state is S.RUNNING:
            self.store.cancel(id)
            self.cancelling.add(id)
        else:
            self.store.cancel(id)
            self._leave_queue(id, S.CANCELLED)

    @rule(id=jobs)
    def resume(self, id: str):
        state = self.states[id]
        if state is S.DONE:
            with pytest.raises(JobStateError):
                self.store.resume(id)
            return
        self.store.resume(id)
        self.cancelling.discard(id)
        if state in (S.CANCELLED, S.FAILED):
            self.states[id] = S.QUEUED
            self.order.append(id)
            self.crashes[id] = 0

    @rule(id=jobs, before=jobs)
    def move(self, id: str, before: str):
        if id not in self.order or before not in self.order:
            with pytest.raises(JobStateError):
                self.store.move(id, before)
            return
        self.store.move(id, before)
        if id != before:
            waiting = self._queue()
            waiting.remove(id)
            waiting.insert(waiting.index(before), id)
            self.order = waiting

    @precondition(lambda self: len(self.running) < 2)
    @rule()
    def take(self):
        slot = "a" if "a" not in self.running else "b"
        claim = self.claims.take(slot)
        queue = self._queue()
        if not queue:
            assert claim is None
            return
        assert claim is not None
        assert claim.id == queue[0]
        self._leave_queue(claim.id, S.RUNNING)
        self.running[slot] = claim

    @precondition(lambda self: self.running)
    @rule(slot=sampled_from(["a", "b"]), section=booleans())
    def report(self, slot: str, section: bool):
        claim = self.running.get(slot)
        if claim is None:
            return
        kind = "section" if section else "progress"
        asked = self.claims.progress(claim, JobProgress("denoise", 0, 2), kind)
        assert asked is (claim.id in self.cancelling)
        if section:
            self.crashes[claim.id] = 0

    @precondition(lambda self: self.running)
    @rule(slot=sampled_from(["a", "b"]), how=sampled_from(["done", "failed", "stopped", "held"]))
    def end(self, slot: str, how: str):
        claim = self.running.pop(slot, None)
        if claim is None:
            return
        self.stale.append(claim)
        cancelling = claim.id in self.cancelling
        if how == "done":
            self.claims.done(claim, JobProgress(frames=9))
            self._end(claim.id, S.DONE)
        elif how == "failed":
            self.claims.failed(claim, "code", "text")
            self._end(claim.id, S.CANCELLED if cancelling else S.FAILED)
        else:
            (self.claims.stopped if how == "stopped" else self.claims.held_back)(claim)
            self._end(claim.id, S.CANCELLED if cancelling else S.INTERRUPTED)
            if how == "held" and not cancelling:
                self.store.resume(claim.id)  # not before some seconds otherwise

    @precondition(lambda self: self.running)
    @rule(slot=sampled_from(["a", "b"]), crash=booleans())
    def die(self, slot: str, crash: bool):
        claim = self.running.pop(slot, None)
        found = self.claims.recover(slot, "killed" if crash else None)
        if claim is None:
            assert found == []
            return
        assert found == [claim.id]
        self.stale.append(claim)
        self.crashes[claim.id] += crash
        if claim.id in self.cancelling:
            self._end(claim.id, S.CANCELLED)
        else:
            too_often = self.crashes[claim.id] >= CRASHES
            self._end(claim.id, S.FAILED if too_often else S.INTERRUPTED)

    @precondition(lambda self: self.stale)
    @rule()
    def a_stale_worker_writes(self):
        claim = self.stale[-1]
        before = None if claim.id not in self.states else self.store.get(claim.id)
        for write in (
            lambda: self.claims.progress(claim, JobProgress("denoise", 0, 2, 1, 2)),
            lambda: self.claims.planned(claim, JobPlan(1, 1, 1.0, 1)),
            lambda: self.claims.done(claim, JobProgress()),
            lambda: self.claims.failed(claim, "code", "text"),
            lambda: self.claims.stopped(claim),
            lambda: self.claims.held_back(claim),
        ):
            with pytest.raises(StaleClaimError):
                write()
        if before is not None:
            assert self.store.get(claim.id) == before

    def _queue(self) -> list[str]:
        """What is interrupted goes on first."""
        return sorted(self.order, key=lambda id: self.states[id] is not S.INTERRUPTED)

    def _leave_queue(self, id: str, state: JobState):
        self.order = [other for other in self.order if other != id]
        self.states[id] = state

    def _end(self, id: str, state: JobState):
        self.states[id] = state
        self.cancelling.discard(id)
        if state is S.INTERRUPTED:
            mine = self.store.get(id).position
            places = [self.store.get(other).position for other in self.order]
            self.order.insert(sum(place < mine for place in places), id)

    @invariant()
    def nothing_is_lost_and_states_are_honest(self):
        jobs = {job.id: job for job in self.store.list(limit=10**6)}
        assert {id: job.state for id, job in jobs.items()} == self.states
        assert {id for id, job in jobs.items() if job.cancelling} == self.cancelling
        for id, job in jobs.items():
            assert self.store.picture(id).is_file()
            assert (job.error is not None) == (
                job.state is S.FAILED
            ) or job.error_code == "disk_full"
            assert (job.finished_at is not None) == (not job.state.is_active)

    @invariant()
    def the_queue_is_in_order(self):
        assert [job.id for job in self.store.queue()] == self._queue()

    @invariant()
    def events_tell_the_state(self):
        told = {
            e.job_id: e.data["state"] for e in self.store.events(limit=10**6) if e.kind == "state"
        }
        assert {id: state for id, state in told.items() if state != "deleted"} == self.states
        assert self.store.last_event() >= self.last_event
        self.last_event = self.store.last_event()


QueueMachine.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestQueue = QueueMachine.TestCase


def test_two_processes_on_one_file(own_home: Path):
    """Four of them add and take at once: every job is taken exactly once."""
    store = a_store(own_home)
    code = """
import sys
from pathlib import Path
from tests.jobs.queues import a_store, add
from recurvid.jobs.claims import Claims
store = a_store(Path(sys.argv[1]))
claims = Claims(store)
for number in range(12):
    add(store, owner=sys.argv[2])
taken = []
while (claim := claims.take(sys.argv[2])) is not None:
    claims.progress(claim, claim.job.progress)
    claims.done(claim, claim.job.progress)
    taken.append(claim.id)
print("\\n".join(taken))
"""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(own_home), f"slot{number}"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for number in range(4)
    ]
    taken = [line for process in running for line in process.communicate()[0].split()]
    assert [process.returncode for process in running] == [0] * 4
    assert sorted(taken) == sorted(job.id for job in store.list(limit=1000))
    assert len(taken) == 48
    assert store.counts()[S.DONE] == 48
    assert all(job.attempts == 1 for job in store.list(limit=1000))


def test_a_dead_worker_is_known_by_its_lock(own_home: Path):
    store = a_store(own_home)
    claims = Claims(store)
    job = add(store)
    with held(own_home, "cpu") as ours:
        assert ours
        assert claims.take("cpu") is not None
        with held(own_home, "cpu") as again:
            assert not again
        assert claims.recover_all() == []  # however long it says nothing
        assert store.get(job.id).state is S.RUNNING
    assert claims.recover_all() == [job.id]
    assert store.get(job.id).state is S.INTERRUPTED


def test_a_full_disk_holds_a_job_back_longer_each_time(own_home: Path):
    store = a_store(own_home)
    claims = Claims(store)
    job = add(store)
    waits = []
    for _ in range(8):
        claim = claims.take("cpu")
        assert claim is not None
        claims.held_back(claim)
        assert claims.take("cpu") is None
        state = store.queue_state()
        assert state.paused
        assert "goes on by itself" in str(state.reason)
        with store.database.writing() as connection:
            row = connection.execute("SELECT not_before FROM jobs").fetchone()
            waits.append(row[0] - time.time())
            connection.execute("UPDATE jobs SET not_before = 0")
    assert waits == pytest.approx([2, 4, 8, 16, 32, 60, 60, 60], abs=1)
    assert store.get(job.id).state is S.INTERRUPTED
    assert not store.queue_state().paused


@pytest.mark.parametrize(
    ("device", "served", "takes"),
    [
        ("auto", ["auto"], ["auto", "cpu", "cuda", "cuda:1", "xpu"]),
        ("cpu", ["cpu"], ["auto", "cpu", "cuda", "cuda:1", "xpu"]),  # some of them to fail
        ("cuda:1", ["cuda:0", "cuda:1"], ["auto", "cpu", "cuda", "cuda:1", "xpu"]),
        ("cuda:0", ["cuda:0", "cuda:1"], ["auto", "cpu", "cuda", "xpu"]),
        ("cpu", ["cpu", "cuda:1"], ["auto", "cpu", "xpu"]),
    ],
)
def test_a_worker_takes_what_is_for_its_device(
    own_home: Path, device: str, served: list[str], takes: list[str]
):
    store = a_store(own_home)
    for name in ("auto", "cpu", "cuda", "cuda:1", "xpu"):
        add(store, how=HowToRun(device=name))
    taken = []
    while (claim := Claims(store).take("x", device, served)) is not None:
        taken.append(claim.job.how.device)
    assert taken == takes


def test_a_finished_section_forgives_crashes(own_home: Path):
    store = a_store(own_home, crashes=2)
    claims = Claims(store)
    job = add(store)
    for _ in range(3):
        claim = claims.take("cpu")
        assert claim is not None
        claims.progress(claim, JobProgress("denoise", 0, 9), "section", section=0)
        claims.recover("cpu", "exit code 1")
        assert store.get(job.id).state is S.INTERRUPTED
    assert claims.take("cpu") is not None
    claims.recover("cpu", "exit code 1")
    assert store.get(job.id).error_code == "worker_crashed"


def test_restarts_that_are_nobodys_fault_end_too(own_home: Path):
    store = a_store(own_home, restarts=4, crashes=2)
    claims = Claims(store)
    job = add(store)
    for _ in range(3):
        claim = claims.take("cpu")
        assert claim is not None
        claims.stopped(claim)  # in good order: that never counts
    for number in range(4):
        assert claims.take("cpu") is not None
        claims.recover("cpu")
        assert (store.get(job.id).state is S.FAILED) == (number == 3)
    assert store.get(job.id).error_code == "worker_crashed"
    assert store.resume(job.id).error is None
    assert claims.take("cpu") is not None


@pytest.mark.parametrize("device", ["", "../x", "cuda:", "CPU", "cuda:0000", "a b"])
def test_slots_are_made_of_device_names_only(device: str):
    with pytest.raises(InputError):
        slot_of(device)
