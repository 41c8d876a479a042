from __future__ import annotations

import os

import numpy as np
import pytest
from clips import moving_frames
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from recurvid.errors import OutputError
from recurvid.video.contact_sheet import contact_sheet, evenly_spaced, write_picture


def test_grid_holds_the_frames_row_by_row():
    frames = moving_frames(0, 5, 20, 96)
    sheet = contact_sheet(frames, columns=2, gap=3)
    assert sheet.shape == (3 * 23 + 3, 2 * 99 + 3, 3)
    for number, frame in enumerate(frames):
        top, left = 3 + number // 2 * 23, 3 + number % 2 * 99
        assert np.array_equal(sheet[top : top + 20, left : left + 96], frame)
    assert (sheet[:3] == 255).all()
    assert (sheet[-20:, -96:] == 255).all()


def test_other_sizes_are_centred_and_scaled():
    frames = [np.zeros((10, 30, 3), np.uint8), np.zeros((30, 10, 3), np.uint8)]
    sheet = contact_sheet(frames, columns=2, gap=0)
    assert sheet.shape == (30, 60, 3)
    assert (sheet[10:20, :30] == 0).all()
    assert (sheet[:10, :30] == 255).all()
    assert (sheet[:, 40:50] == 0).all()
    small = contact_sheet(frames, columns=2, gap=0, cell=15)
    assert small.shape == (15, 30, 3)


def test_no_frames():
    with pytest.raises(ValueError, match="needs a frame"):
        contact_sheet([])


@given(st.integers(1, 5000), st.integers(1, 50))
def test_evenly_spaced(frames, count):
    chosen = evenly_spaced(frames, count)
    assert len(chosen) == min(frames, count)
    assert chosen == sorted(set(chosen))
    assert chosen[0] == 0
    if count > 1:
        assert chosen[-1] == frames - 1
        gaps = np.diff(chosen)
        assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(
    ("name", "form"), [("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.webp", "WEBP")]
)
def test_written_whole(tmp_path, name, form):
    pixels = moving_frames(0, 1)[0]
    write_picture(tmp_path / name, pixels)
    with Image.open(tmp_path / name) as image:
        assert image.format == form
        assert np.abs(np.asarray(image).astype(int) - pixels).mean() < 4
    assert os.listdir(tmp_path) == [name]


def test_unwritable(tmp_path):
    pixels = moving_frames(0, 1)[0]
    with pytest.raises(OutputError, match=r"use \.png"):
        write_picture(tmp_path / "a.xyz", pixels)
    with pytest.raises(OutputError, match="cannot write"):
        write_picture(tmp_path / "no" / "a.png", pixels)
