"""Which video encoders this build of PyAV has, and with which options ours run.

All of them run on one thread: libx264 and libvpx give other bytes on another number of threads,
and the same frames must give the same file on every machine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from recurvid.errors import ComponentError, OutputError

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

_log = logging.getLogger(__name__)

PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow",
)  # fmt: skip


@dataclass(frozen=True)
class VideoSettings:
    """How frames become a file. All segments of one video share one of these.

    Attributes:
        fps: frames a second, from :func:`exact_fps`; ``Fraction(30000, 1001)`` for 29.97.
        crf: constant quality of libx264, 0 (no visible loss, large) to 51; 16 as in the original.
            Other encoders get the setting that looks about the same.
        preset: speed against size, libx264's names.
    """

    fps: Fraction
    crf: int = 16
    preset: str = "medium"

    def __post_init__(self) -> None:
        object.__setattr__(self, "fps", exact_fps(self.fps))
        if not 0 <= self.crf <= 51:
            raise OutputError(f"crf {self.crf}: must be between 0 (best) and 51")
        if self.preset not in PRESETS:
            raise OutputError(f"preset {self.preset!r}: must be one of {', '.join(PRESETS)}")


def exact_fps(fps: Fraction | float | int | str) -> Fraction:
    """Frames a second as a fraction: 29.97 and 23.976 become the NTSC rates that they stand for.

    Raises:
        OutputError: not a number, not positive, or above 1000.
    """
    try:
        exact = Fraction(fps)
    except (ValueError, TypeError, OverflowError, ZeroDivisionError):
        raise OutputError(f"fps {fps!r}: not a number of frames a second") from None
    if not 0 < exact <= 1000:
        raise OutputError(f"fps {fps}: must be above 0 and at most 1000")
    ntsc = Fraction(round(exact * 1001 / 1000) * 1000, 1001)
    if exact.denominator != 1 and abs(ntsc - exact) < Fraction(1, 500):
        return ntsc
    return exact.limit_denominator(1001)


@dataclass(frozen=True)
class Encoder:
    """One encoder: its name in FFmpeg and its options for given settings and size."""

    name: str
    options: Callable[[VideoSettings, int, int], dict[str, str]]


def _x264(settings: VideoSettings, height: int, width: int) -> dict[str, str]:
    # No B-frames: every packet's dts is its pts, so that segments of any length join without
    # edit lists, which not every player honours. It costs a few per cent of size.
    # No macroblock tree: at small sizes its assembly reads memory that nobody wrote, and one run in
    # ten gave other bytes for the same frames (64x48, x264 core 165; never with asm or mbtree off).
    return {"crf": str(settings.crf), "preset": settings.preset, "bf": "0", "mbtree": "0"}


def _openh264(settings: VideoSettings, height: int, width: int) -> dict[str, str]:
    qp = str(max(settings.crf, 1))
    return {"rc_mode": "off", "qmin": qp, "qmax": qp, "b": str(_bits(settings, height, width))}


def _mpeg4(settings: VideoSettings, height: int, width: int) -> dict[str, str]:
    # Quantiser 2 (best) to 31; libx264's 16 looks like about 3.
    quantiser = str(min(max(2, round(2 + (settings.crf - 12) / 4)), 31))
    bits = str(_bits(settings, height, width))
    return {"qmin": quantiser, "qmax": quantiser, "b": bits, "bf": "0"}


def _vp9(settings: VideoSettings, height: int, width: int) -> dict[str, str]:
    # libvpx-vp9's scale ends at 63; about 9 more looks like libx264's value.
    crf = min(settings.crf + 9, 63)
    return {"crf": str(crf), "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "0"}


def _bits(settings: VideoSettings, height: int, width: int) -> int:
    return max(int(height * width * settings.fps * 0.4), 100_000)


_H264 = Encoder("libx264", _x264)
_MP4_ENCODERS = (_H264, Encoder("libopenh264", _openh264), Encoder("mpeg4", _mpeg4))
_WEBM_ENCODERS = (Encoder("libvpx-vp9", _vp9),)


def mp4_encoder() -> Encoder:
    """The best encoder for mp4 in this build of PyAV; a poorer one than libx264 is logged.

    Raises:
        ComponentError: there is none.
    """
    encoder = _first(_MP4_ENCODERS, "mp4")
    if encoder is not _H264:
        _log.warning("%s", encoder_note(encoder))
    return encoder


def webm_encoder() -> Encoder:
    """libvpx-vp9.

    Raises:
        ComponentError: this build of PyAV lacks it.
    """
    return _first(_WEBM_ENCODERS, "webm")


def encoder_note(encoder: Encoder) -> str | None:
    """One line for the user when the encoder is a makeshift, or None."""
    if encoder.name in (_H264.name, "libvpx-vp9"):
        return None
    what = "plays in browsers" if encoder.name == "libopenh264" else "not every browser plays it"
    return (
        f"this build of PyAV has no libx264: writing with {encoder.name} ({what}); "
        "'pip install --force-reinstall av' brings libx264"
    )


def _first(encoders: Sequence[Encoder], kind: str) -> Encoder:
    for encoder in encoders:
        if _available(encoder.name):
            return encoder
    names = ", ".join(encoder.name for encoder in encoders)
    raise ComponentError(
        f"this build of PyAV cannot write {kind} (needs {names}): "
        "'pip install --force-reinstall av'"
    )


def _available(name: str) -> bool:
    import av
    from av.error import FFmpegError

    try:
        av.Codec(name, "w")
    except (ValueError, FFmpegError):
        return False
    return True


def add_video_stream(
    container: OutputContainer, encoder: Encoder, settings: VideoSettings, height: int, width: int
) -> VideoStream:
    """A stream in ``container`` with our colour tags, exact frame rate and fixed threads."""
    options = encoder.options(settings, height, width)
    stream: Any = container.add_stream(encoder.name, rate=settings.fps, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context = stream.codec_context
    context.time_base = 1 / settings.fps
    context.thread_count = 1
    # 1 is BT.709 in ISO/IEC 23091-2 for primaries, transfer and matrix, and FFmpeg's limited range.
    context.color_primaries = context.color_trc = context.colorspace = context.color_range = 1
    return stream
