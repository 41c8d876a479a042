"""Supervisor: keeps one worker process a device alive, from inside the web process.

It is a thread and two pipes: no torch, no model, nothing that a crash of the model could take
with it. Its death closes the workers' standard input, which tells them to leave.
"""

from __future__ import annotations

import logging
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from recurvid.errors import InputError, LimitError
from recurvid.jobs.claims import Claims
from recurvid.jobs.cleaning import clean
from recurvid.jobs.executor import HERE
from recurvid.jobs.limits import Limits
from recurvid.jobs.slots import held, slot_of
from recurvid.jobs.store import JobStore
from recurvid.jobs.worker import DISTRUSTED, LEFT, LEFT_FOR_NOW

_TICK_SECONDS = 0.1
_CLEAN_SECONDS = 300.0
_RECOVER_SECONDS = 5.0
#: A worker that ends sooner than this has not come to working; the next one waits, longer each
#: time.
_SHORT_LIFE = 5.0
_LONGEST_WAIT = 30.0
_REFUSED_SECONDS = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerState:
    """How the worker of a device is.

    Attributes:
        pid: None while none of ours runs: it is about to be started, or belongs to the supervisor
            of another process.
        alive: whether the device has a worker, ours or another process's.
        starts: how often it was started by this supervisor.
        last_end: how the one before ended; "" for none.
    """

    device: str
    pid: int | None
    alive: bool
    starts: int
    last_end: str


class Supervisor:
    """Starts workers and starts them again; a context manager.

    A second one on the same home starts no second worker for a device, and takes over when the
    first is gone.

    Args:
        home: of the queue.
        devices: a worker each; "auto" leaves the choice to torch, in the worker.
        limits: as the store has them.
        executor: ``module:function``, see ``jobs.executor``.
        grace: seconds that workers get to finish their step when they should leave.
        json_logs: workers log JSON lines, as the server does.

    Raises:
        InputError: no device, or one that is no name.
    """

    def __init__(
        self,
        home: Path,
        devices: Sequence[str] = ("auto",),
        limits: Limits | None = None,
        *,
        executor: str = HERE,
        grace: float = 60.0,
        json_logs: bool = False,
    ):
        if not devices:
            raise InputError("a queue needs a device; give auto, cpu or cuda:0")
        self.store = JobStore(home, limits)
        self.grace = grace
        self._claims = Claims(self.store)
        names = tuple(dict.fromkeys(devices))
        more = ["--executor", executor, *(["--json-logs"] if json_logs else [])]
        self._posts = [_Post(self.store, device, names, more) for device in names]
        self._slots = [post.slot for post in self._posts]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tend, name="supervisor", daemon=True)

    def __enter__(self) -> Supervisor:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin. Returns at once; workers are there some seconds later."""
        self._thread.start()

    def stop(self) -> None:
        """Let the workers finish their step and leave; after ``grace`` they are killed."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        until = time.monotonic() + self.grace
        for post in self._posts:
            post.terminate()
        for post in self._posts:
            post.leave(max(0.0, until - time.monotonic()))
        self.store.close()

    def workers(self) -> list[WorkerState]:
        """How the workers are, for /healthz and /metrics."""
        return [post.state() for post in self._posts]

    def _tend(self) -> None:
        next_clean = next_recover = 0.0
        while not self._stop.is_set():
            try:
                for post in self._posts:
                    post.tend()
                now = time.monotonic()
                if now >= next_recover:
                    self._claims.recover_all(self._slots)
                    self._claims.forget_notes(self._slots)
                    next_recover = now + _RECOVER_SECONDS
                if now >= next_clean:
                    clean(self.store)
                    next_clean = now + _CLEAN_SECONDS
            except (
                OSError,
                sqlite3.Error,
                LimitError,
            ) as error:  # a full disk: it goes on when there is room
                logger.warning("the supervisor cannot do its work now: %s", error)
                self._stop.wait(1.0)
            self._stop.wait(_TICK_SECONDS)


