"""Where the result goes, and whether it can: asked in the first seconds, not after an hour."""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recurvid import durable
from recurvid.errors import OutputError
from recurvid.video.encoders import (
    Encoder,
    VideoSettings,
    add_video_stream,
    encoder_note,
    mp4_encoder,
    webm_encoder,
)
from recurvid.video.writer import check_even, video_frame

_KINDS = {".mp4": "mp4", ".webm": "webm", ".gif": "gif", ".png": "png"}
_FRAME_NUMBER = re.compile(r"%(0[1-9])?d")
_DEFAULT_PATTERN = "%06d.png"
_USE = "use .mp4, .webm, .gif, or FOLDER/ or NAME_%05d.png for PNG frames"


@dataclass(frozen=True)
class Destination:
    """A place for the finished video.

    Attributes:
        kind: "mp4", "webm", "gif" or "png" (numbered frames).
        path: absolute; of PNG frames a pattern such as ``frames/%06d.png``. ``str(path)`` given
            to :func:`destination` makes the same destination again.
    """

    kind: str
    path: Path

    def frame_path(self, frame: int) -> Path:
        """The file of one PNG frame, 0-based."""
        return self.path.with_name(_FRAME_NUMBER.sub(lambda form: form[0] % frame, self.path.name))

    def frames_there(self) -> list[Path]:
        """PNG frames of this pattern that stand on disk, as :meth:`frame_path` would name them."""
        before, after = re.split(_FRAME_NUMBER.pattern.replace("(", "(?:"), self.path.name)
        found: list[Path] = []
        for path in self.path.parent.glob("*") if self.path.parent.is_dir() else ():
            number = path.name[len(before) : len(path.name) - len(after)]
            digits = number.isascii() and number.isdigit() and len(number) < 10
            if digits and self.frame_path(int(number)) == path:
                found.append(path)
        return sorted(found)

    def segment_settings(self, settings: VideoSettings) -> VideoSettings:
        """Settings for the segments: nearly lossless where they are transcoded in the end."""
        return settings if self.kind == "mp4" else replace(settings, crf=min(settings.crf, 6))


def destination(output: str | Path) -> Destination:
    """Read what stands behind ``--out``: a file by its ending, PNG frames by pattern or folder.

    ``clip.mp4``, ``clip.webm``, ``clip.gif``; ``frames/shot_%05d.png``; a text that ends in a slash
    (``frames/``) is a folder for ``000000.png`` and so on. Nothing on disk is looked at.

    Raises:
        OutputError: no ending, an unknown one, or a PNG name without a place for the number.
    """
    text = str(output)
    name = f"output {text!r}"
    if not text.strip() or "\0" in text:
        raise OutputError(f"{name}: not a file name")
    path = Path(os.path.expanduser(text)).absolute()
    if text.endswith(("/", "\\")):
        path = path / _DEFAULT_PATTERN
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        what = f"ending {path.suffix!r} is not known" if path.suffix else "has no ending"
        raise OutputError(f"{name}: {what}; {_USE}")
    if kind == "png":
        numbers = _FRAME_NUMBER.findall(path.name)
        if len(numbers) != 1 or path.name.count("%") != 1:
            raise OutputError(f"{name}: PNG frames need one number in the name; {_USE}")
    return Destination(kind, path)


def check_output(
    output: str | Path,
    settings: VideoSettings,
    height: int,
    width: int,
    *,
    overwrite: bool = False,
) -> Destination:
    """Make sure, before anything is computed, that the result can be written.

    The file is created and removed again, and the encoders write one frame of the true size into
    memory. A file that stands there already is refused unless ``overwrite``: hours of somebody's
    work may be in it. Nothing is left on disk.

    Raises:
        OutputError: in one line, with what to do: unknown ending, no such folder, a file or folder
            in the way, not writable, a size that video cannot have.
        ComponentError: this build of PyAV has no encoder for it.
    """
    place = destination(output)
    name = f"output {str(output)!r}"
    try:
        if place.kind == "png":
            _check_frames(place, name, overwrite=overwrite)
        else:
            _check_file(place.path, name, overwrite=overwrite)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{name}: cannot be written ({reason}); choose another place") from error
    _check_encoders(place.kind, settings, height, width)
    return place


def output_note(place: Destination) -> str | None:
    """One line for the user about a makeshift encoder, or None."""
    return encoder_note(webm_encoder() if place.kind == "webm" else mp4_encoder())


def _check_file(path: Path, name: str, *, overwrite: bool) -> None:
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    _check_folder(target.parent, name)
    if target.is_dir():
        inside = Path(path.name) / f"video{path.suffix}"
        raise OutputError(f"{name}: a folder is in the way; name a file, for example {inside}")
    if not target.exists():
        target.open("xb").close()
        target.unlink()
        return
    if not target.is_file():
        raise OutputError(f"{name}: is not a regular file; choose another name")
    if not overwrite:
        raise OutputError(f"{name}: exists already; choose another name, or overwrite it")
    _check_beside(target)


def _check_frames(place: Destination, name: str, *, overwrite: bool) -> None:
    folder = place.path.parent
    if not folder.exists():
        _check_folder(folder.parent, name)
        folder.mkdir()
        folder.rmdir()
        return
    _check_folder(folder, name)
    there = place.frames_there()
    if there and not overwrite:
        raise OutputError(
            f"{name}: {len(there)} frames stand there already; choose another name, "
            "or overwrite them"
        )
    # "results/" is more often a folder for a video than one to be filled with loose pictures
    others = {path for path in folder.iterdir() if not _unseen(path.name)} - set(there)
    if place.path.name == _DEFAULT_PATTERN and others:
        raise OutputError(
            f"{name}: PNG frames go into a new or empty folder, and this one holds other files; "
            f"for a video name a file, for example {folder.name}/video.mp4"
        )
    _check_beside(place.frame_path(0))


def _unseen(name: str) -> bool:
    """Whether a file is nobody's: of a file manager, or left by a run that was killed."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini")


def _check_folder(folder: Path, name: str) -> None:
    if not folder.exists():
        raise OutputError(f"{name}: no such folder: {folder}; make it first")
    if not folder.is_dir():
        raise OutputError(f"{name}: {folder} is a file, not a folder")


def _check_beside(target: Path) -> None:
    """Write beside ``target`` as the real thing will, and take it back."""
    trial = durable.beside_path(target)
    trial.open("xb").close()
    trial.unlink()


def _check_encoders(kind: str, settings: VideoSettings, height: int, width: int) -> None:
    check_even(height, width)
    _try(mp4_encoder(), "mp4", settings, height, width)
    if kind == "webm":
        _try(webm_encoder(), "webm", settings, height, width)


def _try(
    encoder: Encoder, container: str, settings: VideoSettings, height: int, width: int
) -> None:
    import av
    from av.error import FFmpegError

    frame = video_frame(np.zeros((height, width, 3), np.uint8))
    frame.pts, frame.time_base = 0, 1 / settings.fps
    try:
        with av.open(io.BytesIO(), "w", format=container) as target:
            stream: Any = add_video_stream(target, encoder, settings, height, width)
            target.mux(stream.encode(frame))
            target.mux(stream.encode(None))
    except FFmpegError as error:
        raise OutputError(
            f"a video of {width}x{height} at {settings.fps} frames a second cannot be written "
            f"with {encoder.name} ({error.strerror})"
        ) from error
