"""Numbers for Prometheus: what the queue holds now, and what was made while this server ran."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool

from recurvid.errors import UnknownJobError
from recurvid.jobs.states import JobEvent, JobState
from recurvid.server.service import Service

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LOG = logging.getLogger(__name__)
_POLL_SECONDS = 1.0
_STEP_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 180)
_LONGEST_STEP = 3600.0
_Step = tuple[str, int | None, int, float, int]


class _QueueNow(Collector):
    """Reads the store whenever it is asked."""

    def __init__(self, service: Service):
        self.service = service

    def collect(self) -> Iterator[GaugeMetricFamily]:
        store = self.service.store
        counts = store.counts()
        jobs = GaugeMetricFamily("recurvid_jobs", "Jobs by state.", labels=["state"])
        for state in JobState:
            jobs.add_metric([state.value], counts[state])
        yield jobs
        waiting = counts[JobState.QUEUED] + counts[JobState.INTERRUPTED]
        yield GaugeMetricFamily("recurvid_queue_length", "Jobs that wait.", waiting)
        seconds = sum(job.request.seconds for job in store.queue())
        yield GaugeMetricFamily("recurvid_queue_seconds", "Seconds of video that wait.", seconds)
        paused = float(store.queue_state().paused)
        yield GaugeMetricFamily("recurvid_queue_paused", "1 while no job is taken.", paused)
        free = _disk_free(store.home)
        yield GaugeMetricFamily("recurvid_disk_free_bytes", "Free where jobs are kept.", free)
        alive = GaugeMetricFamily(
            "recurvid_worker_alive", "1 while a device's worker lives.", labels=["device"]
        )
        for device, lives in self.service.workers().items():
            alive.add_metric([device], float(lives))
        yield alive


class Metrics:
    """One server's numbers, in a registry of its own."""

    def __init__(self, service: Service):
        self.service = service
        self.registry = CollectorRegistry()
        self.registry.register(_QueueNow(service))
        self._frames = self._counter("frames", "Frames finished.")
        self._seconds = self._counter("video_seconds", "Seconds of finished videos.")
        self._steps = self._counter("steps", "Denoising steps done.")
        self._ended = Counter(
            "recurvid_jobs_ended", "Jobs that came to an end.", ["state"], registry=self.registry
        )
        self._step_time = Histogram(
            "recurvid_step_seconds",
            "Time of one denoising step.",
            buckets=_STEP_BUCKETS,
            registry=self.registry,
        )
        self._last_step: dict[str, _Step] = {}
        self._frames_of: dict[str, int] = {}

    def _counter(self, name: str, about: str) -> Counter:
        return Counter(f"recurvid_{name}", about, registry=self.registry)

    def text(self) -> bytes:
        """What ``/metrics`` answers."""
        return generate_latest(self.registry)

    async def follow(self) -> None:
        """Count what happens until cancelled."""
        after = await run_in_threadpool(self.service.store.last_event)
        while True:
            try:
                events = await run_in_threadpool(self.service.store.events, after)
            except (sqlite3.Error, OSError):  # numbers may be late; they must not end the server
                _LOG.exception("metrics: the queue could not be read")
                events = []
            for event in events:
                after = event.number
                self.count(event)
            await asyncio.sleep(_POLL_SECONDS if len(events) < 100 else 0)

    def count(self, event: JobEvent) -> None:
        """Take one event into account."""
        if event.kind == "progress":
            self._count_progress(event)
        elif event.kind == "state":
            state = str(event.data.get("state"))
            if state in ("done", "failed", "cancelled"):
                self._ended.labels(state).inc()
            if state != "running":
                self._last_step.pop(event.job_id, None)
            if state in ("done", "deleted"):
                self._count_result(event.job_id, state)

    def _count_result(self, id: str, state: str) -> None:
        self._frames_of.pop(id, None)
        if state == "done":
            with suppress(UnknownJobError):  # deleted meanwhile
                self._seconds.inc(self.service.store.get(id).seconds or 0.0)

    def _count_progress(self, event: JobEvent) -> None:
        data, id = event.data, event.job_id
        frames = int(data["frames"])
        before = self._frames_of.get(id)
        if before is None:
            before = self._frames_before(id, frames)
        self._frames.inc(max(0, frames - before))
        self._frames_of[id] = frames
        if data["phase"] != "denoise":
            self._last_step.pop(id, None)
            return
        now: _Step = (id, data["section"], int(data["step"]), event.at, int(data["steps"]))
        last = self._last_step.get(id)
        self._last_step[id] = now
        if last is None or last[1] != now[1] or now[2] <= last[2]:
            return
        steps, lasted = now[2] - last[2], now[3] - last[3]
        self._steps.inc(steps)
        if 0 < lasted < _LONGEST_STEP:
            for _ in range(min(steps, 1000)):
                self._step_time.observe(lasted / steps)

    def _frames_before(self, id: str, frames: int) -> int:
        """Frames of a job that is seen for the first time: made earlier only if it was begun."""
        with suppress(UnknownJobError):
            if self.service.store.get(id).attempts == 1:
                return 0
        return frames


def _disk_free(home: Path) -> float:
    try:
        return float(shutil.disk_usage(home).free)
    except OSError:
        return float("nan")
