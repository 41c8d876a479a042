"""Any picture file to upright sRGB pixels."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from recurvid.errors import PictureError
from recurvid.video.pixel_formats import simplified, to_srgb

MAX_PIXELS = 178_000_000
"""The largest picture that is opened; a decoder needs up to four bytes a pixel."""

REDUCED_ABOVE = 32_000_000
"""Pictures above this are averaged down by a whole factor right after decoding."""

# Only formats that are pixels: Pillow would hand EPS and PDF to Ghostscript.
_FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "GIF",
    "AVIF",
    "TIFF",
    "BMP",
    "DIB",
    "PPM",
    "JPEG2000",
    "TGA",
    "QOI",
)
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's parsers raise on hostile bytes, besides its own errors.
_BROKEN = (
    OSError, ValueError, SyntaxError, EOFError, struct.error, LookupError, TypeError,
    ArithmeticError, AttributeError, AssertionError, RuntimeError, NotImplementedError,
)  # fmt: skip


def load_picture(path: str | Path, *, max_pixels: int | None = None) -> NDArray[np.uint8]:
    """Read a picture as a person sees it.

    Rotated as its EXIF says; embedded ICC profiles (CMYK, Display P3, ...) converted to sRGB;
    transparency laid over white; 16-bit and floating point greys brought to 8 bits; of an
    animation or a multi-page file the first picture. A picture above 32 megapixels comes back
    averaged down by a whole factor.

    Args:
        path: PNG, JPEG, WebP, GIF, AVIF, TIFF, BMP, PPM, JPEG 2000, TGA, QOI; HEIC where
            pillow-heif is installed. What the bytes are counts, not the name.
        max_pixels: a picture above this is refused before it is decoded; at most MAX_PIXELS,
            which None stands for.

    Returns:
        (h, w, 3) uint8, sRGB, writable.

    Raises:
        PictureError: in one line, naming the file and what to do: missing, a folder, empty, not a
            picture, a video, broken or cut short, of an unread kind, too many pixels.
    """
    path = Path(path)
    name = f"picture {str(path)!r}"
    head = _head(path, name)
    most = MAX_PIXELS if max_pixels is None else min(max_pixels, MAX_PIXELS)
    with _explained(name, most), _quiet(), _open(path, head, name, most) as image:
        if image.width * image.height > most:
            raise _too_large(name, image.width, image.height, most)
        if image.format in ("JPEG", "MPO"):
            _draft(image)
        image.load()
        turn = _ORIENTATIONS.get(_orientation(image))
        pixels = to_srgb(_reduced(simplified(image)))
        return np.array(pixels if turn is None else pixels.transpose(turn))


def _head(path: Path, name: str) -> bytes:
    """The first bytes, once it is clear that there is a file of pixels to open."""
    try:
        if path.is_dir():
            raise PictureError(f"{name}: is a folder; name a picture file in it", "picture.none")
        if not path.exists():
            raise PictureError(f"{name}: no such file", "picture.none")
        if not path.is_file():
            raise PictureError(f"{name}: is not a regular file", "picture.none")
        with path.open("rb") as file:
            head = file.read(64)
    except PictureError:  # a ValueError too
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PictureError(f"{name}: cannot be opened ({reason})", "picture.none") from error
    if not head:
        raise PictureError(f"{name}: is empty (0 bytes)", "picture.empty")
    if _is_video(head):
        raise PictureError(
            f"{name}: is a video; give one picture, for example a frame of it", "picture.video"
        )
    return head


def _is_video(head: bytes) -> bool:
    if head[4:8] == b"ftyp":
        return not _brands(head) & {*_HEIF_BRANDS, *_AVIF_BRANDS}
    riff = head[:4] == b"RIFF" and head[8:12] == b"AVI "
    signs = (b"\x1aE\xdf\xa3", b"FLV\x01", b"OggS", b"\x00\x00\x01\xba", b"0&\xb2u\x8ef\xcf\x11")
    return riff or head.startswith(signs) or head[4:8] in (b"moov", b"mdat", b"wide")


def _brands(head: bytes) -> set[bytes]:
    size = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[at : at + 4] for at in range(16, size, 4))}


def _open(path: Path, head: bytes, name: str, most: int) -> Image.Image:
    if head[4:8] == b"ftyp" and not _brands(head) & {*_AVIF_BRANDS}:
        return _open_heif(path, name, most)
    return Image.open(path, formats=_FORMATS)


def _open_heif(path: Path, name: str, most: int) -> Image.Image:
    try:
        import pillow_heif
    except ImportError:
        raise PictureError(
            f"{name}: HEIC needs 'pip install pillow-heif'; or save it as JPEG or PNG",
            "picture.heic",
        ) from None
    heif = pillow_heif.open_heif(path, convert_hdr_to_8bit=True)
    width, height = heif.size
    if width * height > most:
        raise _too_large(name, width, height, most)
    return heif.to_pillow()


def _draft(image: Image.Image) -> None:
    """Let the JPEG decoder itself halve, as long as more than enough pixels remain."""
    factor = 1
    while image.width * image.height > REDUCED_ABOVE * factor * factor and factor < 8:
        factor *= 2
    if factor > 1:
        image.draft(None, (-(-image.width // factor), -(-image.height // factor)))


def _reduced(image: Image.Image) -> Image.Image:
    factor = 1
    while image.width * image.height > REDUCED_ABOVE * factor * factor:
        factor += 1
    if factor == 1:
        return image
    smaller = image.reduce((min(factor, image.width), min(factor, image.height)))
    smaller.info = image.info
    return smaller


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 where there is none or it is broken. TIFFs are upright once loaded."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _BROKEN:
        return 1


@contextmanager
def _quiet() -> Generator[None]:
    """Without the decoder's warnings: what matters of them is an error here or does not matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _explained(name: str, most: int) -> Generator[None]:
    """Whatever a decoder raises as one line.

    Args:
        most: pixels that are taken. Pillow's own line, above all of ours, knows nothing of it.
    """
    try:
        yield
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(
            f"{name}: not a picture that can be read; save it as PNG or JPEG", "picture.unknown"
        ) from error
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"{name}: above {most / 1e6:g} megapixels; make it smaller first",
            "picture.huge",
            most=f"{most / 1e6:g}",
        ) from error
    except MemoryError as error:
        raise PictureError(
            f"{name}: does not fit into memory; make it smaller first", "picture.memory"
        ) from error
    except _BROKEN as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise PictureError(
            f"{name}: broken or cut short ({reason}); save it again", "picture.broken"
        ) from error


def _too_large(name: str, width: int, height: int, most: int) -> PictureError:
    limit = most / 1_000_000
    return PictureError(
        f"{name}: {width}x{height} is above {limit:g} megapixels; make it smaller first",
        "picture.large",
        size=f"{width}x{height}",
        most=f"{limit:g}",
    )
