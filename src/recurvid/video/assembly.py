"""Segments to one video, by copying streams: nothing is encoded twice."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recurvid import durable
from recurvid.errors import OutputError, SessionError
from recurvid.video.metadata import embedded
from recurvid.video.writer import MP4_OPTIONS

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer

_AGAIN = "delete it and resume: it is made again"


def concatenate(
    segments: Sequence[Path], out: Path, *, metadata: Mapping[str, Any] | None = None
) -> int:
    """Join segments of one :class:`VideoSettings` and size, in the order given, into one mp4.

    Packets are copied; frame n of the whole is shown at n / fps, whatever the lengths of the
    segments. The file is written beside ``out``, synced and renamed.

    Args:
        segments: files of :class:`recurvid.video.writer.SegmentWriter`, in timeline order.
        out: the mp4 to write; replaced when it stands.
        metadata: a JSON object to embed, or None.

    Returns:
        The number of frames.

    Raises:
        SessionError: a segment is missing, broken, or was encoded with other parameters.
        OutputError: ``out`` cannot be written.
    """
    import av
    from av.error import FFmpegError

    if not segments:
        raise ValueError("no segments to join")
    try:
        with (
            durable.atomic_path(out) as beside,
            av.open(str(beside), "w", format="mp4", options=MP4_OPTIONS) as target,
        ):
            if metadata is not None:
                target.metadata["comment"] = embedded(metadata)
            return _copy(segments, target)
    except (FFmpegError, OSError) as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}") from error


def _copy(segments: Sequence[Path], target: OutputContainer) -> int:
    frames, stream, first = 0, None, None
    for segment in segments:
        with _open_segment(segment) as source:
            template: Any = source.streams.video[0]
            if stream is None or first is None:
                first = _parameters(template)
                stream = target.add_stream_from_template(template)
            elif _parameters(template) != first:
                raise SessionError(
                    f"{segment} was encoded differently from {segments[0]}: "
                    "remove the session's video folder and resume"
                )
            step, before = 1 / template.average_rate, frames
            for packet in _packets(segment, source, template):
                packet.stream = stream
                packet.time_base = step
                packet.pts = packet.dts = frames
                packet.duration = 1
                target.mux(packet)
                frames += 1
            if frames - before < template.frames:
                raise SessionError(f"segment {segment} ends too early; {_AGAIN}")
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
