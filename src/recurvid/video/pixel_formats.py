"""Decoded pictures of every pixel format to 8-bit sRGB without transparency."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms

BACKGROUND = (255, 255, 255)
"""What shows through transparency: white, as on a page."""

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_SPACES = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}


def simplified(image: Image.Image) -> Image.Image:
    """The picture in L, LA, RGB, RGBA, CMYK or LAB, where averaging pixels makes sense.

    Palettes and colour keys become true colours with transparency. 16-bit greys are divided by
    257. 32-bit integers and floats carry no range: 0..1 (floats), 0..255 and 0..65535 are taken
    for what they look like, anything else is stretched from its least to its greatest value.
    """
    mode = image.mode
    if mode in _SIXTEEN_BIT or mode in ("I", "F"):
        return _with_info(_deep_grey(image), image)
    if mode in ("L", "RGB", "1") and "transparency" in image.info:
        return image.convert("RGBA")
    if mode == "P":
        return image.convert("RGBA" if "transparency" in image.info else "RGB")
    if mode in ("PA", "RGBa"):
        return image.convert("RGBA")
    if mode == "La":
        return image.convert("LA")
    if mode == "1":
        return image.convert("L")
    if mode in ("L", "LA", "RGB", "RGBA", "CMYK", "LAB"):
        return image
    return image.convert("RGB")


def to_srgb(image: Image.Image) -> Image.Image:
    """A simplified picture as RGB: ICC profile applied, transparency laid over white.

    A profile that is broken or belongs to another kind of pixels is left out, as browsers do.
    """
    if image.mode in ("LA", "RGBA"):
        alpha = image.getchannel("A")
        colours = _with_info(image.convert(image.mode[:-1]), image)
        page = Image.new("RGB", image.size, BACKGROUND)
        page.paste(_opaque_to_srgb(colours), mask=alpha)
        return page
    return _opaque_to_srgb(image)


def _opaque_to_srgb(image: Image.Image) -> Image.Image:
    if image.mode == "LAB":
        return _through(image, ImageCms.createProfile("LAB"))
    profile = _profile(image)
    if profile is not None:
        try:
            return _through(image, profile)
        except ImageCms.PyCMSError:
            pass
    return image.convert("RGB")


def _profile(image: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """The embedded profile where it is needed and fits the pixels."""
    data = image.info.get("icc_profile")
    if not isinstance(data, bytes) or not data:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        core: Any = profile.profile
        space, description = core.xcolor_space, core.profile_description or ""
    except (OSError, ValueError, TypeError):
        return None
    if space != _SPACES.get(image.mode):
        return None
    # sRGB through sRGB would move values by one; the original reads them as they are.
    return None if space == "RGB " and description.startswith("sRGB") else profile


def _through(image: Image.Image, profile: Any) -> Image.Image:
    converted = ImageCms.profileToProfile(
        image,
        profile,
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if converted is None:
        raise ImageCms.PyCMSError("no picture came back")
    return converted


def _deep_grey(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image).astype(np.uint16)
        return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    values = np.nan_to_num(np.asarray(image, dtype=np.float32), nan=0.0)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 65535:
        offset, scale = low, 255 / max(high - low, 1e-30)
    elif image.mode == "F" and high <= 1:
        offset, scale = 0.0, 255.0
    else:
        deep = high > 255 or image.format in ("PNG", "PPM")
        offset, scale = 0.0, 1 / 257 if deep else 1.0
    grey = np.clip((values - offset) * np.float32(scale) + 0.5, 0, 255)
    return Image.fromarray(grey.astype(np.uint8))


def _with_info(image: Image.Image, source: Image.Image) -> Image.Image:
    image.info = {key: value for key, value in source.info.items() if key != "transparency"}
    return image
