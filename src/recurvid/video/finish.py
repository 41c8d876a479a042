"""Finished segments to the file that was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, PngImagePlugin

from recurvid import durable
from recurvid.errors import OutputError
from recurvid.video.assembly import concatenate
from recurvid.video.destination import Destination
from recurvid.video.encoders import VideoSettings, add_video_stream, webm_encoder
from recurvid.video.gif import write_gif
from recurvid.video.metadata import embedded
from recurvid.video.reader import decoded, to_rgb

if TYPE_CHECKING:
    from av import VideoFrame


# Without it Matroska files carry random numbers.
_NO_RANDOM_UID = {"fflags": "+bitexact"}


def finish(
    segments: Sequence[Path],
    place: Destination,
    settings: VideoSettings,
    *,
    metadata: Mapping[str, Any] | None = None,
) -> int:
    """Write the whole video: mp4 by copying streams, the others transcoded from the segments.

    What stands at ``place`` is replaced; of PNG frames, later ones of a longer video are removed.

    Args:
        segments: in timeline order.
        place: from :func:`recurvid.video.destination.check_output`.
        settings: of the video; segments may be better (``place.segment_settings``).
        metadata: a JSON object to embed, or None.

    Returns:
        The number of frames.

    Raises:
        OutputError: it cannot be written.
        SessionError, InputError: a segment cannot be read.
    """
    if place.kind == "mp4":
        return concatenate(segments, place.path, metadata=metadata)
    write = {"webm": _webm, "gif": _gif, "png": _png}[place.kind]
    comment = None if metadata is None else embedded(metadata)
    from av.error import FFmpegError

    try:
        return write(segments, place, settings, comment)
    except (FFmpegError, OSError) as error:
        raise OutputError(f"cannot write {place.path}: {error.strerror or error}") from error


def _frames(segments: Sequence[Path]) -> Iterator[VideoFrame]:
    for segment in segments:
        yield from decoded(segment)


def _webm(
    segments: Sequence[Path], place: Destination, settings: VideoSettings, comment: str | None
) -> int:
    import av

    count, stream = 0, None
    with (
        durable.atomic_path(place.path) as beside,
        av.open(str(beside), "w", format="webm", options=_NO_RANDOM_UID) as target,
    ):
        if comment is not None:
            target.metadata["comment"] = comment
        for frame in _frames(segments):
            if stream is None:
                size = frame.height, frame.width
                stream = add_video_stream(target, webm_encoder(), settings, *size)
            frame.pts, frame.time_base = count, 1 / settings.fps
            frame.pict_type = 0  # the encoder chooses its own key frames
            target.mux(stream.encode(frame))
            count += 1
        if stream is not None:
            target.mux(stream.encode(None))
    return count


def _png(
    segments: Sequence[Path], place: Destination, settings: VideoSettings, comment: str | None
) -> int:
    text = PngImagePlugin.PngInfo()
    if comment is not None:
        text.add_text("Comment", comment)
    place.path.parent.mkdir(exist_ok=True)
    count = 0
    for frame in _frames(segments):
        with durable.atomic_path(place.frame_path(count)) as beside:
            Image.fromarray(to_rgb(frame)).save(beside, format="PNG", pnginfo=text)
        count += 1
    written = {place.frame_path(frame) for frame in range(count)}
    for path in place.frames_there():
        if path not in written:
            path.unlink()
    return count


def _gif(
    segments: Sequence[Path], place: Destination, settings: VideoSettings, comment: str | None
) -> int:
    return write_gif(
        lambda: (to_rgb(frame) for frame in _frames(segments)), place.path, settings.fps, comment
    )
