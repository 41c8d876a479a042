"""``python -m recurvid.jobs.worker``: one device, one process, one job after the other.

It leaves by itself, after the step it is in, on SIGTERM and when its standard input ends (with
``--tethered``): the supervisor that started it holds the other end and cannot die without this
being noticed. Whoever comes next waits for the lock of the slot, which this process holds.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from recurvid.errors import LimitError, RecurVidError, StaleClaimError
from recurvid.jobs.claims import Claim, Claims
from recurvid.jobs.devices import Devices
from recurvid.jobs.executor import HERE, Executor, load_executor
from recurvid.jobs.failures import disk_is_full, failure_of
from recurvid.jobs.limits import Limits
from recurvid.jobs.logs import log_to
from recurvid.jobs.running import JobRun, Outcome
from recurvid.jobs.slots import hardware_held, held, slot_of
from recurvid.jobs.store import JobStore

#: The process left in good order, or for a reason that is no fault of the job it had.
LEFT, LEFT_FOR_NOW = 0, 75
#: An error nobody foresaw: the job has failed, and the process is not to be trusted any more.
DISTRUSTED = 70

_IDLE_SECONDS = 0.2
_LOCK_SECONDS = 0.1
_HARDWARE_SECONDS = 0.5
_SAID_AFTER = 5.0
#: An orphan that is still in the same step after this long ends at once.
_ORPHAN_SECONDS = 300.0

logger = logging.getLogger(__name__)


class Worker:
    """Takes jobs until it is told to stop.

    Args:
        device: as the worker was started for.
        serves: devices of all workers of this home.
        stop: set from a signal handler or another thread.
    """

    def __init__(
        self,
        store: JobStore,
        device: str,
        serves: Sequence[str] = (),
        stop: threading.Event | None = None,
    ):
        self.store = store
        self.claims = Claims(store)
        self.device, self.slot, self.serves = device, slot_of(device), tuple(serves)
        self.stop = stop or threading.Event()

    def run(self, executor_name: str = HERE) -> int:
        """Wait for the slot, then work. Returns the exit code of the process."""
        begun, said = time.monotonic(), False
        while not self.stop.is_set():
            with held(self.store.home, self.slot) as ours:
                if ours:
                    self.claims.recover(self.slot)
                    return self._begin(load_executor(executor_name, self.device))
            if not said and time.monotonic() - begun > _SAID_AFTER:
                said = True
                self.claims.note_pause(
                    self.slot,
                    f"an earlier worker for {self.device} is still in its last step; "
                    "the queue goes on when it has left",
                )
            self.stop.wait(_LOCK_SECONDS)
        return LEFT

    def _begin(self, executor: Executor) -> int:
        """Work as soon as no worker has the same hardware under another name."""
        try:
            hardware = executor.hardware(self.device)
        except RecurVidError as error:
            self.claims.note_pause(self.slot, f"the worker for {self.device} cannot start: {error}")
            raise
        said = False
        while not self.stop.is_set():
            with hardware_held(self.store.home, hardware, self.slot) as ours:
                if ours:
                    return self._work(executor, hardware)
            if not said:
                said = True
                self.claims.note_pause(self.slot, None)
                logger.info("%s has a worker under another name; this one waits", self.device)
            self.stop.wait(_HARDWARE_SECONDS)
        return LEFT

    def _work(self, executor: Executor, hardware: str) -> int:
        logger.info("worker for %s is ready", self.device)
        self.claims.note_pause(self.slot, None)
        known = Devices(executor, hardware, self.store.home, self.slot)
        rests = _Rest(executor, self.store.limits.keep_model_seconds)
        while not self.stop.is_set():
            try:
                mine, others = known.sort(self.claims.devices_wanted())
                claim = self.claims.take(
                    self.slot, self.device, self.serves, mine=mine, others=others
                )
            except (
                sqlite3.OperationalError,
                LimitError,
            ) as error:  # a full disk, or a very busy file
                logger.warning("cannot take a job: %s", error)
                self.stop.wait(1.0)
                continue
            if claim is None:
                rests.idle()
                self.stop.wait(_IDLE_SECONDS)
                continue
            rests.busy()
            with known.lent(claim.job.how.device) as ours:
                if not ours:  # its own worker came this moment
                    self.claims.stopped(claim)
                    continue
                code = self.do(claim, executor)
                if known.of(claim.job.how.device) not in (None, hardware):
                    executor.rest()  # what was lent is given back empty
            if code != LEFT:
                return code
        return LEFT

    def do(self, claim: Claim, executor: Executor) -> int:
        """One job. Returns LEFT, or the code with which the process should end now."""
        logger.info("job %s: attempt %d", claim.id, claim.job.attempts)
        begun = time.monotonic()
        try:
            outcome = JobRun(self.claims, claim, self.stop).run(executor)
            self._write_down(claim, outcome)
            logger.info("job %s: %s after %.1f s", claim.id, outcome.name, time.monotonic() - begun)
        except StaleClaimError as error:
            logger.warning("%s", error)
        except Exception as error:  # noqa: BLE001 (whatever it is, it fails one job)
            return self._failed(claim, error)
        return LEFT

    def _write_down(self, claim: Claim, outcome: Outcome) -> None:
        if outcome is Outcome.STOPPED:
            self.claims.stopped(claim)
        elif outcome is Outcome.DISK_FULL:
            self.claims.held_back(claim)

    def _failed(self, claim: Claim, error: Exception) -> int:
        try:
            if disk_is_full(error):
                logger.warning("job %s: the disk is full", claim.id)
                self.claims.held_back(claim)
                return LEFT
            if isinstance(error, sqlite3.Error):
                logger.error("job %s: the queue cannot be written: %s", claim.id, error)
                self.claims.stopped(claim)
                return LEFT
            failure = failure_of(error, self.store.home)
            if failure.known:
                logger.info("job %s: failed: %s", claim.id, error)
            else:
                logger.error("job %s: failed", claim.id, exc_info=error)
            self.claims.failed(claim, failure.code, failure.text)
        except StaleClaimError as stale:
            logger.warning("%s", stale)
            return LEFT
        except (sqlite3.Error, LimitError) as full:
            # Nothing can be written down; the job is taken back from this slot later.
            logger.error("job %s: the queue cannot be written: %s", claim.id, full)
            return LEFT_FOR_NOW
        return LEFT if failure.known else DISTRUSTED


class _Rest:
    """Tells an executor once when there was nothing to do for some seconds."""

    def __init__(self, executor: Executor, seconds: int | float):
        self._executor, self._seconds = executor, seconds
        self._since: float | None = None
        self._rested = True

    def busy(self) -> None:
        """A job was there."""
        self._since, self._rested = None, False

    def idle(self) -> None:
        """There is none."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if not self._rested and now - self._since >= self._seconds:
            self._executor.rest()
            self._rested = True


