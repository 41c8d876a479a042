"""A video file to frames, with the colours that its tags ask for."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from recurvid.errors import InputError
from recurvid.video.colour import yuv_to_rgb

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer

# What people hand in. Playlists and other formats that name further files or addresses stay out.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,matroska,webm,avi,gif,flv,mpegts,mpeg,asf,ogg,apng,"
    "webp_anim,h264,hevc,ivf,mxf"
)
_OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}


@dataclass(frozen=True)
class VideoInfo:
    """What a video file is.

    Attributes:
        frames: decoded frames, counted and not believed from the header.
        fps: average rate.
        height, width: pixels, as shown (rotation applied).
        codec: FFmpeg's name, "h264".
    """

    frames: int
    fps: Fraction
    height: int
    width: int
    codec: str

    @property
    def seconds(self) -> float:
        """Length."""
        return float(self.frames / self.fps)


def probe(path: str | Path) -> VideoInfo:
    """Describe a video; its packets are read, only its first frame is decoded.

    Raises:
        InputError: no such file, or not a video.
    """
    first = next(decoded(path), None)
    if first is None:
        raise InputError(f"video {str(path)!r}: has no pictures in it")
    turned = round(first.rotation / 90) % 2 == 1
    height, width = (first.width, first.height) if turned else (first.height, first.width)
    with _opened(path) as container:
        stream = container.streams.video[0]
        packets = [packet.duration or 0 for packet in container.demux(stream) if packet.size > 0]
        rate = Fraction(stream.average_rate or stream.base_rate or 1)
        rate = _true_rate(rate, packets, stream.time_base)
        return VideoInfo(len(packets), rate, height, width, stream.codec_context.name)


def _true_rate(rate: Fraction, durations: list[int], time_base: Fraction | None) -> Fraction:
    """The container's rate, unless the durations of its frames say otherwise (GIF: delays vary)."""
    total = sum(durations) * (time_base or Fraction(0))
    if not total or not all(durations):
        return rate
    counted = Fraction(len(durations)) / total
    return rate if abs(counted / rate - 1) < Fraction(1, 100) else counted


def read_frames(
    path: str | Path, start: int = 0, stop: int | None = None
) -> Generator[NDArray[np.uint8]]:
    """Yield frames ``start`` to ``stop`` (exclusive; None: all), each (h, w, 3) uint8 sRGB.

    One frame is in memory at a time. Frames before ``start`` are decoded and dropped. Rotated as
    the file says.

    Raises:
        InputError: no such file, not a video, or broken on the way.
    """
    for frame in islice(decoded(path), start, stop):
        yield to_rgb(frame)


def decoded(path: str | Path) -> Generator[VideoFrame]:
    """The frames of the first video stream as PyAV gives them, in the order they are shown.

    Raises:
        InputError: as :func:`read_frames`.
    """
    with _opened(path) as container:
        yield from container.decode(container.streams.video[0])


def to_rgb(frame: VideoFrame) -> NDArray[np.uint8]:
    """A decoded PyAV frame as (h, w, 3) uint8 sRGB, upright.

    Untagged frames are taken for BT.709 from 720 lines on and for BT.601 below, as players do.
    """
    matrix = int(frame.colorspace)
    if matrix not in (1, 4, 5, 6, 7, 9):
        matrix = 1 if frame.height >= 720 else 5
    name = frame.format.name
    if name.startswith(("yuv", "nv", "p0", "p2", "p4")):
        # swscale may change depth and sampling, never the matrix: its versions disagree on that.
        full_range = name.startswith("yuvj") or int(frame.color_range) == 2
        plain = frame if name in ("yuv420p", "yuvj420p") else frame.reformat(format="yuv444p")
        pixels = yuv_to_rgb(*_planes(plain), matrix=matrix, full_range=full_range)
    else:
        pixels = cast("NDArray[np.uint8]", frame.reformat(format="rgb24").to_ndarray())
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _planes(frame: VideoFrame) -> list[NDArray[np.uint8]]:
    """Y, Cb and Cr without the padding of their rows."""
    return [
        np.frombuffer(cast(Any, plane), np.uint8).reshape(plane.height, plane.line_size)[
            :, : plane.width
        ]
        for plane in frame.planes[:3]
    ]


@contextmanager
def _opened(path: str | Path) -> Generator[InputContainer]:
    import av
    from av.error import FFmpegError

    if not Path(path).is_file():
        what = "is not a regular file" if Path(path).exists() else "no such file"
        raise InputError(f"video {str(path)!r}: {what}")
    try:
        with av.open(str(path), options=_OPEN_OPTIONS) as container:
            if not container.streams.video:
                raise InputError(f"video {str(path)!r}: has no pictures in it")
            yield container
    except FFmpegError as error:
        reason = error.strerror or str(error)
        raise InputError(f"video {str(path)!r}: cannot be read ({reason})") from error
