"""Frames to a file: one segment, encoded once."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recurvid import durable
from recurvid.errors import OutputError
from recurvid.video.colour import rgb_to_yuv420
from recurvid.video.encoders import Encoder, VideoSettings, add_video_stream, mp4_encoder

if TYPE_CHECKING:
    from av import VideoFrame

MP4_OPTIONS = {"movflags": "+faststart", "use_editlist": "0"}


class SegmentWriter:
    """Write frames to an mp4 file, which exists, whole and synced, once :meth:`close` returns.

    Every writer with the same settings and size gives the same stream parameters, so that
    :func:`recurvid.video.assembly.concatenate` can join segments by copying; and the same frames
    give the same bytes. A context manager: leaving it with an error leaves no file.
    """

    def __init__(
        self, path: str | Path, settings: VideoSettings, *, encoder: Encoder | None = None
    ):
        self.path = Path(path)
        self.settings = settings
        self.frames = 0
        self._encoder = encoder or mp4_encoder()
        self._file = ExitStack()
        self._container: Any = None
        self._stream: Any = None
        self._size: tuple[int, ...] = ()

    def write(self, frames: NDArray[Any]) -> None:
        """Append frames: (t, h, w, 3) uint8 sRGB; h and w even and the same in every call.

        Raises:
            OutputError: a side is odd, or the file cannot be written.
        """
        from av.error import FFmpegError

        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
            raise ValueError(
                f"frames must be uint8 (t, h, w, 3), not {frames.dtype} {frames.shape}"
            )
        if len(frames) == 0:
            return
        try:
            if self._container is None:
                self._open(frames.shape[1], frames.shape[2])
            if frames.shape[1:3] != self._size:
                raise ValueError(f"frames of {frames.shape[1:3]} in a video of {self._size}")
            for frame in frames:
                self._encode(frame)
        except (FFmpegError, OSError) as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Finish the file: sync it and give it its name.

        Raises:
            OutputError: the disk is full or the folder is gone.
        """
        from av.error import FFmpegError

        if self._container is None:
            raise ValueError(f"no frames were written to {self.path}")
        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._container = None
            self._file.close()
        except (FFmpegError, OSError) as error:
            raise self._failed(error) from error

    def abort(self) -> None:
        """Drop what was written; no file is left."""
        container, self._container = self._container, None
        if container is not None:
            from av.error import FFmpegError

            with suppress(FFmpegError, OSError):
                container.close()
        reason = InterruptedError("aborted")
        self._file.__exit__(InterruptedError, reason, None)

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _open(self, height: int, width: int) -> None:
        import av

        check_even(height, width)
        beside = self._file.enter_context(durable.atomic_path(self.path))
        self._container = av.open(str(beside), "w", format="mp4", options=MP4_OPTIONS)
        self._stream = add_video_stream(
            self._container, self._encoder, self.settings, height, width
        )
        self._size = (height, width)

    def _encode(self, pixels: NDArray[np.uint8]) -> None:
        frame = video_frame(pixels)
        frame.pts = self.frames
        frame.time_base = 1 / self.settings.fps
        self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def _failed(self, error: Any) -> OutputError:
        self.abort()
        return OutputError(f"cannot write {self.path}: {error.strerror or error}")


def video_frame(pixels: NDArray[np.uint8]) -> VideoFrame:
    """One sRGB frame (h, w, 3) uint8 as a tagged ``yuv420p`` frame of PyAV."""
    import av

    frame = av.VideoFrame.from_ndarray(rgb_to_yuv420(pixels), format="yuv420p")
    # BT.709 matrix, limited range; the encoder reads the tags of its own context as well.
    frame.colorspace = frame.color_range = 1
    return frame


def check_even(height: int, width: int) -> None:
    """Refuse sizes that 4:2:0 video cannot have.

    Raises:
        OutputError: a side is odd or zero.
    """
    if height < 2 or width < 2 or height % 2 or width % 2:
        raise OutputError(f"a video of {width}x{height} cannot be written: both sides must be even")
