from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from tests.generation.sessions import contents, opened, planned, start
from tests.generation.tiny_components import CountingDiT, tiny_codec, tiny_components
from tests.vae.tiny_vae import tiny_hunyuan

from recurvid import durable
from recurvid.errors import InputError, NumericsError, OutputError, SessionError
from recurvid.events import Event, Finished, Planned, Preview, Progress, SectionDone
from recurvid.generation import session as session_module
from recurvid.generation.request import GenerationRequest
from recurvid.generation.session import GenerationSession
from recurvid.generation.tensor_files import load_latents
from recurvid.latents import LatentGeometry
from recurvid.vae.hunyuan import HunyuanCodec
from recurvid.vae.taehv_codec import DecoderRun
from recurvid.video.metadata import read_metadata
from recurvid.video.reader import probe, read_frames

ENDPOINT = {"order": "endpoint", "schedule": "td_f16k4f4k2f1k1_g9_x_f1k1"}
F1 = {"order": "forward", "schedule": "f1k1_f16k4f2k2f1k1_g9"}


@pytest.fixture(autouse=True)
def _count() -> None:
    CountingDiT.calls = 0


def run(journal: Any, **options: Any) -> list[Event]:
    return list(opened(journal, **options).run())


def test_events_of_a_whole_run(tmp_path: Path) -> None:
    events = run(start(tmp_path))
    assert events[0] == Planned(sections=2, frames=60, fps=12.0, height=48, width=64)
    assert events[-1] == Finished(tmp_path / "out.mp4", 60, 12.0)
    steps = [e for e in events if isinstance(e, Progress) and e.phase == "denoise"]
    assert [(e.section, e.step, e.steps) for e in steps] == [
        (0, 1, 2),
        (0, 2, 2),
        (1, 1, 2),
        (1, 2, 2),
    ]
    done = [e for e in events if isinstance(e, SectionDone)]
    assert [(e.section, e.sections) for e in done] == [(0, 2), (1, 2)]
    assert done[-1].frames == 60
    assert CountingDiT.calls == 4


def test_the_result_is_a_playable_video_of_the_asked_length(tmp_path: Path) -> None:
    run(start(tmp_path))
    video = probe(tmp_path / "out.mp4")
    assert (video.frames, float(video.fps), video.height, video.width) == (60, 12.0, 48, 64)
    assert len(list(read_frames(tmp_path / "out.mp4"))) == 60


@pytest.mark.parametrize("crossfade", [False, True])
@pytest.mark.parametrize("order", [{}, F1])
def test_the_video_holds_what_one_decode_of_all_latents_gives(
    tmp_path: Path, order: dict[str, Any], crossfade: bool
) -> None:
    journal = start(tmp_path, whole_sections=True, crf=1, crossfade=crossfade, **order)
    run(journal)
    made = [load_latents(journal.section_path(i)) for i in range(2)]
    given = session_module.load_conditioning(journal.conditioning_path)[0]
    frames = {
        int(i): part.data[:, :, slot]
        for part in (given, *made)
        for slot, i in enumerate(part.index[0])
    }
    assert sorted(frames) == list(range(19))
    whole = torch.stack([frames[i] for i in range(19)], dim=2)
    pixels = tiny_codec().decode(whole)[0].permute(1, 2, 3, 0)
    written = torch.stack([torch.from_numpy(f) for f in read_frames(tmp_path / "out.mp4")])
    assert written.shape == pixels.shape
    error = (pixels.clamp(-1, 1) * 127.5 + 127.5 - written.float()).abs().mean()
    # Chroma is halved; a cross-fade differs where a causal decoder has no past.
    assert error < (12 if crossfade else 4)
    shuffled = written.flip(0).float()
    assert (pixels.clamp(-1, 1) * 127.5 + 127.5 - shuffled).abs().mean() > error