def watch_tether(stop: threading.Event) -> None:
    """Set ``stop`` when standard input ends, in a thread of its own; the process ends after long.

    Reads the descriptor: a buffered read would hold a lock that the interpreter wants at its end.
    """

    def watch() -> None:
        while os.read(0, 1024):
            pass
        logger.warning("the supervisor is gone; leaving after this step")
        stop.set()
        time.sleep(_ORPHAN_SECONDS)
        os._exit(LEFT_FOR_NOW)

    threading.Thread(target=watch, name="tether", daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker until it is told to leave. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m recurvid.jobs.worker", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--serves", default="", help="devices of all workers, with commas")
    parser.add_argument("--limits", default="{}", help="JSON")
    parser.add_argument("--executor", default=HERE, help="module:function")
    parser.add_argument("--tethered", action="store_true", help="leave when standard input ends")
    parser.add_argument("--json-logs", action="store_true", help="one JSON object a line")
    given = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s worker %(process)d: %(message)s"
    )
    if given.json_logs:
        log_to()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _signal, _frame: stop.set())
    # Ctrl-C in a terminal reaches the whole group; the supervisor says when to leave.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if given.tethered:
        watch_tether(stop)
    try:
        store = JobStore(given.home, Limits.from_json(json.loads(given.limits)))
        serves = [name for name in given.serves.split(",") if name]
        return Worker(store, given.device, serves, stop).run(given.executor)
    except RecurVidError as error:
        logger.error("%s", error)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
