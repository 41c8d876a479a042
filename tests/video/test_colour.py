from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recurvid.video.colour import rgb_to_yuv420, yuv_to_rgb

# Rec. ITU-R BT.709-6, 8 bit, of the primaries at full amplitude (the 100 % colour bars that test
# generators give for high definition): Y, Cb, Cr.
BARS = {
    (255, 255, 255): (235, 128, 128),
    (255, 255, 0): (219, 16, 138),
    (0, 255, 255): (188, 154, 16),
    (0, 255, 0): (173, 42, 26),
    (255, 0, 255): (78, 214, 230),
    (255, 0, 0): (63, 102, 240),
    (0, 0, 255): (32, 240, 118),
    (0, 0, 0): (16, 128, 128),
}


def split(planar, height, width):
    flat = planar.ravel()
    quarter = height * width // 4
    chroma = flat[height * width :].reshape(2, height // 2, width // 2)
    assert flat.size == height * width + 2 * quarter
    return flat[: height * width].reshape(height, width), chroma[0], chroma[1]


@pytest.mark.parametrize(("rgb", "yuv"), BARS.items())
def test_colour_bars(rgb, yuv):
    luma, blue, red = split(rgb_to_yuv420(np.full((4, 6, 3), rgb, np.uint8)), 4, 6)
    assert np.unique(luma).tolist() == [yuv[0]]
    assert np.unique(blue).tolist() == [yuv[1]]
    assert np.unique(red).tolist() == [yuv[2]]


@given(st.integers(0, 255))
def test_grey_stays_grey(level):
    planes = split(rgb_to_yuv420(np.full((2, 2, 3), level, np.uint8)), 2, 2)
    assert planes[1][0, 0] == planes[2][0, 0] == 128
    back = yuv_to_rgb(*planes)
    assert np.ptp(back) == 0
    assert abs(int(back[0, 0, 0]) - level) <= 1


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_there_and_back(rgb):
    planes = split(rgb_to_yuv420(np.full((2, 4, 3), rgb, np.uint8)), 2, 4)
    back = yuv_to_rgb(*planes).astype(int)
    # Half a step of Cb is 0.5 * 255 / 224 * 1.8556 of blue, and half a step of Y on top.
    assert np.abs(back - np.array(rgb)).max() <= 2


def test_chroma_sits_on_even_columns():
    # One red column at x = 2: the chroma sample there sees half of it, its neighbours nothing.
    frame = np.zeros((2, 8, 3), np.uint8)
    frame[:, 2] = (255, 0, 0)
    _, _, red = split(rgb_to_yuv420(frame), 2, 8)
    assert red[0].tolist() == [128, 128 + 56, 128, 128]
    # A red column at x = 3 lies between two samples: a quarter for each.
    frame = np.zeros((2, 8, 3), np.uint8)
    frame[:, 3] = (255, 0, 0)
    _, _, red = split(rgb_to_yuv420(frame), 2, 8)
    assert red[0].tolist() == [128, 128 + 28, 128 + 28, 128]


@pytest.mark.parametrize(("matrix", "red"), [(1, 1.5748), (6, 1.402), (9, 1.4746)])
def test_matrices_and_ranges(matrix, red):
    luma = np.full((2, 2), 100, np.uint8)
    blue, cr = np.full((1, 1), 128, np.uint8), np.full((1, 1), 150, np.uint8)
    full = yuv_to_rgb(luma, blue, cr, matrix=matrix, full_range=True)
    assert full[0, 0, 0] == round(100 + red * 22)
    limited = yuv_to_rgb(luma, blue, cr, matrix=matrix)
    assert limited[0, 0, 0] == round((84 / 219 + red * 22 / 224) * 255)
    assert full[0, 0, 2] == 100


def test_odd_sizes_come_back_whole():
    luma = np.arange(15, dtype=np.uint8).reshape(3, 5) + 100
    chroma = np.full((2, 3), 128, np.uint8)
    back = yuv_to_rgb(luma, chroma, chroma, full_range=True)
    assert np.array_equal(back, np.repeat(luma[..., None], 3, axis=2))


def test_full_chroma_is_taken_as_it_is():
    luma = np.full((1, 3), 100, np.uint8)
    blue = np.full((1, 3), 128, np.uint8)
    red = np.array([[128, 150, 106]], np.uint8)
    shown = yuv_to_rgb(luma, blue, red, full_range=True)
    assert shown[0, :, 0].tolist() == [100, round(100 + 1.5748 * 22), round(100 - 1.5748 * 22)]
