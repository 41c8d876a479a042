from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from recurvid.errors import RequestError
from recurvid.video.buckets import (
    bucket_for,
    buckets,
    center_crop_resize,
    parse_size,
)

# (height, width), as published with the released models.
RELEASED = [
    (416, 960), (448, 864), (480, 832), (512, 768), (544, 704), (576, 672), (608, 640),
    (640, 608), (672, 576), (704, 544), (768, 512), (832, 480), (864, 448), (960, 416),
]  # fmt: skip


def test_the_released_table():
    assert list(buckets(640)) == RELEASED


@pytest.mark.parametrize(
    ("height", "width", "bucket"),
    [
        (1000, 1000, (640, 608)),  # a tie: |bw - bh| * 1000 = 32000 for both; the later one
        (1080, 1920, (480, 832)),
        (1920, 1080, (832, 480)),
        (720, 1280, (480, 832)),
        (3000, 4000, (544, 704)),
        (2000, 3000, (512, 768)),
        (1, 5000, (416, 960)),
        (5000, 1, (960, 416)),
        (480, 832, (480, 832)),
    ],
)
def test_nearest_released_bucket(height, width, bucket):
    assert bucket_for(height, width, 640) == bucket


def test_a_tie_within_the_table():
    # |h * bw - w * bh| for (416, 960) and (448, 864) is equal where h * 96 = -w * 32 ... never;
    # between (608, 640) and (640, 608) it is equal for every square.
    for side in (1, 7, 608, 4096):
        assert bucket_for(side, side, 640) == (640, 608)


def test_the_bundled_base():
    assert list(buckets(192)) == [(128, 288), (160, 224), (192, 192), (224, 160), (288, 128)]
    assert bucket_for(100, 100, 192) == (192, 192)
    assert bucket_for(3000, 4000, 192) == (160, 224)
    assert bucket_for(1080, 1920, 192) == (128, 288) or bucket_for(1080, 1920, 192) == (160, 224)


@given(st.integers(32, 2048))
def test_any_base(base):
    sizes = buckets(base)
    assert len(set(sizes)) == len(sizes) > 0
    assert list(sizes) == sorted(sizes)
    for height, width in sizes:
        assert height % 32 == width % 32 == 0
        assert (width, height) in sizes
        assert max(height, width) <= 2.5 * min(height, width) + 1e-9
        # The long side is off by half a unit at most, the area by that times the short side; the
        # short side itself may stand a unit above the base.
        if base != 640:
            assert abs(height * width - base * base) <= 16 * min(height, width) + 1e-9 or (
                height == width
            )


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([640, 192, 320, 512, 100]))
def test_bucket_is_nearest_and_latest(height, width, base):
    chosen = bucket_for(height, width, base)
    best, expected = float("inf"), None
    for size in buckets(base):
        metric = abs(height * size[1] - width * size[0])
        if metric <= best:
            best, expected = metric, size
    assert chosen == expected


@pytest.mark.parametrize("base", [0, -5, 31, 4097])
def test_impossible_base(base):
    with pytest.raises(RequestError, match="between 32 and 4096"):
        buckets(base)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("832x480", (480, 832)),
        ("64X128", (128, 64)),
        (" 640 × 608 ", (608, 640)),
        ("32*32", (32, 32)),
    ],
)
def test_size(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "WIDTHxHEIGHT"),
        ("832", "WIDTHxHEIGHT"),
        ("832x", "WIDTHxHEIGHT"),
        ("-832x480", "WIDTHxHEIGHT"),
        ("832x480x3", "WIDTHxHEIGHT"),
        ("8.5x480", "WIDTHxHEIGHT"),
        ("٨٣٢x480", "WIDTHxHEIGHT"),
        ("9999999999999999999999x480", "WIDTHxHEIGHT"),
        ("832x481", "height must be a multiple of 16; try 832x480"),
        ("833x480", "width must be a multiple of 16; try 832x480"),
        ("0x480", "width must be between 32 and 4096; try 32x480"),
        ("99999x16", "width must be between 32 and 4096; try 4096x32"),
    ],
)
def test_bad_size(text, message):
    with pytest.raises(RequestError, match=message) as caught:
        parse_size(text)
    assert "\n" not in str(caught.value)


def reference_crop(picture, height, width):
    """The original's steps (paper.md section 10) from PIL's own primitives."""
    if picture.shape[:2] == (height, width):
        return picture
    image = Image.fromarray(picture)
    scale = max(width / image.width, height / image.height)
    resized = image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS
    )
    box = (
        (resized.width - width) / 2,
        (resized.height - height) / 2,
        (resized.width + width) / 2,
        (resized.height + height) / 2,
    )
    return np.array(resized.crop(box))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 150),
    st.integers(1, 150),
    st.sampled_from([(32, 48), (64, 64), (96, 32), (16, 80)]),
)
def test_crop_equals_the_original(rows, columns, size):
    picture = np.random.default_rng(rows * 151 + columns).integers(
        0, 256, (rows, columns, 3), dtype=np.uint8
    )
    ours = center_crop_resize(picture, *size)
    assert ours.shape == (*size, 3)
    assert np.array_equal(ours, reference_crop(picture, *size))


def test_a_picture_of_the_size_passes_untouched():
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    assert np.array_equal(center_crop_resize(picture, 64, 96), picture)


@pytest.mark.parametrize("shape", [(1, 100_000), (100_000, 1)])
def test_a_sliver_fits_into_memory(shape):
    # Its scaled form would be 640 x 64,000,000 pixels.
    picture = np.zeros((*shape, 3), np.uint8)
    middle = picture.reshape(-1, 3)
    middle[49_990:50_010] = (255, 0, 0)
    made = center_crop_resize(picture, 640, 608)
    assert made.shape == (640, 608, 3)
    assert made[320, 304].tolist() == [255, 0, 0]


def test_the_two_ways_agree(monkeypatch):
    from recurvid.video import buckets as module

    rows, columns = np.mgrid[0:200, 0:500]
    picture = np.stack((rows % 256, columns % 256, (rows + columns) % 256), -1).astype(np.uint8)
    picture[..., 1:] = 128
    whole = center_crop_resize(picture, 96, 160).astype(int)
    monkeypatch.setattr(module, "_WHOLE_LIMIT", 0)
    cut = center_crop_resize(picture, 96, 160).astype(int)
    # Rounding of the scaled size moves the cut by less than a pixel.
    assert np.abs(whole - cut).mean() < 1.5
