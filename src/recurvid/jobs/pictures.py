"""A stranger's picture to a file of ours."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from recurvid import durable
from recurvid.errors import InputError, PictureError
from recurvid.jobs.limits import Limits
from recurvid.video.pictures import MAX_PIXELS, load_picture


def keep_picture(given: bytes | Path, target: Path, limits: Limits, name: str) -> tuple[int, int]:
    """Decode a picture safely and keep its pixels, and nothing else of the file, as a PNG.

    The pixels are those that a session would read from the original, so the video is the same;
    what an upload may carry beside them (places, names, scripts) is gone.

    Args:
        given: the bytes of the file, or where it lies.
        target: written durably.
        name: of the field, for messages.

    Returns:
        (height, width).

    Raises:
        LimitError: too many bytes.
        PictureError: not a picture that can be read, or too many pixels; no path is named.
    """
    source = target.with_name(f"{target.stem}.upload")
    try:
        if isinstance(given, Path):
            source = given
            if not given.is_file():
                raise PictureError(f"{name}: no such file", "picture.none")
            limits.check_upload(given.stat().st_size, name)
        else:
            limits.check_upload(len(given), name)
            source.write_bytes(given)
        try:
            pixels = load_picture(source, max_pixels=min(limits.pixels, MAX_PIXELS))
        except PictureError as error:
            text = str(error).removeprefix(f"picture {str(source)!r}: ")
            raise PictureError(f"{name}: {text}", error.line.key, **error.line.values) from None
        with durable.atomic_path(target) as beside, os.fdopen(_new(beside), "wb") as file:
            Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
        return pixels.shape[0], pixels.shape[1]
    except (ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise PictureError(f"{name}: cannot be read", "picture.unknown") from None
    finally:
        if not isinstance(given, Path):
            source.unlink(missing_ok=True)


def _new(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
