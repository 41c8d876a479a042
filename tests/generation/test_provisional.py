"""The growing video holds a section as soon as it is made, and no trace of that stays."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.generation.sessions import contents, opened, planned, start
from tests.generation.tiny_components import tiny_components
from tests.vae.tiny_vae import tiny_hunyuan

import recurvid
from recurvid.errors import OutputError
from recurvid.events import Event, Finished, Progress, SectionDone
from recurvid.generation.decoding import SegmentRecorder
from recurvid.generation.journal import Journal, Local
from recurvid.generation.opening import open_session
from recurvid.generation.request import GenerationRequest
from recurvid.generation.result import Result
from recurvid.generation.session import GenerationSession
from recurvid.vae.hunyuan import HunyuanCodec
from recurvid.vae.taehv_codec import DecoderRun
from recurvid.video.reader import probe, read_frames

FORWARD: dict[str, Any] = {"order": "forward", "schedule": "f1k1_f16k4f2k2f1k1_g9"}
ENDPOINT: dict[str, Any] = {"order": "endpoint", "schedule": "td_f16k4f4k2f1k1_g9_x_f1k1"}
PLANNED: dict[str, Any] = ENDPOINT | {"order": "planned"}


def done_of(events: list[Event]) -> list[SectionDone]:
    return [event for event in events if isinstance(event, SectionDone)]


def provisional_files(journal: Journal) -> list[str]:
    return [path.name for path in journal.video_folder.glob("*provisional*")]


def test_each_section_is_seen_as_soon_as_it_is_made(tmp_path: Path) -> None:
    journal = start(tmp_path, seconds=9.0, steps=1)  # 108 of 109 frames in 3 sections
    seen: list[tuple[int, int]] = []
    for event in opened(journal).run():
        if isinstance(event, SectionDone):
            assert probe(event.video).frames == event.frames + event.provisional
            seen.append((event.frames, event.provisional))
            assert bool(provisional_files(journal)) == bool(event.provisional)
    assert seen == [(3, 32), (39, 32), (108, 0)]


@pytest.mark.parametrize(
    "asked",
    [{}, {"schedule": "f1k1_x_g4_f1k1f2k2f16k4_td"}, {"crossfade": True}, ENDPOINT, PLANNED],
    ids=str,
)
def test_the_result_and_the_folder_are_as_without(tmp_path: Path, asked: dict[str, Any]) -> None:
    asked |= {"seconds": 9.0, "steps": 1}
    with_them = done_of(list(opened(start(tmp_path / "with", **asked)).run()))
    journal = start(tmp_path / "without", **asked)
    without = done_of(list(opened(journal, provisional=False).run()))
    assert contents(tmp_path / "with") == contents(tmp_path / "without")
    assert any(event.provisional for event in with_them[:-1])
    assert with_them[-1].provisional == 0
    for one, other in zip(with_them, without, strict=True):
        assert one.frames == other.frames
        assert one.frames + one.provisional >= other.frames + other.provisional


def test_forward_in_time_nothing_is_provisional(tmp_path: Path) -> None:
    journal = start(tmp_path, seconds=9.0, steps=1, **FORWARD)
    for event in opened(journal).run():
        assert not provisional_files(journal)
        assert not isinstance(event, SectionDone) or event.provisional == 0


def test_no_frame_is_shown_twice_or_beyond_the_end(tmp_path: Path) -> None:
    journal = start(tmp_path, seconds=4.0, steps=1)  # 48 of 73 frames
    for event in opened(journal).run():
        if isinstance(event, SectionDone):
            parts = [s.frames for s in journal.segments() if s.frames.stop <= 48]
            parts += [s.frames for s in journal.provisional()]
            frames = [number for part in parts for number in part]
            assert len(frames) == len(set(frames)) == event.frames + event.provisional
            assert max(frames) < 48


def test_hunyuans_tiles_are_not_decoded_again_for_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles: list[int] = []
    decode = HunyuanCodec.decode_tile

    def counted(self: HunyuanCodec, latents: Any) -> Any:
        tiles.append(latents.shape[2])
        return decode(self, latents)

    monkeypatch.setattr(HunyuanCodec, "decode_tile", counted)
    counts: list[int] = []
    for provisional in (True, False):
        journal = start(tmp_path / str(provisional), seconds=9.0, steps=1)
        components = tiny_components()
        codec = HunyuanCodec(tiny_hunyuan())
        components = replace(
            components, loaders=replace(components.loaders, codec=lambda codec=codec: codec)
        )
        session = GenerationSession(
            journal, planned(journal, components), components, provisional=provisional
        )
        done = done_of(list(session.run()))
        assert bool(done[0].provisional) == provisional
        counts.append(len(tiles))
        tiles.clear()
    assert counts[0] == counts[1] > 0
    assert contents(tmp_path / "True") == contents(tmp_path / "False")


@pytest.mark.parametrize("torn", ["made", "replaced", "joined"])
def test_cut_off_around_them_it_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: str
) -> None:
    """As a kill would: between latents and look, between look and joining, after the last."""
    list(opened(start(tmp_path / "whole", seconds=9.0, steps=1)).run())
    journal = start(tmp_path / torn, seconds=9.0, steps=1)
    section = {"made": 0, "replaced": 1, "joined": 2}[torn]
    owner, name = (Result, "write_so_far") if torn == "joined" else (SegmentRecorder, "show")
    inner = getattr(owner, name)
    calls = itertools.count()

    def torn_off(self: Any, *args: Any) -> Any:
        if next(calls) == section:
            raise OutputError("torn off")
        return inner(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, torn_off)
        with pytest.raises(OutputError, match="torn off"):
            list(opened(journal).run())
    events = list(opened(journal).run())
    if section < 2:  # the section whose look was torn off is shown before the next is made
        assert done_of(events)[0].section == section
        assert done_of(events)[0].provisional == 32
    assert isinstance(events[-1], Finished)
    assert provisional_files(journal) == []
    assert contents(tmp_path / torn) == contents(tmp_path / "whole")


def test_what_stands_is_not_made_again_by_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = start(tmp_path, seconds=9.0, steps=1)
    events = opened(journal).run()
    next(event for event in events if isinstance(event, SectionDone))
    events.close()
    (path,) = journal.video_folder.glob("*provisional*")
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(DecoderRun, "step", None)
    events = opened(journal).run()
    reached = next(e for e in events if isinstance(e, Progress) and e.phase == "denoise")
    events.close()
    assert reached.section == 1
    assert path.stat().st_mtime_ns == before


@pytest.mark.slow
def test_the_bundled_model_shows_its_first_section(tmp_path: Path) -> None:
    """Six seconds in three sections: what so_far.mp4 shows is what comes, and no grey."""
    bundled = Path(recurvid.__file__).parent / "bundled"
    shutil.copy(bundled / "example.jpg", tmp_path / "picture.jpg")
    request = GenerationRequest(
        prompt="the camera pans to the left",
        seconds=6.0,
        size="128x96",
        steps=8,
        schedule="f1k1_x_g6_f1k1f2k2f16k4_td",
    )
    local = Local(output=str(tmp_path / "out.mp4"), device="cpu")
    journal = Journal.create(tmp_path / "session", request, local, tmp_path / "picture.jpg")
    shown: list[Any] = []
    last: list[Any] = []
    for event in open_session(journal).run():
        if isinstance(event, SectionDone):
            last = list(read_frames(event.video))
            shown = shown or last
    assert 20 <= len(shown) <= 24  # a section is 24 frames
    final = list(read_frames(tmp_path / "out.mp4"))
    assert [f.tobytes() for f in last] == [f.tobytes() for f in final]
    for frame, later in zip(shown, final[-len(shown) :], strict=True):
        error = np.abs(frame.astype(float) - later).mean()
        assert error < 6
        assert np.asarray(Image.fromarray(frame).convert("L")).std() > 15
