from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from clips import moving_frames, number_of, packets_of, stream_of

from recurvid.errors import ComponentError, OutputError
from recurvid.video import encoders
from recurvid.video.encoders import VideoSettings, exact_fps
from recurvid.video.reader import probe, read_frames
from recurvid.video.writer import SegmentWriter

NTSC = Fraction(30000, 1001)


def write(path, frames, settings, **kwargs):
    with SegmentWriter(path, settings, **kwargs) as writer:
        writer.write(frames)
    return path


def psnr(ours, theirs):
    return 10 * np.log10(255**2 / np.mean((ours.astype(float) - theirs.astype(float)) ** 2))


def test_frames_come_back_in_order(tmp_path, settings):
    with SegmentWriter(tmp_path / "a.mp4", settings) as writer:
        writer.write(moving_frames(0, 5))
        writer.write(moving_frames(5, 1))
        writer.write(moving_frames(6, 0))
        writer.write(moving_frames(6, 4))
        assert writer.frames == 10
        assert not (tmp_path / "a.mp4").exists()
    numbers = [number_of(frame) for frame in read_frames(tmp_path / "a.mp4")]
    assert numbers == pytest.approx(range(10), abs=0.5)
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_quality_follows_crf(tmp_path, settings):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    frames = small.repeat(8, axis=1).repeat(8, axis=2)
    sizes, qualities = [], []
    for crf in (4, 16, 40):
        path = write(tmp_path / f"{crf}.mp4", frames, replace(settings, crf=crf))
        sizes.append(path.stat().st_size)
        qualities.append(psnr(np.stack(list(read_frames(path))), frames))
    assert sizes == sorted(sizes, reverse=True)
    assert qualities == sorted(qualities, reverse=True)


def test_colours_survive_and_are_tagged(tmp_path):
    # Eight patches, decoded by swscale with the matrix that the tags name, not by our converter.
    patches = np.array(
        [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255),
         (0, 0, 0), (128, 128, 128), (230, 180, 150), (40, 90, 160)], np.uint8
    )  # fmt: skip
    frame = patches.reshape(2, 4, 3).repeat(32, axis=0).repeat(32, axis=1)
    path = write(tmp_path / "a.mp4", np.stack([frame] * 3), VideoSettings(Fraction(12), crf=4))
    with av.open(str(path)) as container:
        stream = stream_of(container)
        context = stream.codec_context
        tags = (context.color_primaries, context.color_trc, context.colorspace, context.color_range)
        assert [int(tag) for tag in tags] == [1, 1, 1, 1]
        assert context.pix_fmt == "yuv420p"
        assert context.name == "h264"
        decoded: Any = next(container.decode(stream))
    # ITU-R BT.709 in 8 bits, written out: red, green, blue and white as Y, Cb, Cr.
    planes = [np.frombuffer(p, np.uint8).reshape(p.height, p.line_size) for p in decoded.planes]
    for column, coded in enumerate(
        [(63, 102, 240), (173, 42, 26), (32, 240, 118), (235, 128, 128)]
    ):
        found = [int(planes[0][16, 16 + 32 * column])]
        found += [int(plane[8, 8 + 16 * column]) for plane in planes[1:]]
        assert np.abs(np.subtract(found, coded)).max() <= 2
    # swscale converts with the matrix that it is told; which of the two it reads changed between
    # versions, so that 5, the default, stands for the other.
    theirs = decoded.reformat(format="rgb24", src_colorspace=1, dst_colorspace=5).to_ndarray()
    ours = next(iter(read_frames(path)))
    for shown, tolerance in ((theirs, 5), (ours, 3)):
        centres = shown[16::32, 16::32].reshape(-1, 3).astype(int)
        assert np.abs(centres - patches).max() <= tolerance


def test_index_comes_before_the_pixels(tmp_path, settings):
    data = write(tmp_path / "a.mp4", moving_frames(0, 5), settings).read_bytes()
    assert data[4:8] == b"ftyp"
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    assert b"colrnclx\x00\x01\x00\x01\x00\x01\x00" in data
    assert b"elst" not in data


@pytest.mark.parametrize("fps", [12, 30, 29.97, NTSC, "24000/1001", Fraction(25, 2), 1])
def test_frame_rate_is_exact(tmp_path, settings, fps):
    path = write(tmp_path / "a.mp4", moving_frames(0, 7), replace(settings, fps=exact_fps(fps)))
    info = probe(path)
    expected: Any = {29.97: NTSC, "24000/1001": Fraction(24000, 1001)}.get(fps, fps)
    assert info.fps == expected
    assert info.frames == 7
    times = [packet.pts * packet.time_base for packet in packets_of(path)]
    assert times == [number / Fraction(expected) for number in range(7)]


@pytest.mark.parametrize(
    ("given", "exact"),
    [(29.97, NTSC), (59.94, Fraction(60000, 1001)), (23.976, Fraction(24000, 1001)),
     ("30", Fraction(30)), (12.5, Fraction(25, 2)), (NTSC, NTSC), (0.5, Fraction(1, 2))],
)  # fmt: skip
def test_exact_fps(given, exact):
    assert exact_fps(given) == exact


