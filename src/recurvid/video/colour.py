"""RGB to the YUV of video files, in integers: the same bits on every machine.

ITU-R BT.709, limited ("tv") range, 4:2:0 with the chroma samples where H.264 puts them by default:
on the even columns, half way between two rows (ITU-T H.264, figure E-1, type 0). Done here and not
by swscale, whose result depends on the instruction set of the CPU and whose default matrix is
BT.601.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# BT.709 section 3.2: luma weights; the two colour differences are scaled to +-0.5.
_KR, _KB = 0.2126, 0.0722
_KG = 1 - _KR - _KB
_LUMA_BITS, _CHROMA_BITS = 16, 13


def _fixed(weights: tuple[float, float, float], scale: float, bits: int) -> list[int]:
    """Weights as fixed point numbers whose rounding errors cancel, so that grey stays grey."""
    exact = [weight * scale / 255 * 2**bits for weight in weights]
    rounded = [round(value) for value in exact]
    rounded[1] += round(sum(exact)) - sum(rounded)
    return rounded


_Y = _fixed((_KR, _KG, _KB), 219, _LUMA_BITS)
_CB = _fixed((-_KR / (2 - 2 * _KB), -_KG / (2 - 2 * _KB), 0.5), 224, _CHROMA_BITS)
_CR = _fixed((0.5, -_KG / (2 - 2 * _KR), -_KB / (2 - 2 * _KR)), 224, _CHROMA_BITS)


def rgb_to_yuv420(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert one sRGB frame to planar 4:2:0.

    Args:
        frame: (h, w, 3) uint8, both sides even.

    Returns:
        (h * 3 / 2, w) uint8: the rows of Y, then those of Cb and of Cr run together, which is
        how PyAV takes ``yuv420p``.
    """
    height, width, _ = frame.shape
    rgb = frame.astype(np.int32)
    luma = _weighted(rgb, _Y, 16, _LUMA_BITS)  # (h, w)
    sites = _at_chroma_sites(rgb)  # (h/2, w/2, 3), eight times the value
    blue = _weighted(sites, _CB, 128, _CHROMA_BITS + 3)
    red = _weighted(sites, _CR, 128, _CHROMA_BITS + 3)
    planes = (luma.ravel(), blue.ravel(), red.ravel())
    return np.concatenate(planes).reshape(height * 3 // 2, width)


def _weighted(
    rgb: NDArray[np.int32], weights: list[int], offset: int, bits: int
) -> NDArray[np.uint8]:
    rounding = (offset << bits) + (1 << (bits - 1))
    total = rgb[..., 0] * weights[0] + rgb[..., 1] * weights[1] + rgb[..., 2] * weights[2]
    return ((total + rounding) >> bits).astype(np.uint8)


def _at_chroma_sites(rgb: NDArray[np.int32]) -> NDArray[np.int32]:
    """Sum with weights (1, 2, 1) around each even column and (1, 1) over two rows."""
    rows = rgb[0::2] + rgb[1::2]  # (h/2, w, 3)
    even, odd = rows[:, 0::2], rows[:, 1::2]
    before = np.concatenate((even[:, :1], odd[:, :-1]), axis=1)
    return before + 2 * even + odd