def test_what_an_event_speaks_of_is_on_disk(tmp_path: Path) -> None:
    journal = start(tmp_path)
    for event in opened(journal).run():
        if isinstance(event, SectionDone):
            assert journal.section_path(event.section).is_file()
            there = event.frames + event.provisional
            assert probe(event.video).frames == there
            with av.open(str(event.video)) as container:
                times = [p.pts for p in container.demux(video=0) if p.size]
            assert len(set(times)) == there
    assert read_metadata(tmp_path / "out.mp4") is not None


def test_every_frame_is_encoded_once(tmp_path: Path) -> None:
    journal = start(tmp_path, seconds=12.0)
    run(journal)
    frames = [frame for segment in journal.segments() for frame in segment.frames]
    assert frames == list(range(144))  # of 145 that 4 sections make
    assert probe(tmp_path / "out.mp4").frames == 144


def test_the_first_section_is_shown_even_if_all_it_finishes_is_trimmed(tmp_path: Path) -> None:
    journal = start(tmp_path, seconds=4.0)  # 48 of 73 frames
    events = opened(journal, provisional=False).run()
    first = next(e for e in events if isinstance(e, SectionDone))
    assert (first.frames, first.provisional, probe(first.video).frames) == (0, 4, 4)
    assert [segment.frames for segment in journal.segments()] == [range(69, 73)]
    last = [e for e in events if isinstance(e, SectionDone)][-1]
    assert (last.frames, probe(last.video).frames) == (48, 48)


def test_before_any_frame_is_final_the_video_so_far_is_the_picture(tmp_path: Path) -> None:
    journal = start(tmp_path, schedule="f1k1_x_g4_f1k1f2k2f16k4_td", seconds=4.0)
    counts = [(e.frames, e.provisional, probe(e.video).frames)
              for e in opened(journal, provisional=False).run()
              if isinstance(e, SectionDone)]  # fmt: skip
    assert counts[0] == (0, 1, 1)
    assert all(final + others == there for final, others, there in counts)
    assert counts[-1] == (48, 0, 48)


def test_previews_are_shown_and_change_nothing(tmp_path: Path) -> None:
    run(start(tmp_path / "without"))
    events = run(start(tmp_path / "with"), previews=True)
    shown = [event for event in events if isinstance(event, Preview)]
    assert [(p.section, p.step) for p in shown] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert all(p.frames.shape[0] == 9 and p.frames.shape[3] == 3 for p in shown)
    assert all(p.frames.dtype == torch.uint8 for p in shown)
    assert not torch.equal(shown[0].frames, shown[1].frames)
    assert contents(tmp_path / "with") == contents(tmp_path / "without")


def test_a_finished_session_is_not_touched(tmp_path: Path) -> None:
    journal = start(tmp_path)
    run(journal)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.name != "lock"}
    CountingDiT.calls = 0
    events = run(journal)
    assert [type(event) for event in events] == [Planned, Finished]
    assert CountingDiT.calls == 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.name != "lock"} == before


def test_a_lost_result_is_joined_again_without_the_model(tmp_path: Path) -> None:
    journal = start(tmp_path)
    run(journal)
    expected = (tmp_path / "out.mp4").read_bytes()
    (tmp_path / "out.mp4").unlink()
    CountingDiT.calls = 0
    run(journal)
    assert (tmp_path / "out.mp4").read_bytes() == expected
    assert CountingDiT.calls == 0


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"noise": "sequential"},
        F1,
        ENDPOINT,
        {"crossfade": True},
        {"cfg_scale": 3.0, "negative_prompt": "blur", "cfg_rescale": 0.5},
        {"schedule": "f1k1_x_g9_f1k1f2k2f16k4_ta", "seconds": 8.0},
        {"end": True},
    ],
    ids=str,
)
def test_stopped_at_any_event_it_continues_to_the_same_bits(
    tmp_path: Path, asked: dict[str, Any]
) -> None:
    asked = {"seconds": 4.0, "steps": 1, **asked}
    run(start(tmp_path / "whole", **asked))
    expected = contents(tmp_path / "whole")
    calls_of_all = CountingDiT.calls
    sections = len(list((tmp_path / "whole/session/sections").iterdir()))
    stop = 0
    for stop in itertools.count(1, 1 if asked == {"seconds": 4.0, "steps": 1} else 3):
        root = tmp_path / str(stop)
        journal = start(root, **asked)
        events = opened(journal).run()
        seen = list(itertools.islice(events, stop))
        events.close()
        if isinstance(seen[-1], Finished):
            break
        done = len(list(journal.sections_folder.iterdir()))
        CountingDiT.calls = 0
        run(journal)
        assert calls_of_all == CountingDiT.calls + done * calls_of_all // sections
        assert contents(root) == expected
    assert stop > 10


