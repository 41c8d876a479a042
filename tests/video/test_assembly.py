from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from fractions import Fraction

import av
import pytest
from clips import EVERY_CHECK, moving_frames, number_of, packets_of, stream_of
from hypothesis import given, settings
from hypothesis import strategies as st

from recurvid.errors import OutputError, SessionError
from recurvid.video.assembly import concatenate
from recurvid.video.encoders import VideoSettings
from recurvid.video.metadata import read_metadata
from recurvid.video.reader import probe, read_frames
from recurvid.video.writer import SegmentWriter

NTSC = Fraction(30000, 1001)


def assert_continuous(path, frames, fps):
    """Every frame there, at n / fps exactly, in packets, decoded, and by the header."""
    packets = packets_of(path)
    times = [packet.pts * packet.time_base for packet in packets]
    assert times == [number / Fraction(fps) for number in range(frames)]
    assert [packet.dts for packet in packets] == [packet.pts for packet in packets]
    assert {packet.duration * packet.time_base for packet in packets} == {1 / Fraction(fps)}
    with av.open(str(path)) as container:
        stream = stream_of(container)
        assert stream.frames == frames
        assert stream.start_time == 0
        assert stream.duration * stream.time_base == frames / Fraction(fps)
        assert stream.average_rate == fps
        shown = [frame.pts * frame.time_base for frame in container.decode(stream)]
    assert shown == times


@pytest.mark.parametrize("fps", [12, 30, NTSC])
@pytest.mark.parametrize("lengths", [(9,), (1, 1, 1), (36, 36, 9), (1, 33, 2, 5)])
def test_frames_and_times_are_whole(tmp_path, settings, make_segments, fps, lengths):
    using = replace(settings, fps=Fraction(fps))
    out = tmp_path / "out.mp4"
    assert concatenate(make_segments(*lengths, using=using), out) == sum(lengths)
    assert_continuous(out, sum(lengths), fps)
    numbers = [number_of(frame) for frame in read_frames(out)]
    assert numbers == pytest.approx([n % 80 for n in range(sum(lengths))], abs=0.6)
    data = out.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@settings(deadline=None, max_examples=15, suppress_health_check=EVERY_CHECK)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_any_lengths(tmp_path_factory, lengths):
    folder = tmp_path_factory.mktemp("any")
    using, first, segments = VideoSettings(Fraction(12), preset="ultrafast"), 0, []
    for number, length in enumerate(lengths):
        segments.append(folder / f"{number}.mp4")
        with SegmentWriter(segments[-1], using) as writer:
            writer.write(moving_frames(first, length, 32, 96))
        first += length
    assert concatenate(segments, folder / "out.mp4") == first
    assert_continuous(folder / "out.mp4", first, 12)


def test_packets_are_copied_not_encoded(tmp_path, make_segments):
    segments = make_segments(7, 5)
    concatenate(segments, tmp_path / "out.mp4")
    originals = [bytes(packet) for segment in segments for packet in packets_of(segment)]
    assert [bytes(packet) for packet in packets_of(tmp_path / "out.mp4")] == originals


def test_segments_may_come_from_the_end_to_the_start(tmp_path, make_segments):
    """Inverted order: the video so far grows at its front."""
    segments = make_segments(9, 9, 9)
    for number in (2, 1, 0):
        out = tmp_path / "so_far.mp4"
        frames = concatenate(segments[number:], out)
        assert frames == 9 * (3 - number)
        assert number_of(next(iter(read_frames(out)))) == pytest.approx(9 * number, abs=0.6)
    assert_continuous(out, 27, 12)


def test_default_settings_join_too(tmp_path):
    """The defaults have a lookahead and reorder nothing."""
    segments = []
    for number in range(3):
        segments.append(tmp_path / f"{number}.mp4")
        with SegmentWriter(segments[-1], VideoSettings(Fraction(30))) as writer:
            writer.write(moving_frames(9 * number, 9))
    concatenate(segments, tmp_path / "out.mp4")
    assert_continuous(tmp_path / "out.mp4", 27, 30)


def test_content_does_not_change_the_stream_parameters(tmp_path, settings):
    import numpy as np

    extradata = set()
    for number, level in enumerate((0, 255)):
        noise = np.random.default_rng(number).integers(0, level + 1, (4, 64, 64, 3))
        path = tmp_path / f"{number}.mp4"
        with SegmentWriter(path, settings) as writer:
            writer.write(noise.astype(np.uint8))
        with av.open(str(path)) as container:
            extradata.add(bytes(stream_of(container).codec_context.extradata))
    assert len(extradata) == 1