class _Post:
    """One device and the worker that is posted there."""

    def __init__(self, store: JobStore, device: str, serves: Sequence[str], more: Sequence[str]):
        self.device, self.slot = device, slot_of(device)
        self._store, self._claims = store, Claims(store)
        self._command = [
            *(sys.executable, "-P", "-m", "recurvid.jobs.worker", "--tethered"),
            *("--home", str(store.home.absolute()), "--device", device),
            *("--serves", ",".join(serves), "--limits", store.limits.to_text()),
            *more,
        ]
        self._ours = ExitStack()
        self._is_ours = False
        self._process: subprocess.Popen[bytes] | None = None
        self._starts, self._quick_ends = 0, 0
        self._started, self._not_before = 0.0, 0.0
        self._last_end = ""

    def tend(self) -> None:
        """Take the post if it is free, and see to it that its worker lives."""
        if not self._is_ours:
            self._is_ours = self._ours.enter_context(
                held(self._store.home, self.slot, "supervisor")
            )
            if not self._is_ours:
                self._ours.close()
                return
            self._claims.note_pause(self.slot, None)  # of an earlier start
        if self._process is not None and self._process.poll() is not None:
            self._ended(self._process)
            self._process = None
        if self._process is None and time.monotonic() >= self._not_before:
            self._start()

    def terminate(self) -> None:
        """Ask the worker to leave."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def leave(self, grace: float) -> None:
        """Wait for the worker to leave, take back what it had, and give the post up."""
        process = self._process
        if process is not None:
            try:
                process.wait(grace)
            except subprocess.TimeoutExpired:
                logger.warning("the worker for %s is still in its step; killed", self.device)
                process.kill()
                process.wait()
            _close(process)
            with suppress(sqlite3.Error, LimitError):  # the next start does it
                self._take_back(None)
            self._process = None
        if self._is_ours:
            with suppress(sqlite3.Error):
                self._claims.note_pause(self.slot, None)
        self._ours.close()
        self._is_ours = False

    def state(self) -> WorkerState:
        """For whoever asks."""
        process = self._process
        pid = None if process is None or process.returncode is not None else process.pid
        alive = pid is not None
        if not self._is_ours:
            # Whoever has the slot is a worker that somebody else looks after.
            with held(self._store.home, self.slot) as free:
                alive = not free
        return WorkerState(self.device, pid, alive, self._starts, self._last_end)

    def _start(self) -> None:
        try:
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE)
        except OSError as error:  # no memory for a process, say
            self._not_before = time.monotonic() + _REFUSED_SECONDS
            self._last_end = f"not started: {error.strerror or error}"
            logger.error("worker for %s: %s", self.device, error)
            self._claims.note_pause(
                self.slot, f"the worker for {self.device} cannot start ({error.strerror})"
            )
            return
        self._started = time.monotonic()
        self._starts += 1
        logger.info("worker for %s: process %d", self.device, self._process.pid)

    def _ended(self, process: subprocess.Popen[bytes]) -> None:
        code = process.returncode
        _close(process)
        self._last_end = _words(code)
        crash = None if code in (LEFT, LEFT_FOR_NOW, DISTRUSTED) else self._last_end
        had_jobs = self._take_back(crash)
        lived = time.monotonic() - self._started
        refused = code > 0 and code not in (LEFT_FOR_NOW, DISTRUSTED)  # however long that took
        if had_jobs or code in (LEFT, DISTRUSTED) or (lived > _SHORT_LIFE and not refused):
            self._quick_ends = 0
        else:
            self._quick_ends += 1
        wait = min(_LONGEST_WAIT, 0.25 * 2.0**self._quick_ends) if self._quick_ends else 0.0
        self._not_before = time.monotonic() + wait
        logger.warning("the worker for %s ended (%s)", self.device, self._last_end)
        if self._quick_ends >= 3:
            self._claims.note_pause(
                self.slot,
                f"the worker for {self.device} cannot start ({self._last_end}); "
                "the server's log says more",
                replace=False,
            )

    def _take_back(self, crash: str | None) -> bool:
        with held(self._store.home, self.slot) as ours:
            # Not ours: an orphan of another supervisor has the slot, and its jobs.
            return bool(ours and self._claims.recover(self.slot, crash))


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()


def _words(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