@pytest.mark.parametrize("fps", [0, -1, 1001, "x", float("nan"), float("inf"), "1/0"])
def test_bad_fps(fps):
    with pytest.raises(OutputError, match="fps"):
        exact_fps(fps)


@pytest.mark.parametrize("bad", [{"crf": -1}, {"crf": 52}, {"preset": "warp"}])
def test_bad_settings(bad):
    with pytest.raises(OutputError, match=next(iter(bad))):
        VideoSettings(Fraction(12), **bad)


CHILD = """
import sys, os
from fractions import Fraction
if sys.argv[2] == "one" and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import numpy as np
from recurvid.video.writer import SegmentWriter
from recurvid.video.encoders import VideoSettings
frames = np.random.default_rng(0).integers(0, 256, (12, 20, 20, 3), dtype=np.uint8)
with SegmentWriter(sys.argv[1], VideoSettings(Fraction(12))) as writer:
    writer.write(frames.repeat(16, axis=1).repeat(16, axis=2))
"""


def test_same_frames_same_bytes_on_any_number_of_cores(tmp_path):
    for name in ("one", "all"):
        subprocess.run([sys.executable, "-c", CHILD, str(tmp_path / name), name], check=True)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "all").read_bytes()
    # x264 writes its options into the stream: one thread, whatever the machine.
    assert b" threads=1 " in (tmp_path / "one").read_bytes()


def test_calls_do_not_matter_to_the_bytes(tmp_path, settings):
    frames = moving_frames(0, 9)
    whole = write(tmp_path / "a.mp4", frames, settings).read_bytes()
    with SegmentWriter(tmp_path / "b.mp4", settings) as writer:
        for start in range(0, 9, 2):
            writer.write(frames[start : start + 2])
    assert (tmp_path / "b.mp4").read_bytes() == whole


@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 48), (480, 16), (34, 50)])
def test_sizes(tmp_path, settings, height, width):
    frames = np.full((2, height, width, 3), 90, np.uint8)
    info = probe(write(tmp_path / "a.mp4", frames, settings))
    assert (info.height, info.width, info.frames) == (height, width, 2)


@pytest.mark.parametrize(("height", "width"), [(33, 32), (32, 33), (1, 1)])
def test_odd_sizes_are_refused(tmp_path, settings, height, width):
    with pytest.raises(OutputError, match="must be even"):
        write(tmp_path / "a.mp4", np.zeros((1, height, width, 3), np.uint8), settings)
    assert os.listdir(tmp_path) == []


def test_wrong_arrays_are_refused(tmp_path, settings):
    writer = SegmentWriter(tmp_path / "a.mp4", settings)
    for wrong in (np.zeros((2, 32, 32, 3)), np.zeros((32, 32, 3), np.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            writer.write(wrong)
    writer.write(np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="in a video of"):
        writer.write(np.zeros((1, 32, 64, 3), np.uint8))
    writer.abort()
    assert os.listdir(tmp_path) == []


def test_no_frames_is_an_error(tmp_path, settings):
    with pytest.raises(ValueError, match="no frames"):
        write(tmp_path / "a.mp4", moving_frames(0, 0), settings)
    assert os.listdir(tmp_path) == []


def broken_off(path, settings):
    with SegmentWriter(path, settings) as writer:
        writer.write(moving_frames(0, 3))
        raise KeyboardInterrupt


def test_an_error_leaves_the_old_file(tmp_path, settings):
    (tmp_path / "a.mp4").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        broken_off(tmp_path / "a.mp4", settings)
    assert (tmp_path / "a.mp4").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_a_missing_folder_is_an_output_error(tmp_path, settings):
    with pytest.raises(OutputError, match="cannot write"):
        write(tmp_path / "no" / "a.mp4", moving_frames(0, 1), settings)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_an_output_error(tmp_path, settings, monkeypatch):
    monkeypatch.setattr("recurvid.durable.beside_path", lambda path: tmp_path / "full")
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="cannot write"):
        write(tmp_path / "a.mp4", moving_frames(0, 30), settings)
    assert not (tmp_path / "a.mp4").exists()


def without(monkeypatch, *missing):
    have = encoders._available
    monkeypatch.setattr(encoders, "_available", lambda name: name not in missing and have(name))


def test_mpeg4_stands_in_for_a_missing_x264(tmp_path, settings, monkeypatch, caplog):
    without(monkeypatch, "libx264", "libopenh264")
    path = write(tmp_path / "a.mp4", moving_frames(0, 6), settings)
    assert "no libx264" in caplog.text
    assert encoders.encoder_note(encoders.mp4_encoder()) is not None
    info = probe(path)
    assert (info.codec, info.frames, info.fps) == ("mpeg4", 6, 12)
    assert [number_of(f) for f in read_frames(path)] == pytest.approx(range(6), abs=1)


def test_no_encoder_at_all(monkeypatch):
    without(monkeypatch, "libx264", "libopenh264", "mpeg4")
    with pytest.raises(ComponentError, match="cannot write mp4"):
        encoders.mp4_encoder()


def test_x264_needs_no_note():
    assert encoders.encoder_note(encoders.mp4_encoder()) is None