def test_a_section_that_exists_is_not_made_again(tmp_path: Path) -> None:
    journal = start(tmp_path, seconds=8.0)
    events = opened(journal).run()
    for event in events:
        if isinstance(event, SectionDone) and event.section == 1:
            break
    events.close()
    CountingDiT.calls = 0
    run(journal)
    assert CountingDiT.calls == 2  # the steps of the third section


def test_lost_segments_are_decoded_again(tmp_path: Path) -> None:
    journal = start(tmp_path, seconds=8.0)
    run(journal)
    expected = contents(tmp_path)
    (tmp_path / "out.mp4").unlink()
    journal.segments()[1].path.unlink()
    CountingDiT.calls = 0
    run(journal)
    assert contents(tmp_path) == expected
    assert CountingDiT.calls == 0


def test_noise_depends_on_seed_and_section(tmp_path: Path) -> None:
    latents = []
    wishes: list[dict[str, Any]] = [{"seed": 1}, {"seed": 2}, {"seed": 1, "noise": "sequential"}]
    for number, asked in enumerate(wishes):
        journal = start(tmp_path / str(number), **asked)
        run(journal)
        latents.append(load_latents(journal.section_path(0)).data)
    assert not torch.equal(latents[0], latents[1])
    assert not torch.equal(latents[0], latents[2])


def test_the_prompt_matters(tmp_path: Path) -> None:
    latents = []
    for prompt in ("left", "right"):
        journal = start(tmp_path / prompt, prompt=prompt)
        run(journal)
        latents.append(load_latents(journal.section_path(0)).data)
    assert not torch.equal(*latents)


def test_other_weights_or_code_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = start(tmp_path)
    events = opened(journal).run()
    next(e for e in events if isinstance(e, SectionDone))
    events.close()
    monkeypatch.setattr("recurvid.generation.fingerprint.__version__", "9.9")
    with pytest.raises(SessionError, match=r"version \(.* -> 9\.9\)"):
        run(journal)
    assert isinstance(run(journal, force=True)[-1], Finished)


def test_a_session_in_use_is_refused(tmp_path: Path) -> None:
    journal = start(tmp_path)
    events = opened(journal).run()
    next(events)
    with pytest.raises(SessionError, match="another process"):
        run(journal)
    events.close()
    assert isinstance(run(journal)[-1], Finished)


def test_a_damaged_section_says_what_to_do(tmp_path: Path) -> None:
    journal = start(tmp_path)
    run(journal)
    expected = contents(tmp_path)
    (tmp_path / "out.mp4").unlink()
    journal.segments()[0].path.unlink()
    path = journal.section_path(1)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(SessionError, match="delete it and resume"):
        run(journal)
    path.unlink()
    run(journal)
    assert contents(tmp_path) == expected


def test_an_existing_result_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_text("mine")
    journal = start(tmp_path)
    with pytest.raises(OutputError, match="exists already"):
        run(journal)
    assert CountingDiT.calls == 0
    assert (tmp_path / "out.mp4").read_text() == "mine"


