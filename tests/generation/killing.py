"""Kills sessions of its own with SIGKILL at numbered places and resumes them. POSIX only.

Run as a program, so that it forks from a process in which torch has not computed anything:

    python -m tests.generation.killing ROOT REQUEST STEP  ->  a line of JSON a STEPth place

A place is reached before and after each rename that makes a file whole, before each write of
frames, after each model call and at each event.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.generation.sessions import opened, start
from tests.generation.tiny_components import CountingDiT

from recurvid import durable
from recurvid.video.writer import SegmentWriter


class Fuse:
    """Counts places; at number ``at`` the process is gone."""

    def __init__(self, at: int | None):
        self.at, self.count = at, 0

    def __call__(self) -> None:
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def wired(fuse: Fuse) -> None:
    """Put places around everything that a kill could tear apart."""

    def around(inner: Callable[..., Any]) -> Callable[..., Any]:
        def outer(*args: Any, **kwargs: Any) -> Any:
            fuse()
            result = inner(*args, **kwargs)
            fuse()
            return result

        return outer

    durable.replace = around(durable.replace)
    durable._sync_file = around(durable._sync_file)  # type: ignore[attr-defined]
    Path.replace = around(Path.replace)  # type: ignore[method-assign]
    SegmentWriter.write = around(SegmentWriter.write)  # type: ignore[method-assign]
    CountingDiT.forward = around(CountingDiT.forward)  # type: ignore[method-assign]


def in_child(work: Callable[[], Any]) -> tuple[int, Any]:
    """Run in a forked process: its wait status, and what it returned."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code = 1
        try:
            result = work()
            os.write(writing, json.dumps(result).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    status = os.waitpid(child, 0)[1]
    return status, json.loads(text) if text else None


def run_killed(root: Path, asked: dict[str, Any], at: int | None) -> int:
    """One process of the product: make the folder, run to the end or to the fuse."""
    torch.set_num_threads(1)
    fuse = Fuse(at)
    wired(fuse)
    journal = start(root, **asked)
    for _ in opened(journal).run():
        fuse()
    return fuse.count


def resume(root: Path) -> int:
    """A second process: continue; returns the model calls it took."""
    from recurvid.generation.journal import Journal

    torch.set_num_threads(1)
    for _ in opened(Journal.open(root / "session")).run():
        pass
    return CountingDiT.calls


def one(root: Path, asked: dict[str, Any], at: int) -> dict[str, Any]:
    """Kill at a place, look at what is there, resume."""
    status, _ = in_child(lambda: run_killed(root, asked, at))
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if not (root / "session/request.json").exists():
        return {"at": at, "killed": killed, "begun": False}
    sections = len(list((root / "session/sections").glob("[0-9]*.safetensors")))
    again, calls = in_child(lambda: resume(root))
    return {
        "at": at,
        "killed": killed,
        "begun": True,
        "sections": sections,
        "resumed": again == 0,
        "calls": calls,
    }


def say(values: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def main() -> None:
    root, asked = Path(sys.argv[1]), json.loads(sys.argv[2])
    _, places = in_child(lambda: run_killed(root / "whole", asked, None))
    say({"places": places})
    step = int(sys.argv[3])
    for at in range(1, places + 1, step):
        say(one(root / str(at), asked, at))


if __name__ == "__main__":
    main()