@pytest.mark.parametrize("change", [{"preset": "medium"}, {"fps": Fraction(30)}])
def test_other_parameters_are_refused(tmp_path, settings, make_segments, change):
    first = make_segments(3)
    shutil.move(first[0], tmp_path / "first.mp4")
    second = make_segments(3, using=replace(settings, **change))
    with pytest.raises(SessionError, match="encoded differently"):
        concatenate([tmp_path / "first.mp4", *second], tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_another_size_is_refused(tmp_path, make_segments):
    first = make_segments(3)
    shutil.move(first[0], tmp_path / "first.mp4")
    second = make_segments(3, height=32)
    with pytest.raises(SessionError, match="encoded differently"):
        concatenate([tmp_path / "first.mp4", *second], tmp_path / "out.mp4")


def test_a_missing_or_broken_segment_is_named(tmp_path, make_segments):
    segments = make_segments(3)
    for broken in (b"", b"not a video", segments[0].read_bytes()[:300]):
        (tmp_path / "broken.mp4").write_bytes(broken)
        with pytest.raises(SessionError, match=r"broken\.mp4"):
            concatenate([*segments, tmp_path / "broken.mp4"], tmp_path / "out.mp4")
    with pytest.raises(SessionError, match=r"gone\.mp4"):
        concatenate([tmp_path / "gone.mp4"], tmp_path / "out.mp4")
    assert sorted(os.listdir(tmp_path)) == ["broken.mp4", "segment0000.mp4"]


def test_no_segments(tmp_path):
    with pytest.raises(ValueError, match="no segments"):
        concatenate([], tmp_path / "out.mp4")


def test_a_missing_folder(tmp_path, make_segments):
    with pytest.raises(OutputError, match="cannot write"):
        concatenate(make_segments(2), tmp_path / "no" / "out.mp4")


def test_same_segments_same_bytes(tmp_path, make_segments):
    segments = make_segments(4, 4)
    for name in ("a.mp4", "b.mp4"):
        concatenate(segments, tmp_path / name, metadata={"prompt": "a"})
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_metadata_travels(tmp_path, make_segments):
    request = {"prompt": "„Zürich\n☃ \U0001f600\"'", "seconds": 5.0, "nested": {"a": [1, None]}}
    segments = make_segments(2)
    concatenate(segments, tmp_path / "out.mp4", metadata=request)
    assert read_metadata(tmp_path / "out.mp4") == request
    assert read_metadata(segments[0]) is None


def test_a_stand_in_codec_joins_as_well(tmp_path, settings, make_segments, monkeypatch):
    from recurvid.video import encoders

    monkeypatch.setattr(encoders, "_available", lambda name: name == "mpeg4")
    concatenate(make_segments(5, 4), tmp_path / "out.mp4")
    assert probe(tmp_path / "out.mp4").codec == "mpeg4"
    assert_continuous(tmp_path / "out.mp4", 9, 12)


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="ffmpeg's programs are not installed")
@pytest.mark.parametrize("lengths", [(36, 36, 9), (1, 1, 7), (1,)])
def test_ffmpeg_agrees(tmp_path, settings, make_segments, lengths):
    out = tmp_path / "out.mp4"
    concatenate(make_segments(*lengths, using=replace(settings, fps=NTSC)), out)
    entries = "stream=nb_read_frames,avg_frame_rate,r_frame_rate,color_space,color_range,pix_fmt"
    probed = subprocess.run(
        ["ffprobe", "-v", "error", "-count_frames", "-show_entries", entries, "-of", "json", out],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert probed.stderr == ""
    stream = json.loads(probed.stdout)["streams"][0]
    assert int(stream["nb_read_frames"]) == sum(lengths)
    assert stream["avg_frame_rate"] == "30000/1001"
    assert (stream["color_space"], stream["color_range"]) == ("bt709", "tv")
    assert stream["pix_fmt"] == "yuv420p"
    played = subprocess.run(
        ["ffmpeg", "-v", "warning", "-xerror", "-i", out, "-f", "null", "-"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert played.stderr == ""
