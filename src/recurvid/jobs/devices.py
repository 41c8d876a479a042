"""Devices: which of those that jobs name are a worker's own, and which another worker's."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from recurvid.errors import RecurVidError
from recurvid.jobs.executor import Executor
from recurvid.jobs.slots import hardware_held

logger = logging.getLogger(__name__)


class Devices:
    """As one worker sees them.

    Args:
        own: what this worker has.
    """

    def __init__(self, executor: Executor, own: str, home: Path, slot: str):
        self._executor, self._own, self._home, self._slot = executor, own, home, slot
        self._known: dict[str, str | None] = {"auto": own}

    def of(self, device: str) -> str | None:
        """The hardware; None where there is none, which its job will be told."""
        if device not in self._known:
            try:
                self._known[device] = self._executor.hardware(device)
            except RecurVidError:
                return None
            except Exception:  # a job's own text must not end the worker, only the job
                logger.exception("what is behind the device %r cannot be told", device[:80])
                return None
        return self._known[device]

    def sort(self, devices: Iterable[str]) -> tuple[list[str], list[str]]:
        """Names of this worker's hardware, and of what other workers have."""
        mine = [name for name in devices if self.of(name) == self._own]
        others: list[str] = []
        for name in devices:
            if name not in mine:
                with self.lent(name) as free:
                    if not free:
                        others.append(name)
        return mine, others

    @contextmanager
    def lent(self, device: str) -> Generator[bool]:
        """Hold what a job names for as long as it runs; yields whether nobody else has it."""
        hardware = self.of(device)
        if hardware in (None, self._own):
            yield True
            return
        with hardware_held(self._home, hardware, self._slot) as ours:
            yield ours
