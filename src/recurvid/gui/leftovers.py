"""Uploads that broke off: Gradio keeps what had come of them, and never asks for it again."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

_HOUR = 3600.0
_LOOK_SECONDS = 600.0


def sweep(uploads: Path, now: float | None = None) -> list[Path]:
    """Remove files that lie beside the folders of finished uploads and were left an hour ago.

    Args:
        uploads: Gradio's folder; a whole upload is moved into a folder named by its content.

    Returns:
        What went.
    """
    before = (time.time() if now is None else now) - _HOUR
    removed: list[Path] = []
    for path in uploads.iterdir():
        with suppress(OSError):
            if path.is_file() and path.stat().st_mtime < before:
                path.unlink()
                removed.append(path)
    return removed


@contextmanager
def swept(uploads: Path) -> Generator[None]:
    """Sweep now and then while the context is open."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(_LOOK_SECONDS):
            with suppress(OSError):
                sweep(uploads)

    thread = threading.Thread(target=work, name="leftovers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
