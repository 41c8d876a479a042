"""RGB to the YUV of video files and back, in integers: the same bits on every machine.

4:2:0 with the chroma samples where H.264 puts them by default: on the even columns, half way
between two rows (ITU-T H.264, figure E-1, type 0). Done here and not by swscale, whose result
depends on its version and on the instruction set of the CPU, truncates, and takes BT.601 by
default.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# ITU-T H.273, table 4, MatrixCoefficients: the weights of red and blue in luma. 1 is BT.709.
_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
_LUMA_BITS, _CHROMA_BITS, _BACK_BITS = 16, 13, 14


def _fixed(weights: tuple[float, float, float], scale: int, bits: int) -> list[int]:
    """Weights as fixed point numbers whose rounding errors cancel, so that grey stays grey."""
    exact = [weight * scale / 255 * 2**bits for weight in weights]
    rounded = [round(value) for value in exact]
    rounded[1] += round(sum(exact)) - sum(rounded)
    return rounded


_KR, _KB = _WEIGHTS[1]
_KG = 1 - _KR - _KB
_Y = _fixed((_KR, _KG, _KB), 219, _LUMA_BITS)
_CB = _fixed((-_KR / (2 - 2 * _KB), -_KG / (2 - 2 * _KB), 0.5), 224, _CHROMA_BITS)
_CR = _fixed((0.5, -_KG / (2 - 2 * _KR), -_KB / (2 - 2 * _KR)), 224, _CHROMA_BITS)


def rgb_to_yuv420(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert one sRGB frame to BT.709, limited range, planar 4:2:0.

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


def yuv_to_rgb(
    luma: NDArray[np.uint8],
    blue: NDArray[np.uint8],
    red: NDArray[np.uint8],
    *,
    matrix: int = 1,
    full_range: bool = False,
) -> NDArray[np.uint8]:
    """Convert planar 4:2:0, its chroma interpolated linearly, or planar 4:4:4 to RGB.

    Args:
        luma: (h, w) uint8.
        blue, red: (ceil(h / 2), ceil(w / 2)) or (h, w) uint8, Cb and Cr.
        matrix: MatrixCoefficients of ITU-T H.273 (1 BT.709, 5 and 6 BT.601, 9 BT.2020).
        full_range: luma is 0..255 and not 16..235.

    Returns:
        (h, w, 3) uint8.
    """
    kr, kb = _WEIGHTS[matrix]
    kg = 1 - kr - kb
    luma_gain, chroma_gain = (1.0, 1.0) if full_range else (255 / 219, 255 / 224)
    height, width = luma.shape
    # Chroma comes eight times too large out of the interpolation, luma is brought there.
    to_y = round(luma_gain * 2**_BACK_BITS) * 8
    y = (luma.astype(np.int32) - (0 if full_range else 16)) * to_y + (1 << (_BACK_BITS + 2))
    whole = blue.shape == luma.shape
    cb = _eightfold(blue) if whole else _at_every_pixel(blue)[:height, :width]
    cr = _eightfold(red) if whole else _at_every_pixel(red)[:height, :width]

    def weight(value: float) -> int:
        return round(value * chroma_gain * 2**_BACK_BITS)

    rgb = np.empty((height, width, 3), np.int32)
    rgb[..., 0] = y + cr * weight(2 - 2 * kr)
    rgb[..., 1] = y - cr * weight(kr * (2 - 2 * kr) / kg) - cb * weight(kb * (2 - 2 * kb) / kg)
    rgb[..., 2] = y + cb * weight(2 - 2 * kb)
    rgb >>= _BACK_BITS + 3
    return np.clip(rgb, 0, 255).astype(np.uint8)


def _eightfold(chroma: NDArray[np.uint8]) -> NDArray[np.int32]:
    return (chroma.astype(np.int32) - 128) * 8


def _at_every_pixel(chroma: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Signed chroma, eight times the value: (h, w) to (2 h, 2 w)."""
    sites = chroma.astype(np.int32) - 128
    above = np.concatenate((sites[:1], sites[:-1]))
    below = np.concatenate((sites[1:], sites[-1:]))
    rows = np.stack((3 * sites + above, 3 * sites + below), axis=1)  # (h, 2, w)
    rows = rows.reshape(-1, sites.shape[1])
    after = np.concatenate((rows[:, 1:], rows[:, -1:]), axis=1)
    return np.stack((2 * rows, rows + after), axis=2).reshape(rows.shape[0], -1)
