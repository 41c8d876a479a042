"""Load on the queue: many clients, many jobs, and the worker killed again and again.

    python benchmarks/queue_load.py --jobs 200 --clients 20 --kills 20 --out FILE.json

Clients are processes of their own that queue jobs for the bundled model at its smallest and wait
for them. Meanwhile the worker is killed (SIGKILL) at random moments. At the end every job must be
done or have failed with a reason, none may be missing, no section may have been made twice, never
may two jobs have run at once, and the videos of one request must be the same bytes, those of an
undisturbed run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recurvid.generation.request import GenerationRequest
from recurvid.jobs.states import Job, JobState
from recurvid.jobs.store import JobStore
from recurvid.jobs.supervisor import Supervisor
from recurvid.video.reader import probe

PICTURE = Path(__file__).parents[1] / "src/recurvid/bundled/example.jpg"
FRAMES = 42
DIFFERENT = 5
PATIENCE = 3600.0


@dataclass(frozen=True)
class Load:
    """What is done to the queue."""

    jobs: int
    clients: int
    kills: int
    seed: int = 1


def asked(number: int) -> GenerationRequest:
    """One of a few small requests, of two sections each."""
    return GenerationRequest(
        prompt="a slow pan", seconds=FRAMES / 12, size="32x32", steps=1, seed=number % DIFFERENT
    )


def client(home: Path, owner: str, jobs: int) -> None:
    """Queue some jobs and wait for all of them."""
    store = JobStore(home)
    ids = [store.add(asked(number), PICTURE, owner=owner).id for number in range(jobs)]
    while any(store.get(id, owner).state.is_active for id in ids):
        time.sleep(0.5)


def run(home: Path, load: Load) -> dict[str, Any]:
    """Do it, check it, return the figures. AssertionError where something was lost or doubled."""
    store = JobStore(home)
    expected = _undisturbed(home)
    first_event = store.last_event()
    each = load.jobs // load.clients
    command = [sys.executable, __file__, "--client", "--home", str(home), "--jobs", str(each)]
    begun = time.monotonic()
    with Supervisor(home, ("cpu",)) as supervisor:
        clients = [
            subprocess.Popen([*command, "--owner", f"key-{number}"])
            for number in range(load.clients)
        ]
        kills = _kill(store, supervisor, clients, load, each)
        for process in clients:
            process.wait(PATIENCE)
        seconds = time.monotonic() - begun
        starts = supervisor.workers()[0].starts
    assert [process.returncode for process in clients] == [0] * load.clients
    found = store.list(limit=10**6)
    jobs = [job for job in found if job.owner.startswith("key-")]
    assert len(jobs) == each * load.clients, f"{len(jobs)} jobs of {each * load.clients}"
    _check_jobs(store, jobs, expected)
    _check_events(store, first_event)
    return _figures(load, jobs, kills, starts, seconds)


def _undisturbed(home: Path) -> dict[int, str]:
    """Seed -> hash of the video that a run without a kill makes."""
    store = JobStore(home)
    jobs = [store.add(asked(number), PICTURE, owner="reference") for number in range(DIFFERENT)]
    with Supervisor(home, ("cpu",)):
        while any(store.get(job.id).state.is_active for job in jobs):
            time.sleep(0.1)
    return {job.request.seed: _hash(store, job.id) for job in jobs}


@dataclass
class Kills:
    """What was done to the worker.

    Attributes:
        signals: sent.
        dead: workers that lived until then.
    """

    signals: int = 0
    dead: int = 0


def _kill(
    store: JobStore,
    supervisor: Supervisor,
    clients: Sequence[subprocess.Popen[bytes]],
    load: Load,
    each: int,
) -> Kills:
    """Kill living workers as often as asked, spread over the jobs."""
    chance = random.Random(load.seed)
    total = each * load.clients
    at = sorted(chance.uniform(0.02, 0.9) * total for _ in range(load.kills))
    kills = Kills()
    until = time.monotonic() + PATIENCE
    while kills.dead < load.kills:
        assert time.monotonic() < until, "too slow"
        counts = store.counts()
        done = counts[JobState.DONE] + counts[JobState.FAILED] - DIFFERENT
        if done >= at[kills.dead] and counts[JobState.RUNNING]:
            time.sleep(chance.uniform(0.0, 0.5))  # anywhere in a job, or between two
            _kill_one(supervisor, kills)
        assert any(p.poll() is None for p in clients), "done before the last kill"
        time.sleep(0.01)
    return kills


def _kill_one(supervisor: Supervisor, kills: Kills) -> None:
    """Count a worker that ended by this signal; one that had ended by itself does not count."""
    worker = supervisor.workers()[0]
    if worker.pid is None:
        return
    kills.signals += 1
    os.kill(worker.pid, signal.SIGKILL)
    until = time.monotonic() + PATIENCE
    while (now := supervisor.workers()[0]).starts == worker.starts:
        assert time.monotonic() < until, "no worker was started again"
        time.sleep(0.01)
    kills.dead += now.last_end == "killed by SIGKILL"


def _check_jobs(store: JobStore, jobs: Sequence[Job], expected: dict[int, str]) -> None:
    for job in jobs:
        assert job.state in (JobState.DONE, JobState.FAILED), job
        if job.state is JobState.FAILED:
            assert job.error_code == "worker_crashed", job
            continue
        video = store.video(job.id)
        assert video is not None
        assert probe(video).frames == FRAMES
        assert _hash(store, job.id) == expected[job.request.seed], f"{job.id} has other bits"


def _check_events(store: JobStore, after: int) -> None:
    """One job at a time, and every section once."""
    running: set[str] = set()
    made: set[tuple[str, int]] = set()
    while events := store.events(after, limit=1000):
        after = events[-1].number
        for event in events:
            if event.kind == "state":
                running.discard(event.job_id)
                if event.data["state"] == "running":
                    assert not running, f"{event.job_id} and {running} ran at once"
                    running.add(event.job_id)
            elif event.kind == "section":
                section = (event.job_id, event.data["section"])
                assert section not in made, f"{section} was made twice"
                made.add(section)


def _figures(
    load: Load, jobs: Sequence[Job], kills: Kills, starts: int, seconds: float
) -> dict[str, Any]:
    took = [(job.finished_at or 0) - (job.started_at or 0) for job in jobs]
    states = [job.state.value for job in jobs]
    return {
        "machine": {
            "processors": os.cpu_count(),
            "machine": platform.machine(),
            "python": platform.python_version(),
        },
        "load": vars(load),
        "jobs": {name: states.count(name) for name in sorted(set(states))},
        "failed because": sorted({str(job.error) for job in jobs if job.error}),
        "lost": load.jobs // load.clients * load.clients - len(jobs),
        "sections made twice": 0,
        "jobs run at once": 1,
        "videos with other bits than an undisturbed run": 0,
        "signals sent": kills.signals,
        "living workers killed": kills.dead,
        "workers started": starts,
        "jobs taken more than once": sum(job.attempts > 1 for job in jobs),
        "most attempts of a job": max(job.attempts for job in jobs),
        "seconds in all": round(seconds, 1),
        "median seconds of a job": round(statistics.median(took), 2),
        "web process: most memory, MB": round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        ),
    }


def _hash(store: JobStore, id: str) -> str:
    video = store.video(id)
    assert video is not None, store.get(id)
    return hashlib.sha256(video.read_bytes()).hexdigest()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--client", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--owner", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        client(given.home, given.owner, given.jobs)
        return
    load = Load(given.jobs, given.clients, given.kills, given.seed)
    with tempfile.TemporaryDirectory() as folder:
        figures = run(given.home or Path(folder) / "home", load)
    text = json.dumps(figures, indent=2)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
