"""The request inside the file: one JSON object, written with the video and read back.

It stands as ``{"recurvid": {...}}`` in the comment of mp4 and webm, in the comment extension of
a gif and in the text chunk ``Comment`` of a PNG, where common tools show it. What comes back out
of a file is data from a stranger: at most 1 MiB, JSON, an object, and nothing more is promised.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from recurvid.errors import InputError

LIMIT = 1 << 20
"""Most bytes of JSON that are embedded or read."""

_KEY = "recurvid"
_MAX_INDEX = 64 << 20


def embedded(metadata: Mapping[str, Any]) -> str:
    """The text that is written into a file.

    Raises:
        InputError: longer than 1 MiB.
        TypeError, ValueError: not JSON.
    """
    text = json.dumps({_KEY: metadata}, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    if len(text) > LIMIT:
        raise InputError(
            f"the request is {len(text)} bytes of JSON: at most {LIMIT} fit in a video"
        )
    return text


def read_metadata(path: str | Path) -> dict[str, Any] | None:
    """The object that :func:`embedded` put into a file; None for any other file.

    Takes mp4, webm, gif and PNG, whatever their names; for a folder, its first PNG. Of another
    program's comment, broken JSON, more than 1 MiB or a file that is no video comes None.

    Raises:
        InputError: there is no such file.
    """
    path = Path(path)
    if path.is_dir():
        path = min(path.glob("*.png"), default=path)
    if not path.is_file():
        what = "is not a regular file" if path.exists() else "no such file"
        raise InputError(f"{str(path)!r}: {what}", "upload.gone")
    from av.error import FFmpegError

    try:
        with path.open("rb") as file:
            text = _comment(path, file)
    except (FFmpegError, OSError, ValueError, LookupError, struct.error):
        return None
    return _parsed(text)


def _parsed(text: str | bytes | None) -> dict[str, Any] | None:
    if text is None or len(text) > LIMIT:
        return None
    try:
        outer = json.loads(text)
    except (ValueError, RecursionError):
        return None
    inner = outer.get(_KEY) if isinstance(outer, dict) else None
    return inner if isinstance(inner, dict) else None


def _comment(path: Path, file: BinaryIO) -> str | bytes | None:
    head = file.read(12)
    file.seek(0)
    if head[4:8] == b"ftyp":
        return _container_comment(path, "mp4") if _mp4_index_size(file) <= _MAX_INDEX else None
    if head.startswith(b"\x1aE\xdf\xa3"):
        return _container_comment(path, "matroska")
    if head.startswith((b"GIF87a", b"GIF89a")):
        return _gif_comment(file)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_comment(file)
    return None


def _container_comment(path: Path, container_format: str) -> str | None:
    import av

    # The format is named, not guessed: a playlist in disguise would make FFmpeg open other files.
    options = {"protocol_whitelist": "file"}
    with av.open(str(path), format=container_format, options=options) as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}
    return tags.get("comment")


def _mp4_index_size(file: BinaryIO) -> int:
    """Size of the ``moov`` box, which FFmpeg reads into memory whole (ISO/IEC 14496-12, 4.2)."""
    while True:
        header = file.read(8)
        if len(header) < 8:
            return 0
        size, kind = struct.unpack(">I4s", header)
        used = 8
        if size == 1:
            size, used = struct.unpack(">Q", file.read(8))[0], 16
        if kind == b"moov":
            return size if size else _MAX_INDEX + 1
        if size < used:
            return 0
        file.seek(size - used, 1)


def _gif_comment(file: BinaryIO) -> bytes | None:
    """The comment extensions before the first picture (GIF89a specification, sections 18-24)."""
    file.seek(10)
    flags = file.read(3)[0]
    if flags & 0x80:
        file.seek(3 << ((flags & 7) + 1), 1)
    while file.read(1) == b"\x21":
        label = file.read(1)
        parts = bytearray()
        while (length := file.read(1)) not in (b"", b"\x00"):
            parts += file.read(length[0])
            if len(parts) > LIMIT:
                return None
        if label == b"\xfe":
            return bytes(parts)
    return None


def gif_with_comment(plain: BinaryIO, target: BinaryIO, text: str | None) -> None:
    """Copy a gif; an ASCII text becomes a comment extension before its first picture."""
    if text is None:
        shutil.copyfileobj(plain, target)
        return
    head = plain.read(13)
    table = plain.read(3 << ((head[10] & 7) + 1)) if head[10] & 0x80 else b""
    target.write(b"GIF89a" + head[6:] + table + b"\x21\xfe")
    data = text.encode("ascii")
    for start in range(0, len(data), 255):
        part = data[start : start + 255]
        target.write(bytes((len(part),)) + part)
    target.write(b"\x00")
    shutil.copyfileobj(plain, target)


def _png_comment(file: BinaryIO) -> bytes | None:
    """The ``tEXt`` chunk ``Comment`` before the pixels (PNG specification, 11.3.3)."""
    file.seek(8)
    while len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        if kind == b"IDAT":
            return None
        if kind == b"tEXt" and length <= LIMIT + 8:
            key, _, text = file.read(length).partition(b"\x00")
            if key == b"Comment":
                return text
            file.seek(4, 1)
        else:
            file.seek(length + 4, 1)
    return None
