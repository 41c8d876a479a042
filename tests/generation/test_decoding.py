"""Encoding a segment beside its decoding: same bytes, errors where they belong, no half files."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.generation.sessions import start

from recurvid.errors import NumericsError
from recurvid.generation.decoding import SegmentRecorder
from recurvid.latents import LatentFrames
from recurvid.vae.codec import PixelFrames
from recurvid.video.encoders import VideoSettings, exact_fps
from recurvid.video.writer import SegmentWriter

LATENTS = LatentFrames.of(torch.zeros(1, 4, 1, 2, 2), [0])


class Runs:
    """A decode stream of given runs, which may end in an error."""

    def __init__(self, starts: list[int], error: Exception | None = None):
        self.starts, self.error = starts, error

    def push(self, latents: LatentFrames) -> Iterator[PixelFrames]:
        for start_ in self.starts:
            yield PixelFrames(start_, torch.full((2, 3, 16, 16), start_ / 20 - 0.5))
        if self.error is not None:
            raise self.error

    def provisional(self, shown: Sequence[range]) -> Iterator[PixelFrames]:
        return iter(())


def recorder(root: Path, stream: Runs) -> SegmentRecorder:
    return SegmentRecorder(start(root), stream, VideoSettings(exact_fps(8.0)), 100)


def test_runs_that_touch_are_one_segment_in_order(tmp_path: Path) -> None:
    made = recorder(tmp_path, Runs([0, 2, 4, 10, 12]))
    assert [segment.frames for segment in made.add(0, LATENTS)] == [range(6), range(10, 14)]


def test_the_next_run_is_decoded_while_one_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    write = SegmentWriter.write

    def slow(self: SegmentWriter, frames: Any) -> None:
        time.sleep(0.1)
        write(self, frames)
        seen.append("encoded")
        assert threading.current_thread() is not threading.main_thread()

    class Noting(Runs):
        def push(self, latents: LatentFrames) -> Iterator[PixelFrames]:
            for run in super().push(latents):
                seen.append("decoded")
                yield run

    monkeypatch.setattr(SegmentWriter, "write", slow)
    list(recorder(tmp_path, Noting([0, 2, 4, 6, 8, 10])).add(0, LATENTS))
    assert seen[:2] == ["decoded", "decoded"]
    assert seen.count("encoded") == 6
    # No more than two wait, one is being handed over and one is next.
    waiting = [seen[:i].count("decoded") - seen[:i].count("encoded") for i in range(13)]
    assert max(waiting) <= 4


def test_an_error_of_the_decoder_waits_for_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []
    writing = threading.Event()
    write, leave = SegmentWriter.write, SegmentWriter.__exit__

    def slow(self: SegmentWriter, frames: Any) -> None:
        writing.set()
        time.sleep(0.1)
        write(self, frames)
        writing.clear()

    def noted(self: SegmentWriter, *error: Any) -> None:
        closed.append(writing.is_set())
        return leave(self, *error)

    monkeypatch.setattr(SegmentWriter, "write", slow)
    monkeypatch.setattr(SegmentWriter, "__exit__", noted)
    made = recorder(tmp_path, Runs([0, 2], NumericsError("black")))
    with pytest.raises(NumericsError, match="black"):
        list(made.add(0, LATENTS))
    assert closed == [False]
    assert not list((tmp_path / "session" / "video").iterdir())


def test_an_error_of_the_encoder_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: SegmentWriter, frames: Any) -> None:
        raise OSError(28, "full")

    monkeypatch.setattr(SegmentWriter, "write", broken)
    with pytest.raises(OSError, match="full"):
        list(recorder(tmp_path, Runs([0])).add(0, LATENTS))
    assert not list((tmp_path / "session" / "video").iterdir())
