"""Downloads that somebody asked for on the page: one process each, watched by a thread."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recurvid.checkpoints.known import KNOWN
from recurvid.errors import InputError, Line

Command = Callable[[str], Sequence[str]]


@dataclass(frozen=True)
class Download:
    """How one download stands.

    Attributes:
        size, done: bytes to fetch in all, and fetched.
        error: why it ended without success, one line.
    """

    size: int = 0
    done: int = 0
    running: bool = True
    complete: bool = False
    error: Line = Line("")  # noqa: RUF009 (it does not change)


def _command(name: str) -> Sequence[str]:
    return [sys.executable, "-m", "recurvid.gui.fetching", name]


class Downloads:
    """At most one download a model.

    Args:
        command: what fetches a model; replaced in tests.
    """

    def __init__(self, command: Command = _command):
        self._command = command
        self._lock = threading.Lock()
        self._states: dict[str, Download] = {}
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def state(self, name: str) -> Download | None:
        """The download of a model; None if there was none."""
        return self._states.get(name)

    def start(self, name: str) -> None:
        """Begin, or go on with what is there already.

        Raises:
            InputError: no such model, or nothing to fetch.
        """
        if name not in KNOWN or KNOWN[name].bundled:
            raise InputError(f"model {name[:40]!r}: there is nothing to download", "fetch.nothing")
        with self._lock:
            now = self._states.get(name)
            if now is not None and now.running:
                return
            self._states[name] = Download()
            process = subprocess.Popen(
                self._command(name),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            self._processes[name] = process
        threading.Thread(target=self._watch, args=(name, process), daemon=True).start()

    def stop(self, name: str) -> None:
        """Stop it; what is fetched stays."""
        with self._lock:
            process = self._processes.get(name)
        if process is not None and process.poll() is None:
            process.terminate()

    def close(self) -> None:
        """Stop them all."""
        for name in tuple(self._processes):
            self.stop(name)

    def _watch(self, name: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                try:
                    said = json.loads(line)
                except ValueError:
                    continue
                self._change(name, said)
        code = process.wait()
        state = self._states[name]
        if not state.complete and not state.error and code > 0:
            ended = Line("the download ended unexpectedly", "fetch.ended")
            state = replace(state, error=ended)
        self._states[name] = replace(state, running=False)

    def _change(self, name: str, said: object) -> None:
        known = {"size": int, "done": int, "complete": bool}
        if not isinstance(said, dict):
            return
        values: dict[str, Any] = {
            k: v for k, v in said.items() if isinstance(v, known.get(str(k), ()))
        }
        if "error" in said:
            values["error"] = Line.from_json(said["error"])
        self._states[name] = replace(self._states[name], **values)
