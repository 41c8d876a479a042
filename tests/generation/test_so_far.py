"""The video so far is the same file whether it was joined from all segments or went on growing."""

from __future__ import annotations

import json
import os
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from tests.generation.sessions import opened as opened_session
from tests.generation.sessions import start

from recurvid import durable
from recurvid.errors import SessionError
from recurvid.events import Finished, SectionDone
from recurvid.generation.advice import resume_command
from recurvid.generation.journal import Segment
from recurvid.generation.so_far import SoFar, join_so_far
from recurvid.video import assembly
from recurvid.video.assembly import Part, concatenate
from recurvid.video.encoders import VideoSettings
from recurvid.video.reader import probe
from recurvid.video.writer import SegmentWriter

COUNT, LENGTH = 6, 5


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> list[Segment]:
    folder = tmp_path_factory.mktemp("segments")
    rng = np.random.default_rng(0)
    made: list[Segment] = []
    for number in range(COUNT):
        path = folder / f"{number:04d}.mp4"
        with SegmentWriter(path, VideoSettings(Fraction(12), preset="ultrafast")) as writer:
            writer.write(rng.integers(0, 256, (LENGTH, 32, 48, 3), dtype=np.uint8))
        made.append(Segment(path, number, range(number * LENGTH, (number + 1) * LENGTH)))
    return made


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that joining opens."""
    paths: list[Path] = []
    plain = assembly._open_segment

    def noting(path: Path) -> object:
        paths.append(path)
        return plain(path)

    monkeypatch.setattr(assembly, "_open_segment", noting)
    return paths


ORDERS = {
    "forward": [0, 1, 2, 3, 4, 5],
    "inverted": [5, 4, 3, 2, 1, 0],
    "endpoint": [5, 0, 1, 2, 3, 4],
    "planned": [0, 5, 2, 3, 1, 4],
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_it_grows_into_the_same_bytes(
    tmp_path: Path, segments: list[Segment], opened: list[Path], order: list[int]
) -> None:
    video, whole, there = tmp_path / "so_far.mp4", tmp_path / "whole.mp4", list[Segment]()
    for number in order:
        there = sorted([*there, segments[number]], key=lambda segment: segment.frames.start)
        opened.clear()
        assert join_so_far(there, video) == SoFar(len(there) * LENGTH, 0)
        new = [path for path in opened if path != video]
        assert set(new) <= {segments[number].path, there[0].path}
        assert len(opened) <= 4
        concatenate([segment.path for segment in there], whole)
        assert video.read_bytes() == whole.read_bytes()


def joined(video: Path, segments: list[Segment]) -> bytes:
    join_so_far(segments, video)
    return video.read_bytes()


@pytest.mark.parametrize("accident", ["video", "note", "list", "number", "lost", "old note"])
def test_a_note_that_is_not_of_this_file_is_not_believed(
    tmp_path: Path, segments: list[Segment], opened: list[Path], accident: str
) -> None:
    video, note = tmp_path / "so_far.mp4", tmp_path / "so_far.json"
    expected = joined(tmp_path / "other.mp4", segments)
    join_so_far(segments[:2], video)
    old = note.read_text()
    join_so_far(segments[:4], video)
    if accident == "video":
        concatenate([segments[5].path], video)
    elif accident == "old note":  # killed between the video and its note
        note.write_text(old)
    elif accident == "lost":
        video.unlink()
    else:
        texts = {"note": "{", "list": "[]", "number": json.dumps({"video": 1, "segments": [3]})}
        note.write_text(texts[accident])
    opened.clear()
    if accident == "lost":
        video.write_bytes(b"")
    assert joined(video, segments) == expected
    assert opened == [segment.path for segment in segments]


def test_a_segment_that_was_made_again_is_taken_again(
    tmp_path: Path, segments: list[Segment], opened: list[Path]
) -> None:
    video, changed = tmp_path / "so_far.mp4", tmp_path / "0001.mp4"
    changed.write_bytes(segments[1].path.read_bytes())
    mine = [segments[0], Segment(changed, 1, segments[1].frames), *segments[2:]]
    join_so_far(mine, video)
    changed.write_bytes(segments[3].path.read_bytes())
    expected = tmp_path / "expected.mp4"
    concatenate([segment.path for segment in mine], expected)
    opened.clear()
    assert joined(video, mine) == expected.read_bytes()
    assert opened == [segments[0].path, changed, video]


def test_it_can_shrink(tmp_path: Path, segments: list[Segment]) -> None:
    video = tmp_path / "so_far.mp4"
    join_so_far(segments, video)
    concatenate([segment.path for segment in segments[1:3]], tmp_path / "two.mp4")
    assert joined(video, segments[1:3]) == (tmp_path / "two.mp4").read_bytes()


def test_a_part_that_is_not_there_is_refused(tmp_path: Path, segments: list[Segment]) -> None:
    with pytest.raises(SessionError, match="ends too early"):
        concatenate([Part(segments[0].path, range(LENGTH + 1))], tmp_path / "out.mp4")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_are_not_waited_for(tmp_path: Path, segments: list[Segment]) -> None:
    video, pipe = tmp_path / "so_far.mp4", tmp_path / "0001.mp4"
    os.mkfifo(tmp_path / "so_far.json")
    assert join_so_far(segments, video) == SoFar(COUNT * LENGTH, 0)
    os.mkfifo(pipe)
    with pytest.raises(SessionError, match="not a regular file"):
        join_so_far([segments[0], Segment(pipe, 1, segments[1].frames)], video)


def test_a_video_that_a_player_holds_open_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where a file that is being shown cannot be replaced."""
    journal = start(tmp_path)
    whole = durable.replace

    def held(source: Path, target: Path) -> None:
        if target.name == "so_far.mp4" and target.exists():
            raise PermissionError(13, "used by another process", str(target))
        whole(source, target)

    monkeypatch.setattr(durable, "replace", held)
    events = list(opened_session(journal).run())
    done = [event for event in events if isinstance(event, SectionDone)]
    assert len(done) == 2
    there = (done[0].frames, done[0].provisional)
    assert (done[1].frames, done[1].provisional) == there
    assert probe(journal.folder / "so_far.mp4").frames == sum(there)
    assert isinstance(events[-1], Finished)
    assert probe(tmp_path / "out.mp4").frames == events[-1].frames


@pytest.mark.parametrize("system", ["linux", "win32"])
def test_a_command_can_be_copied(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    monkeypatch.setattr(sys, "platform", system)
    quote = '"' if system == "win32" else "'"
    assert resume_command(Path("my videos")) == f"recurvid resume {quote}my videos{quote}"
    assert resume_command(Path("videos")) == "recurvid resume videos"
