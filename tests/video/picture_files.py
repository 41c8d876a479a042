"""Picture files of every kind, each showing the same four colours."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

# Top left, top right, bottom left, bottom right.
COLOURS = np.array([[(220, 40, 40), (40, 180, 60)], [(50, 70, 210), (235, 225, 70)]], np.uint8)


def four(height: int = 24, width: int = 36) -> np.ndarray:
    return COLOURS.repeat(height // 2, axis=0).repeat(width // 2, axis=1)


def corners(picture: np.ndarray) -> np.ndarray:
    """The colours in the middle of the four quarters, (2, 2, 3) int."""
    height, width = picture.shape[:2]
    rows, columns = [height // 4, height * 3 // 4], [width // 4, width * 3 // 4]
    return picture[np.ix_(rows, columns)].astype(int)


def png(
    width: int, height: int, *, depth: int, kind: int, rows: bytes, extra: bytes = b""
) -> bytes:
    """A PNG by hand (PNG specification): ``rows`` are unfiltered scanlines, ``extra`` chunks."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    step = len(rows) // height
    lines = b"".join(b"\x00" + rows[at : at + step] for at in range(0, len(rows), step))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(lines, 1))
        + chunk(b"IEND", b"")
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def saved(image: Image.Image, path: Path, form: str, **options: object) -> Path:
    image.save(path, form, **options)
    return path


def swapped_profile() -> bytes:
    """An RGB profile in which red and green have changed places: its use cannot be overlooked.

    Made from sRGB's by exchanging the offsets of rXYZ and gXYZ in the tag table.
    """
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = data.index(b"rXYZ"), data.index(b"gXYZ")
    data[red : red + 4], data[green : green + 4] = data[green : green + 4], data[red : red + 4]
    # Not called sRGB any more; the text may be 8 bit or UTF-16.
    return bytes(data).replace(b"s\0R\0G\0B", b"t\0R\0G\0B").replace(b"sRGB", b"tRGB")


def bytes_of(image: Image.Image, form: str, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, form, **options)
    return data.getvalue()
