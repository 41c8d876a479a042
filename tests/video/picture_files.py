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


def ink_profile() -> bytes:
    """A CMYK profile by hand (ICC.1:2001, 6.1 and 6.5.8) for an odd press: its cyan ink is red.

    One lut8 table from ink to L*a*b* with two grid points an ink: paper is white, cyan alone
    (53, 80, 67), which is red in sRGB, everything else black.
    """
    nodes = bytearray()
    for node in range(16):  # cyan varies slowest, black fastest
        lab = {0: (100, 0, 0), 8: (53, 80, 67)}.get(node, (0, 0, 0))
        nodes += bytes((round(lab[0] * 2.55), lab[1] + 128, lab[2] + 128))
    straight = bytes(range(256))
    identity = struct.pack(">9i", *(65536 if at % 4 == 0 else 0 for at in range(9)))
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + straight * 4 + nodes + straight * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    tags, at = [(b"wtpt", white), (b"A2B0", lut)], 128 + 4 + 2 * 12
    table, body = struct.pack(">I", 2), b""
    for name, data in tags:
        table += struct.pack(">4sII", name, at + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    header = struct.pack(
        ">I4sI4s4s4s12x4s4sI4s4s8xI3i48x",
        at + len(body), b"test", 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp", b"APPL", 0,
        b"test", b"test", 0, 63190, 65536, 54061,
    )  # fmt: skip
    return header + table + body
