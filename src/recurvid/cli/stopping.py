"""Ctrl-C and SIGTERM end a run the same clean way: at the next step, saying how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from recurvid.cli import exits
from recurvid.generation.advice import resume_command


class Stopped(Exception):
    """The user or the system ended a run."""

    def __init__(self, message: str, exit_code: int):
        self.exit_code = exit_code
        super().__init__(message)


class _Terminated(BaseException):
    """Raised where SIGTERM arrives; like KeyboardInterrupt nothing in between may swallow it."""


def _raise_terminated(_signal: int, _frame: FrameType | None) -> None:
    raise _Terminated


@contextmanager
def says_how_to_resume(folder: Path) -> Generator[None]:
    """Turn Ctrl-C and SIGTERM inside the body into :class:`Stopped` with the command to go on."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _raise_terminated) if main else None
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(f"stopped{_hint(folder)}", exits.INTERRUPTED) from None
    except _Terminated:
        raise Stopped(f"terminated{_hint(folder)}", exits.TERMINATED) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _hint(folder: Path) -> str:
    if (folder / "request.json").exists():
        return f"; continue with: {resume_command(folder)}"
    return " before the session began; there is nothing to resume"
