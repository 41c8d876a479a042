from __future__ import annotations

import os
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from clips import moving_frames, number_of, stream_of
from PIL import Image, ImageSequence

from recurvid.errors import OutputError, SessionError
from recurvid.video.destination import destination
from recurvid.video.finish import finish
from recurvid.video.gif import write_gif
from recurvid.video.reader import probe, read_frames


@pytest.mark.parametrize("fps", [Fraction(12), Fraction(30000, 1001)])
def test_webm(tmp_path, settings, make_segments, fps):
    using = replace(settings, fps=fps)
    place = destination(tmp_path / "a.webm")
    assert finish(make_segments(5, 1, 6, using=using), place, using) == 12
    info = probe(place.path)
    assert (info.codec, info.frames, info.height, info.width) == ("vp9", 12, 64, 96)
    assert [number_of(f) for f in read_frames(place.path)] == pytest.approx(range(12), abs=1)
    with av.open(str(place.path)) as container:
        stream = stream_of(container)
        frames = list(container.decode(stream))
        times = [float(frame.pts * frame.time_base) for frame in frames]
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert int(frames[0].colorspace) == int(frames[0].color_range) == 1
    # Matroska counts in milliseconds.
    assert times == pytest.approx([n / fps for n in range(12)], abs=0.00051)


def test_gif(tmp_path, settings, make_segments):
    place = destination(tmp_path / "a.gif")
    assert finish(make_segments(7, 6), place, settings) == 13
    with Image.open(place.path) as image:
        assert getattr(image, "n_frames", 1) == 13
        assert image.info["loop"] == 0
        shown = [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]
        delays = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
    # 100 / 12 = 8.33 hundredths: no drift, the last frame as long as the others.
    assert delays == [80, 90, 80, 80, 90, 80, 80, 90, 80, 80, 90, 80, 80]
    assert [number_of(np.asarray(f)) for f in shown] == pytest.approx(range(13), abs=1)


@pytest.mark.parametrize(("fps", "kept"), [(50, 10), (60, 5), (120, 4)])
def test_gif_keeps_to_what_browsers_show(tmp_path, fps, kept):
    clip = moving_frames(0, 10)
    assert write_gif(lambda: iter(clip), tmp_path / "a.gif", Fraction(fps)) == 10
    with Image.open(tmp_path / "a.gif") as image:
        delays = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
    assert len(delays) == kept
    assert min(delays) >= 10
    assert sum(delays) in (round(10 * 100 / fps) * 10, round(10 * 100 / fps) * 10 + 20)


def test_gif_of_one_frame_and_of_none(tmp_path):
    clip = moving_frames(3, 1)
    write_gif(lambda: iter(clip), tmp_path / "a.gif", Fraction(12))
    assert [number_of(f) for f in read_frames(tmp_path / "a.gif")] == pytest.approx([3], abs=0.5)
    with pytest.raises(ValueError, match="no frames"):
        write_gif(lambda: iter(()), tmp_path / "b.gif", Fraction(12))
    assert os.listdir(tmp_path) == ["a.gif"]


def test_gif_has_one_palette_for_all(tmp_path):
    # The colours of the last frame are in the palette although the first frame lacks them.
    clip = np.zeros((4, 32, 32, 3), np.uint8)
    for number, colour in enumerate([(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)]):
        clip[number] = colour
    write_gif(lambda: iter(clip), tmp_path / "a.gif", Fraction(10))
    back = np.stack(list(read_frames(tmp_path / "a.gif")))
    assert np.abs(back.astype(int) - clip).max() <= 4


def test_png_frames(tmp_path, settings, make_segments):
    using = destination("x/").segment_settings(settings)
    place = destination(f"{tmp_path}/frames/")
    assert finish(make_segments(3, 4, using=using), place, settings) == 7
    names = sorted(os.listdir(tmp_path / "frames"))
    assert names == [f"{number:06}.png" for number in range(7)]
    for number, name in enumerate(names):
        with Image.open(tmp_path / "frames" / name) as image:
            error = np.asarray(image).astype(float) - moving_frames(number, 1)[0]
            assert image.mode == "RGB"
            assert np.sqrt((error[:, :40] ** 2).mean()) < 2


def test_png_frames_of_an_older_longer_video_go(tmp_path, settings, make_segments):
    place = destination(tmp_path / "f_%03d.png")
    for name in ("f_002.png", "f_009.png", "f_1000.png", "other.png", "f_9.png"):
        (tmp_path / name).write_text("old")
    finish(make_segments(3), place, settings)
    left = sorted(p.name for p in tmp_path.glob("*.png"))
    assert left == ["f_000.png", "f_001.png", "f_002.png", "f_9.png", "other.png"]
    assert (tmp_path / "f_002.png").read_bytes()[:4] == b"\x89PNG"


def test_mp4_is_copied(tmp_path, settings, make_segments):
    place = destination(tmp_path / "a.mp4")
    assert finish(make_segments(3, 4), place, settings) == 7
    assert probe(place.path).codec == "h264"


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "f/"])
def test_same_bytes_twice(tmp_path, settings, make_segments, name):
    segments, results = make_segments(4, 3), []
    for _ in range(2):
        place = destination(f"{tmp_path}/{name}")
        finish(segments, place, settings, metadata={"a": 1})
        file = place.frame_path(6) if place.kind == "png" else place.path
        results.append(file.read_bytes())
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "f/"])
def test_a_broken_segment_leaves_the_old_file(tmp_path, settings, make_segments, name):
    segments = make_segments(4)
    (tmp_path / "broken.mp4").write_bytes(segments[0].read_bytes()[:200])
    place = destination(f"{tmp_path}/{name}")
    if place.kind != "png":
        place.path.write_bytes(b"old")
    with pytest.raises((SessionError, ValueError)):
        finish([*segments, tmp_path / "broken.mp4"], place, settings)
    if place.kind != "png":
        assert place.path.read_bytes() == b"old"
    assert not [entry for entry in os.listdir(tmp_path) if entry.startswith(".")]


@pytest.mark.parametrize("name", ["no/a.mp4", "no/a.webm", "no/a.gif", "no/f/"])
def test_a_folder_that_went_away(tmp_path, settings, make_segments, name):
    with pytest.raises(OutputError, match="cannot write"):
        finish(make_segments(2), destination(f"{tmp_path}/{name}"), settings)
