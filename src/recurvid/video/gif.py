"""Animated gifs: one palette for the whole video, so that it does not flicker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from recurvid import durable
from recurvid.video.metadata import gif_with_comment

Frames = Callable[[], Iterable[NDArray[np.uint8]]]

# Browsers slow down gifs with less than two hundredths of a second a frame.
_MAX_FPS = 50
_CLOCK = Fraction(1, 100)


def write_gif(frames: Frames, path: Path, fps: Fraction, comment: str | None = None) -> int:
    """Write a gif that loops, through FFmpeg's palettegen and paletteuse.

    Times are hundredths of a second, rounded without drift. Above 50 frames a second only every
    second (third, ...) frame is kept.

    Args:
        frames: gives the frames, (h, w, 3) uint8 each, afresh at every call; called twice.
        path: written beside and renamed.
        fps: frames a second.
        comment: ASCII text for a comment extension, or None.

    Returns:
        The number of frames given, those left out included.

    Raises:
        OSError: it cannot be written.
    """
    step = -(-fps // _MAX_FPS)
    palette, total = _palette(frames(), step)
    shown = range(0, total, step)
    ticks = [round(frame * 100 / fps) for frame in shown]
    # The last frame may stand for fewer than the others, but not for no time at all.
    ticks.append(max(round(total * 100 / fps), ticks[-1] + 2))
    with durable.atomic_path(path) as beside:
        plain = durable.beside_path(path)
        try:
            _encode(islice(frames(), 0, None, step), plain, palette, ticks)
            with plain.open("rb") as source, beside.open("wb") as target:
                gif_with_comment(source, target, comment)
        finally:
            plain.unlink(missing_ok=True)
    return total


def _palette(frames: Iterable[NDArray[np.uint8]], step: int) -> tuple[Any, int]:
    """The palette as a frame of 16 x 16 pixels, and the number of frames given."""
    from av.filter import Graph

    graph: Any = Graph()
    source: Any = None
    sink: Any = graph.add("buffersink")
    total = 0
    for total, pixels in enumerate(frames, start=1):
        if source is None:
            source = _buffer(graph, pixels.shape[0], pixels.shape[1], "rgb24")
            _chain(source, graph.add("palettegen", "stats_mode=full:reserve_transparent=0"), sink)
            graph.configure()
        if (total - 1) % step == 0:
            source.push(_rgb_frame(pixels, total))
    if source is None:
        raise ValueError("no frames for a gif")
    source.push(None)
    return sink.pull(), total


def _encode(
    frames: Iterable[NDArray[np.uint8]], path: Path, palette: Any, ticks: Sequence[int]
) -> None:
    import av

    options = {"loop": "0", "final_delay": str(ticks[-1] - ticks[-2])}
    paint: _Painter | None = None
    with av.open(str(path), "w", format="gif", options=options) as target:
        stream: Any = target.add_stream("gif", rate=100)
        stream.pix_fmt, stream.codec_context.time_base = "pal8", _CLOCK
        for pixels, tick in zip(frames, ticks, strict=False):
            if paint is None:
                stream.height, stream.width = pixels.shape[:2]
                paint = _Painter(palette, stream.height, stream.width)
            for painted in paint(_rgb_frame(pixels, tick)):
                target.mux(stream.encode(painted))
        for painted in paint(None) if paint else ():
            target.mux(stream.encode(painted))
        target.mux(stream.encode(None))


class _Painter:
    """FFmpeg's paletteuse: frames in, frames in the palette's colours out."""

    def __init__(self, palette: Any, height: int, width: int):
        from av.filter import Graph

        # Kept: PyAV's filters do not keep their graph alive.
        self._graph = graph = cast(Any, Graph())
        self._source = _buffer(graph, height, width, "rgb24")
        colours = _buffer(graph, palette.height, palette.width, palette.format.name)
        self._sink = graph.add("buffersink")
        use = graph.add("paletteuse", "dither=sierra2_4a:diff_mode=rectangle")
        _chain(self._source, use, self._sink)
        colours.link_to(use, 0, 1)
        graph.configure()
        palette.pts, palette.time_base = 0, _CLOCK
        colours.push(palette)
        colours.push(None)

    def __call__(self, frame: Any) -> Iterator[Any]:
        from av.error import BlockingIOError, EOFError

        self._source.push(frame)
        while True:
            try:
                painted = self._sink.pull()
            except (BlockingIOError, EOFError):
                return
            painted.time_base = _CLOCK
            yield painted


def _chain(source: Any, middle: Any, sink: Any) -> None:
    source.link_to(middle, 0, 0)
    middle.link_to(sink)


def _buffer(graph: Any, height: int, width: int, pixel_format: str) -> Any:
    import av

    form = av.VideoFormat(pixel_format, width, height)
    return graph.add_buffer(width=width, height=height, format=form, time_base=_CLOCK)


def _rgb_frame(pixels: NDArray[np.uint8], tick: int) -> Any:
    import av

    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    frame.pts, frame.time_base = tick, _CLOCK
    return frame
