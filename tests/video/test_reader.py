from __future__ import annotations

import shutil
import struct
import subprocess
from contextlib import suppress
from fractions import Fraction

import numpy as np
import pytest
from clips import moving_frames, number_of

from recurvid.errors import InputError
from recurvid.video.assembly import concatenate
from recurvid.video.reader import probe, read_frames

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


def test_probe(tmp_path, make_segments):
    concatenate(make_segments(5, 4), tmp_path / "a.mp4")
    info = probe(tmp_path / "a.mp4")
    assert (info.frames, info.fps, info.height, info.width) == (9, Fraction(12), 64, 96)
    assert info.codec == "h264"
    assert info.seconds == 0.75


@pytest.mark.parametrize(
    ("start", "stop", "numbers"),
    [
        (0, None, range(9)),
        (3, 5, (3, 4)),
        (8, None, (8,)),
        (9, None, ()),
        (4, 4, ()),
        (7, 99, (7, 8)),
    ],
)
def test_ranges(tmp_path, make_segments, start, stop, numbers):
    concatenate(make_segments(5, 4), tmp_path / "a.mp4")
    frames = list(read_frames(tmp_path / "a.mp4", start, stop))
    assert [number_of(frame) for frame in frames] == pytest.approx(list(numbers), abs=0.6)
    assert all(frame.shape == (64, 96, 3) and frame.dtype == np.uint8 for frame in frames)


def test_stopping_early_closes_the_file(tmp_path, make_segments):
    frames = read_frames(make_segments(5)[0])
    next(frames)
    frames.close()
    make_segments(5)


@pytest.mark.parametrize(
    "content", [None, b"", b"hello", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"]
)
def test_what_is_no_video_is_named(tmp_path, content):
    path = tmp_path / "x.mp4"
    if content is not None:
        path.write_bytes(content)
    for read in (probe, lambda path: list(read_frames(path))):
        with pytest.raises(InputError, match=r"x\.mp4") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_a_file_cut_short(tmp_path, make_segments):
    whole = make_segments(30)[0].read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    frames: list[np.ndarray] = []
    with suppress(InputError):
        frames.extend(read_frames(tmp_path / "cut.mp4"))
    assert 0 < len(frames) < 30


def test_lists_of_files_are_not_followed(tmp_path, make_segments):
    segment = make_segments(2)[0]
    path = tmp_path / "list.mp4"
    path.write_text(f"ffconcat version 1.0\nfile {segment.name}\n")
    with pytest.raises(InputError):
        list(read_frames(path))


# ISO/IEC 14496-12, 8.3.2: the transformation of a track, (a, b, u, c, d, v, x, y, w) in 16.16 and
# 2.30 fixed point; telephones write the first one for upright videos. Value: turns clockwise.
TURNS = {
    (0, 1, 0, -1, 0, 0, 0, 0, 16384): 1,
    (-1, 0, 0, 0, -1, 0, 0, 0, 16384): 2,
    (0, -1, 0, 1, 0, 0, 0, 0, 16384): 3,
    (1, 0, 0, 0, 1, 0, 0, 0, 16384): 0,
}


@pytest.mark.parametrize(("matrix", "clockwise"), TURNS.items())
def test_turned_videos_come_upright(tmp_path, make_segments, matrix, clockwise):
    source, turned = make_segments(2)[0], tmp_path / "turned.mp4"
    data = bytearray(source.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    data[start : start + 36] = struct.pack(">9i", *(value << 16 for value in matrix))
    turned.write_bytes(data)
    plain, upright = next(read_frames(source)), next(read_frames(turned))
    assert np.array_equal(upright, np.rot90(plain, -clockwise))
    assert (probe(turned).height, probe(turned).width) == upright.shape[:2]


@needs_ffmpeg
@pytest.mark.parametrize(
    ("pixels", "options"),
    [("yuv444p", []), ("yuvj420p", ["-color_range", "pc"]), ("yuv420p10le", []), ("gray", [])],
)
def test_other_pixel_formats(tmp_path, pixels, options):
    colour = (200, 90, 60)
    raw = np.full((3, 64, 96, 3), colour, np.uint8)
    path = tmp_path / "a.mkv"
    subprocess.run(
        ["ffmpeg", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "96x64",
         "-i", "-", "-c:v", "ffv1" if pixels != "yuvj420p" else "mjpeg", "-q:v", "1",
         "-pix_fmt", pixels, *options, path], input=raw.tobytes(), check=True,
    )  # fmt: skip
    frame = next(read_frames(path)).astype(int)
    expected = (120,) * 3 if pixels == "gray" else colour
    assert np.abs(frame[32, 48] - expected).max() <= 5


def test_the_clip_of_the_tests_knows_its_numbers():
    assert [number_of(frame) for frame in moving_frames(0, 60)] == list(range(60))


def test_a_gif_is_as_long_as_its_delays(tmp_path):
    """GIF delays are whole hundredths: 12 fps alternates between 8 and 9 of them."""
    from PIL import Image

    frames = [Image.new("RGB", (16, 16), (k * 3, 255 - k, k)) for k in range(72)]
    delays = [80 if k % 3 == 0 else 85 for k in range(72)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=delays)
    info = probe(tmp_path / "a.gif")
    shown = sum(delay // 10 for delay in delays) / 100
    assert info.frames == 72
    assert abs(info.seconds - shown) < 0.1