def test_a_file_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    journal = start(tmp_path)
    events = opened(journal).run()
    next(e for e in events if isinstance(e, SectionDone))
    (tmp_path / "out.mp4").write_text("mine")
    with pytest.raises(OutputError, match="recurvid resume"):
        list(events)
    assert (tmp_path / "out.mp4").read_text() == "mine"
    (tmp_path / "out.mp4").unlink()
    CountingDiT.calls = 0
    assert isinstance(run(journal)[-1], Finished)
    assert CountingDiT.calls == 0


def test_an_impossible_output_fails_before_sampling(tmp_path: Path) -> None:
    for output in (str(tmp_path / "no/such/folder/out.mp4"), str(tmp_path / "out.mp4" / "x.mp4")):
        (tmp_path / "out.mp4").touch()
        journal = start(tmp_path / str(len(output)), output=output)
        with pytest.raises(OutputError):
            run(journal)
    assert CountingDiT.calls == 0


@pytest.mark.parametrize("name", ["clip.webm", "clip.gif", "frames/"])
def test_other_formats(tmp_path: Path, name: str) -> None:
    journal = start(tmp_path, output=f"{tmp_path}/{name}")
    finished = run(journal)[-1]
    assert isinstance(finished, Finished)
    if name == "frames/":
        assert len(list((tmp_path / "frames").glob("*.png"))) == 60
    else:
        assert len(list(read_frames(finished.video))) == 60
    metadata = read_metadata(finished.video)
    assert metadata is not None
    assert GenerationRequest.from_untrusted(metadata["request"]).prompt == "a walk"
    assert [type(event) for event in run(journal)] == [Planned, Finished]


def test_metadata_holds_the_request_and_no_path(tmp_path: Path) -> None:
    journal = start(tmp_path)
    run(journal)
    metadata = read_metadata(tmp_path / "out.mp4")
    assert metadata is not None
    request = GenerationRequest.from_untrusted(metadata["request"])
    assert request.steps == 2
    assert request.schedule == "f1k1_x_g9_f1k1f2k2f16k4_td"
    assert str(tmp_path).encode() not in (tmp_path / "out.mp4").read_bytes()
    assert b"picture" not in (tmp_path / "out.mp4").read_bytes()


def test_metadata_can_be_left_out(tmp_path: Path) -> None:
    run(start(tmp_path, metadata=False))
    assert read_metadata(tmp_path / "out.mp4") is None
    assert b"a walk" not in (tmp_path / "out.mp4").read_bytes()


def test_the_first_frame_comes_from_the_picture(tmp_path: Path) -> None:
    journal = start(tmp_path)
    run(journal)
    given = session_module.load_conditioning(journal.conditioning_path)[0]
    assert given.index.tolist() == [[0]]
    first = tiny_codec().decode(given.data)[0, :, 0].permute(1, 2, 0)
    written = torch.from_numpy(next(iter(read_frames(tmp_path / "out.mp4"))))
    error = (first.clamp(-1, 1) * 127.5 + 127.5 - written.float()).abs().mean()
    assert error < 4


def test_with_an_end_picture_nothing_is_trimmed(tmp_path: Path) -> None:
    journal = start(tmp_path, end=True, seconds=4.0)
    plan = planned(journal, tiny_components())
    assert plan.frames == 73
    assert plan.sections.given == (0, 19)
    run(journal)
    assert probe(tmp_path / "out.mp4").frames == 73
    without = start(tmp_path / "without", seconds=4.0)
    run(without)
    a, b = (load_latents(j.section_path(0)).data for j in (journal, without))
    assert not torch.equal(a, b)


def test_whole_sections_as_the_original(tmp_path: Path) -> None:
    journal = start(tmp_path, seconds=3.0, fps=30.0, whole_sections=True)
    assert planned(journal, tiny_components()).frames == 73


def test_forward_with_an_end_picture_is_refused(tmp_path: Path) -> None:
    journal = start(tmp_path, end=True, **F1)
    with pytest.raises(InputError, match="end picture"):
        planned(journal, tiny_components())


