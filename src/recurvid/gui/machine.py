"""What this machine can run, asked of ``recurvid doctor`` in a process of its own.

The page's process thus never loads torch: it stays small and starts at once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from recurvid.checkpoints.known import KNOWN
from recurvid.errors import InputError, Line
from recurvid.generation.request import parse_size

Run = Callable[[Sequence[str]], dict[str, Any]]
_SECONDS = 180.0
_SMALL_CARD = 6.0


def ask_doctor(arguments: Sequence[str]) -> dict[str, Any]:
    """One answer of ``recurvid doctor --json``.

    Raises:
        InputError: what it said that is wrong.
    """
    command = [sys.executable, "-m", "recurvid", "doctor", *arguments, "--json"]
    try:
        said = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, stdin=subprocess.DEVNULL
        )
        lines = said.stdout.strip().splitlines()
        answer = json.loads(lines[-1]) if lines else {}
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise InputError(
            "this machine could not be looked at; try `recurvid doctor`", "doctor.silent"
        ) from error
    if answer.get("event") == "error" or not answer:
        silent = Line("`recurvid doctor` gave no answer", "doctor.silent")
        line = Line.from_json(answer.get("said") or answer.get("message") or silent.to_json())
        raise InputError(line, line.key, **line.values)
    return answer


class Machine:
    """Kernels and devices, looked up once in the background; memory plans on demand.

    Args:
        run: replaced in tests.
    """

    def __init__(self, run: Run = ask_doctor):
        self._run = run
        self._found: dict[str, Any] | None = None
        self._error = Line("")
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def look(self, *, again: bool = False) -> None:
        """Begin to look, unless that is done or under way."""
        with self._lock:
            if self._thread is not None and (self._thread.is_alive() or not again):
                return
            self._found, self._error = None, Line("")
            self._thread = threading.Thread(target=self._look, name="doctor", daemon=True)
            self._thread.start()

    @property
    def found(self) -> dict[str, Any] | None:
        """What was found; None while it is looked for, or if that failed."""
        return self._found

    @property
    def error(self) -> Line:
        """Why nothing was found, in one line; "" so far."""
        return self._error

    def kernels(self) -> list[str]:
        """Names of attention kernels that run here; empty while that is not known."""
        found = self._found or {}
        return [kernel["name"] for kernel in found.get("attention", ()) if not kernel["why_not"]]

    def plan(self, model: str, size: str, vram: float | None) -> dict[str, Any]:
        """The memory plan of a model, as ``cli.memory_picture.placement_json`` has it.

        Args:
            vram: GiB of the card; None for this machine's, or a small one where there is none.

        Raises:
            InputError: a model, size or amount that cannot be planned for.
        """
        if model not in KNOWN:
            raise InputError(
                f"model {model[:40]!r} is unknown; one of {', '.join(KNOWN)}",
                "model.unknown",
                model=model[:40],
            )
        sides = parse_size(size or "832x480")
        text = f"{sides}" if isinstance(sides, int) else f"{sides[0]}x{sides[1]}"
        asked = ["--model", model, "--size", text]
        if vram is None:
            try:
                return self._run(asked)
            except InputError:  # no card here
                vram = _SMALL_CARD
        return self._run([*asked, "--vram", f"{vram:g}"])

    def _look(self) -> None:
        try:
            self._found = self._run([])
        except InputError as error:
            self._error = error.line
