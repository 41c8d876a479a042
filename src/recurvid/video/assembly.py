"""Segments to one video, by copying streams: nothing is encoded twice."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recurvid import durable
from recurvid.errors import OutputError, SessionError
from recurvid.video.metadata import embedded
from recurvid.video.writer import MP4_OPTIONS

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer

_AGAIN = "delete it and resume: it is made again"


@dataclass(frozen=True)
class Part:
    """What is taken of a file.

    Attributes:
        packets: which; the first has to be a key frame. None for all.
    """

    path: Path
    packets: range | None = None


def concatenate(
    segments: Sequence[Path | Part], out: Path, *, metadata: Mapping[str, Any] | None = None
) -> int:
    """Join segments of one :class:`VideoSettings` and size, in the order given, into one mp4.

    Packets are copied; frame n of the whole is shown at n / fps, whatever the lengths of the
    segments. The file is written beside ``out``, synced and renamed.

    Args:
        segments: files of :class:`recurvid.video.writer.SegmentWriter`, or parts of them or of
            files made here, in timeline order.
        out: the mp4 to write; replaced when it stands. It may be one of the segments.
        metadata: a JSON object to embed, or None.

    Returns:
        The number of frames.

    Raises:
        SessionError: a segment is missing, broken, or was encoded with other parameters.
        OutputError: ``out`` cannot be written.
    """
    import av
    from av.error import FFmpegError

    parts = [part if isinstance(part, Part) else Part(part) for part in segments]
    if not parts:
        raise ValueError("no segments to join")
    try:
        with (
            durable.atomic_path(out) as beside,
            av.open(str(beside), "w", format="mp4", options=MP4_OPTIONS) as target,
        ):
            if metadata is not None:
                target.metadata["comment"] = embedded(metadata)
            return _copy(parts, target)
    except (FFmpegError, OSError) as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}") from error


def _copy(parts: Sequence[Part], target: OutputContainer) -> int:
    frames, stream, first = 0, None, None
    for part in parts:
        with _open_segment(part.path) as source:
            template: Any = source.streams.video[0]
            if stream is None or first is None:
                first = _parameters(template)
                stream = target.add_stream_from_template(template)
            elif _parameters(template) != first:
                raise SessionError(
                    f"{part.path} was encoded differently from {parts[0].path}: "
                    "remove the session's video folder and resume"
                )
            wanted = range(template.frames) if part.packets is None else part.packets
            stop = None if part.packets is None else wanted.stop
            step, before = 1 / template.average_rate, frames
            for packet in islice(_packets(part.path, source, template), wanted.start, stop):
                packet.stream = stream
                packet.time_base = step
                packet.pts = packet.dts = frames
                packet.duration = 1
                target.mux(packet)
                frames += 1
            if frames - before < len(wanted):
                raise SessionError(f"segment {part.path} ends too early; {_AGAIN}")
    return frames


def _packets(segment: Path, source: InputContainer, stream: Any) -> Generator[Any]:
    """Packets up to the first that the end of a truncated file cuts off."""
    from av.error import FFmpegError

    try:
        for packet in source.demux(stream):
            if packet.is_corrupt:
                return
            if packet.size:
                yield packet
    except FFmpegError as error:
        raise SessionError(f"segment {segment} is damaged ({error.strerror}); {_AGAIN}") from None


def _open_segment(path: Path) -> InputContainer:
    import av
    from av.error import FFmpegError

    if path.exists() and not path.is_file():  # a named pipe would block for good
        raise SessionError(f"segment {path} is not a regular file; {_AGAIN}")
    try:
        container = av.open(str(path), format="mp4", options={"protocol_whitelist": "file"})
    except (FFmpegError, OSError) as error:
        reason = error.strerror or error
        raise SessionError(f"segment {path} cannot be read ({reason}); {_AGAIN}") from error
    if not container.streams.video:
        container.close()
        raise SessionError(f"segment {path} holds no video; {_AGAIN}")
    return container


def _parameters(stream: Any) -> tuple[Any, ...]:
    """What must be equal for packets of two files to share one stream."""
    context = stream.codec_context
    return (
        context.name,
        context.width,
        context.height,
        context.pix_fmt,
        stream.average_rate,
        bytes(context.extradata or b""),
    )