def test_nan_stops_with_a_reason(tmp_path: Path) -> None:
    session = opened(start(tmp_path))
    with torch.no_grad():
        session.components.backbone.proj_out.bias.fill_(float("nan"))  # type: ignore[attr-defined]
    with pytest.raises(NumericsError, match=r"section 1, step 1 of 2.*float32"):
        list(session.run())
    assert not list(session.journal.sections_folder.iterdir())


def test_an_error_while_encoding_leaves_no_half_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = start(tmp_path)
    monkeypatch.setattr(
        "recurvid.video.writer.SegmentWriter.close", lambda self: (_ for _ in ()).throw(OSError(28))
    )
    with pytest.raises(OSError, match="28"):
        run(journal)
    monkeypatch.undo()
    assert not journal.segments()
    run(journal)
    run(start(tmp_path / "other"))
    assert contents(tmp_path) == contents(tmp_path / "other")


def test_leftovers_of_killed_writers_are_swept(tmp_path: Path) -> None:
    journal = start(tmp_path)
    for folder in (journal.folder, journal.sections_folder, journal.video_folder):
        (folder / ".recurvid-abc.partial.mp4").write_bytes(b"x")
    run(journal)
    assert not list(journal.folder.rglob(".recurvid*"))
    assert durable.sweep(journal.folder) == []


@pytest.mark.parametrize("seconds", [3.0, 5.0, 6.0, 8.0, 9.0, 20.0])
@pytest.mark.parametrize("order", [{}, F1], ids=str)
def test_a_latent_is_decoded_at_most_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, order: dict[str, Any]
) -> None:
    decoded: list[torch.Tensor] = []
    step = DecoderRun.step

    def counted(self: DecoderRun, latent: torch.Tensor) -> torch.Tensor | None:
        decoded.append(latent)
        return step(self, latent)

    monkeypatch.setattr(DecoderRun, "step", counted)
    journal = start(tmp_path, seconds=seconds, steps=1, **order)
    events = run(journal, provisional=False)
    assert all(e.frames + e.provisional > 0 for e in events if isinstance(e, SectionDone))
    times = Counter(latent.numpy().tobytes() for latent in decoded)
    frames = LatentGeometry().latent_frames(round(seconds * 12))
    assert len(times) >= frames
    assert max(times.values()) <= 2
    if order:  # forward in time a causal decoder never looks back
        assert max(times.values()) == 1


@pytest.mark.parametrize("seconds", [3.0, 5.0, 9.0])
@pytest.mark.parametrize("order", [{}, F1], ids=str)
def test_hunyuans_vae_decodes_each_tile_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, order: dict[str, Any]
) -> None:
    tiles: list[torch.Tensor] = []
    decode = HunyuanCodec.decode_tile

    def counted(self: HunyuanCodec, latents: torch.Tensor) -> torch.Tensor:
        tiles.append(latents)
        return decode(self, latents)

    monkeypatch.setattr(HunyuanCodec, "decode_tile", counted)
    journal = start(tmp_path, seconds=seconds, steps=1, **order)
    components = tiny_components()
    codec = HunyuanCodec(tiny_hunyuan())
    components = replace(components, loaders=replace(components.loaders, codec=lambda: codec))
    plan = planned(journal, components)
    events = list(GenerationSession(journal, plan, components).run())
    assert len([e for e in events if isinstance(e, SectionDone)]) == len(plan.sections.sections)
    # Tiles of 5 latents at stride 3 over the whole timeline (paper.md, section 10).
    assert len(tiles) <= len(range(0, plan.sections.latent_frames, 3))
    assert len({tile.numpy().tobytes() for tile in tiles}) == len(tiles)
    frames = [frame for segment in journal.segments() for frame in segment.frames]
    assert len(frames) == len(set(frames))
    assert set(range(plan.frames)) <= set(frames)
