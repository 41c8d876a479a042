from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from clips import EVERY_CHECK
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import (
    COLOURS,
    bytes_of,
    chunk,
    corners,
    four,
    ink_profile,
    png,
    saved,
    swapped_profile,
)
from PIL import ExifTags, Image, ImageCms

from recurvid.errors import PictureError
from recurvid.video import pictures
from recurvid.video.pictures import MAX_PIXELS, load_picture

PLAIN = Image.fromarray(four())


def assert_four(path, tolerance=0):
    picture = load_picture(path)
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.flags.writeable
    assert np.abs(corners(picture) - COLOURS).max() <= tolerance
    return picture


@pytest.mark.parametrize(
    ("form", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("JPEG", {"quality": 95}, 6),
        ("JPEG", {"quality": 95, "progressive": True}, 6),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 8),
        ("GIF", {}, 0),
        ("AVIF", {"quality": 95}, 8),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("TIFF", {"compression": "tiff_adobe_deflate"}, 0),
        ("BMP", {}, 0),
        ("PPM", {}, 0),
        ("JPEG2000", {}, 0),
        ("TGA", {}, 0),
        ("QOI", {}, 0),
    ],
)
def test_formats_whatever_the_name(tmp_path, form, options, tolerance):
    assert_four(saved(PLAIN, tmp_path / "picture.png", form, **options), tolerance)


def test_heic(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    path = tmp_path / "a.heic"
    heif.from_pillow(PLAIN.resize((72, 48), 0)).save(path, quality=95)
    assert b"ftyphei" in path.read_bytes()[:12]
    assert_four(path, 8)


def test_heic_without_the_library_says_what_to_install(tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(PLAIN).save(tmp_path / "a.heic")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(PictureError, match="pip install pillow-heif"):
        load_picture(tmp_path / "a.heic")


# EXIF 2.3, tag 274: what is done to the stored pixels to see them upright.
UPRIGHT = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, 1),
}


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_rotation(tmp_path, form, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = saved(
        PLAIN, tmp_path / "a", form, exif=exif, **({"lossless": True} if form == "WEBP" else {})
    )
    picture = load_picture(path)
    expected = UPRIGHT[orientation](four())
    assert picture.shape == expected.shape
    assert np.abs(corners(picture) - corners(expected)).max() <= (20 if form == "JPEG" else 0)


@pytest.mark.parametrize("orientation", [6, 3])
def test_heic_rotation_is_applied_once(tmp_path, orientation):
    heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = heif.from_pillow(PLAIN.resize((72, 48), 0))
    file.save(tmp_path / "a.heic", quality=95, exif=exif.tobytes())
    expected = corners(UPRIGHT[orientation](four()))
    assert np.abs(corners(load_picture(tmp_path / "a.heic")) - expected).max() <= 8


@pytest.mark.parametrize("orientation", [6, 8])
def test_avif_rotation_is_applied_once(tmp_path, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = saved(PLAIN.resize((72, 48), 0), tmp_path / "a.avif", "AVIF", quality=95, exif=exif)
    expected = corners(UPRIGHT[orientation](four()))
    assert np.abs(corners(load_picture(path)) - expected).max() <= 8


def test_broken_exif_does_not_matter(tmp_path):
    for exif in (b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0", b"\xff" * 50):
        path = saved(PLAIN, tmp_path / "a.png", "PNG", exif=exif)
        assert_four(path)


def test_transparency_lies_over_white(tmp_path):
    pixels = np.dstack((four(), np.full((24, 36), 255, np.uint8)))
    pixels[:12, :18] = (10, 20, 30, 0)  # top left: nothing
    pixels[:12, 18:] = (0, 0, 0, 51)  # top right: a fifth of black
    expected = COLOURS.astype(int).copy()
    expected[0] = [(255, 255, 255), (204, 204, 204)]
    for form in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True, "exact": True} if form == "WEBP" else {}
        path = saved(Image.fromarray(pixels), tmp_path / "a", form, **options)
        assert corners(load_picture(path)).tolist() == expected.tolist()


def test_grey_with_transparency(tmp_path):
    grey = np.zeros((4, 4, 2), np.uint8)
    grey[:2, :2] = (100, 255)
    grey[2:, 2:] = (100, 0)
    grey[:2, 2:] = (0, 255)
    path = saved(Image.fromarray(grey, "LA"), tmp_path / "a.png", "PNG")
    assert corners(load_picture(path))[..., 0].tolist() == [[100, 0], [255, 255]]


def test_palette(tmp_path):
    paletted = PLAIN.quantize(8)
    assert paletted.mode == "P"
    assert_four(saved(paletted, tmp_path / "a.png", "PNG"), 1)
    assert_four(saved(paletted, tmp_path / "a.gif", "GIF"), 1)
    assert_four(saved(paletted, tmp_path / "a.bmp", "BMP"), 1)


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_palette_with_transparency(tmp_path, form):
    paletted = PLAIN.quantize(4)
    hidden = paletted.getpixel((0, 0))
    path = saved(paletted, tmp_path / "a", form, transparency=hidden)
    expected = COLOURS.astype(int).copy()
    expected[0, 0] = 255
    assert np.abs(corners(load_picture(path)) - expected).max() <= 1


def test_palette_with_an_alpha_for_each_colour(tmp_path):
    # Two colours, alpha 0x33 and 0xff (PNG specification, 11.3.2.1).
    extra = chunk(b"PLTE", bytes((0, 0, 0, 200, 100, 50))) + chunk(b"tRNS", bytes((51, 255)))
    path = tmp_path / "a.png"
    path.write_bytes(png(2, 1, depth=8, kind=3, rows=bytes((0, 1)), extra=extra))
    assert load_picture(path).tolist() == [[[204, 204, 204], [200, 100, 50]]]


def test_a_colour_that_means_transparent(tmp_path):
    # tRNS of true colour: exactly (1, 2, 3) is nothing.
    rows = bytes((1, 2, 3, 1, 2, 4))
    extra = chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))
    path = tmp_path / "a.png"
    path.write_bytes(png(2, 1, depth=8, kind=2, rows=rows, extra=extra))
    assert load_picture(path).tolist() == [[[255, 255, 255], [1, 2, 4]]]


def test_one_bit(tmp_path):
    bits = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    for form in ("PNG", "TIFF", "BMP", "PPM"):
        picture = load_picture(saved(bits, tmp_path / "a", form))
        assert picture[..., 0].tolist() == [[0, 255], [255, 0]]


DEEP = (0, 128, 129, 257, 385, 386, 32896, 65535)
# Divided by 257 and rounded.
SHALLOW = [0, 0, 1, 1, 1, 2, 128, 255]


def test_sixteen_bit_grey_png(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(8, 1, depth=16, kind=0, rows=struct.pack(">8H", *DEEP)))
    picture = load_picture(path)
    assert picture[0, :, 0].tolist() == picture[0, :, 2].tolist() == SHALLOW


def test_sixteen_bit_grey_tiff_and_pgm(tmp_path):
    image = Image.fromarray(np.array([DEEP], np.uint16))
    assert load_picture(saved(image, tmp_path / "a.tif", "TIFF"))[0, :, 0].tolist() == SHALLOW
    (tmp_path / "a.pgm").write_bytes(b"P5 8 1 65535\n" + struct.pack(">8H", *DEEP))
    assert load_picture(tmp_path / "a.pgm")[0, :, 0].tolist() == SHALLOW


def test_sixteen_bit_big_endian_tiff(tmp_path):
    image = Image.frombytes("I;16B", (8, 1), struct.pack(">8H", *DEEP))
    assert load_picture(saved(image, tmp_path / "a.tif", "TIFF"))[0, :, 0].tolist() == SHALLOW


def test_sixteen_bit_colour(tmp_path):
    values = (0xDC00, 0x2800, 0x28FF, 0x2828, 0xB4B4, 0x3C00)
    path = tmp_path / "a.png"
    path.write_bytes(png(2, 1, depth=16, kind=2, rows=struct.pack(">6H", *values)))
    exact = np.array(values).reshape(1, 2, 3) / 257
    assert np.abs(load_picture(path) - exact).max() <= 1


def test_sixteen_bit_colour_with_alpha(tmp_path):
    path = tmp_path / "a.png"
    rows = struct.pack(">8H", 0, 0, 0, 0x3333, 0xFFFF, 0, 0, 0xFFFF)
    path.write_bytes(png(2, 1, depth=16, kind=6, rows=rows))
    assert load_picture(path).tolist() == [[[204, 204, 204], [255, 0, 0]]]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((0.0, 0.25, 1.0), (0, 64, 255)),
        ((0.0, 51.0, 255.0), (0, 51, 255)),
        ((0.0, 32896.0, 65535.0), (0, 128, 255)),
        ((-1.0, 0.0, 1.0), (0, 128, 255)),
        ((-5.0, 0.0, 5e9), (0, 0, 255)),
        ((float("nan"), 0.5, 1.0), (0, 128, 255)),
        ((0.0, 0.0, 0.0), (0, 0, 0)),
    ],
)
def test_float_tiff(tmp_path, values, shown):
    path = saved(Image.fromarray(np.array([values], np.float32)), tmp_path / "a.tif", "TIFF")
    assert load_picture(path)[0, :, 0].tolist() == list(shown)


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((0, 100, 255), (0, 100, 255)),
        ((0, 32896, 65535), (0, 128, 255)),
        ((-100, 0, 100), (0, 128, 255)),
    ],
)
def test_integer_tiff(tmp_path, values, shown):
    path = saved(Image.fromarray(np.array([values], np.int32)), tmp_path / "a.tif", "TIFF")
    assert load_picture(path)[0, :, 0].tolist() == list(shown)


def test_colour_floats_are_refused_with_advice(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8, 3), np.float32))
    with pytest.raises(PictureError, match="save it as PNG or JPEG"):
        load_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk(tmp_path, form):
    # No ink, all of cyan, all of magenta, all of black.
    inks = np.array([[(0, 0, 0, 0), (255, 0, 0, 0)], [(0, 255, 0, 0), (0, 0, 0, 255)]], np.uint8)
    image = Image.fromarray(inks.repeat(16, axis=0).repeat(16, axis=1), "CMYK")
    options = {"quality": 100, "subsampling": 0} if form == "JPEG" else {}
    shown = corners(load_picture(saved(image, tmp_path / "a", form, **options)))
    expected = np.array([[(255, 255, 255), (0, 255, 255)], [(255, 0, 255), (0, 0, 0)]])
    assert np.abs(shown - expected).max() <= 4


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_with_a_profile(tmp_path, form):
    inks = np.zeros((32, 32, 4), np.uint8)
    inks[:16, 16:, 0] = inks[16:, 16:, 3] = 255  # top right: cyan; bottom right: black
    options = {"quality": 100, "subsampling": 0} if form == "JPEG" else {}
    image = Image.fromarray(inks, "CMYK")
    path = saved(image, tmp_path / "a", form, icc_profile=ink_profile(), **options)
    shown = corners(load_picture(path))
    assert shown[0, 0].min() == shown[1, 0].min() >= 250
    assert shown[0, 1, 0] > 240
    assert shown[0, 1, 1:].max() < 40
    assert shown[1, 1].max() < 8


def test_lab_tiff(tmp_path):
    # CIE L*a*b*: L 0..255 for 0..100, a and b signed. White, black, a middle grey, and red.
    lab = np.array([[(255, 0, 0), (0, 0, 0)], [(137, 0, 0), (136, 80, 67)]], np.uint8)
    image = Image.fromarray(lab.repeat(4, axis=0).repeat(4, axis=1), "LAB")
    shown = corners(load_picture(saved(image, tmp_path / "a.tif", "TIFF")))
    assert np.abs(shown[0, 0] - 255).max() <= 2
    assert shown[0, 1].max() <= 2
    assert np.abs(shown[1, 0] - 128).max() <= 4
    assert shown[1, 1, 0] > 220
    assert shown[1, 1, 1:].max() < 60


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_icc_profiles_are_applied(tmp_path, form):
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(form, {})
    path = saved(PLAIN, tmp_path / "a", form, icc_profile=swapped_profile(), **options)
    shown = corners(load_picture(path))
    # With red and green exchanged in the profile, the red corner is green and the green one red.
    assert shown[0, 0].argmax() == 1
    assert shown[0, 1].argmax() == 0
    assert np.abs(shown - COLOURS[..., [1, 0, 2]]).max() <= 8


def test_icc_with_transparency_and_palette(tmp_path):
    profile = swapped_profile()
    transparent = PLAIN.convert("RGBA")
    transparent.putpixel((35, 23), (0, 0, 0, 0))
    for image in (transparent, PLAIN.quantize(8)):
        shown = corners(load_picture(saved(image, tmp_path / "a.png", "PNG", icc_profile=profile)))
        assert np.abs(shown - COLOURS[..., [1, 0, 2]]).max() <= 8


def test_srgb_profiles_change_nothing(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = saved(Image.fromarray(noise), tmp_path / "a.png", "PNG", icc_profile=profile)
    assert np.array_equal(load_picture(path), noise)


def test_profiles_that_do_not_fit_are_left_out(tmp_path):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in (b"garbage", b"\0" * 128, lab, swapped_profile()[:200]):
        assert_four(saved(PLAIN, tmp_path / "a.png", "PNG", icc_profile=profile))
    grey = saved(PLAIN.convert("L"), tmp_path / "g.png", "PNG", icc_profile=swapped_profile())
    assert np.ptp(load_picture(grey), axis=2).max() == 0


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_the_first_picture_of_several(tmp_path, form):
    others = [Image.new("RGB", PLAIN.size, (0, 0, 0)), Image.new("RGB", PLAIN.size, (9, 9, 9))]
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100}}.get(form, {})
    path = saved(PLAIN, tmp_path / "a", form, save_all=True, append_images=others, **options)
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert_four(path, 8 if form == "AVIF" else 0)


def test_mpo_of_stereo_cameras(tmp_path):
    path = saved(PLAIN, tmp_path / "a.jpg", "MPO", save_all=True, quality=95,
                 append_images=[Image.new("RGB", PLAIN.size)])  # fmt: skip
    assert_four(path, 25)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 1)])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF"])
def test_tiny(tmp_path, size, form):
    picture = load_picture(saved(Image.new("RGB", size, (90, 90, 90)), tmp_path / "a", form))
    assert picture.shape == (size[1], size[0], 3)
    assert np.abs(picture.astype(int) - 90).max() <= 2


def message(path):
    with pytest.raises(PictureError) as caught:
        load_picture(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.count(os.path.basename(path)) == 1
    assert len(text) < 150 + len(str(path))
    return text


def test_missing_folder_empty_text(tmp_path):
    assert "no such file" in message(tmp_path / "no.png")
    (tmp_path / "folder.png").mkdir()
    assert "is a folder" in message(tmp_path / "folder.png")
    (tmp_path / "empty.png").touch()
    assert "is empty" in message(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("Dear diary")
    assert "not a picture" in message(tmp_path / "text.png")
    (tmp_path / "page.png").write_text("<!doctype html><title>404</title>")
    assert "not a picture" in message(tmp_path / "page.png")
    (tmp_path / "x.png").write_text("x")
    assert "not a picture" in message(tmp_path / "x.png")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
def test_special_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a regular file" in message(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    assert "loop.png" in message(tmp_path / "loop.png")
    (tmp_path / "dead.png").symlink_to(tmp_path / "nothing")
    assert "no such file" in message(tmp_path / "dead.png")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may read anything")
def test_unreadable(tmp_path):
    saved(PLAIN, tmp_path / "a.png", "PNG").chmod(0)
    assert "cannot be opened" in message(tmp_path / "a.png")


def test_impossible_names(tmp_path):
    assert "cannot be opened" in message(tmp_path / ("n" * 300))
    with pytest.raises(PictureError):
        load_picture("a\0b.png")


def test_videos_are_recognised(tmp_path, make_segments):
    video = make_segments(2)[0]
    shutil.move(video, tmp_path / "a.png")
    assert "is a video" in message(tmp_path / "a.png")
    for name, head in {
        "a.webm": b"\x1aE\xdf\xa3" + b"\0" * 40,
        "a.avi": b"RIFF\0\0\0\0AVI LIST",
    }.items():
        (tmp_path / name).write_bytes(head)
        assert "is a video" in message(tmp_path / name)


@pytest.mark.parametrize(
    "head", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"%PDF-1.4\n"]
)
def test_nothing_is_handed_to_ghostscript(tmp_path, head):
    (tmp_path / "a.eps").write_bytes(head + b"showpage\n")
    assert "not a picture" in message(tmp_path / "a.eps")


FORMS = ["PNG", "JPEG", "WEBP", "GIF", "AVIF", "TIFF", "BMP", "PPM", "JPEG2000", "TGA", "QOI"]


@pytest.mark.parametrize("form", FORMS)
def test_cut_short(tmp_path, form):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = bytes_of(Image.fromarray(noise), form)
    path = tmp_path / "a.img"
    path.write_bytes(whole[: len(whole) // 2])
    # JPEG 2000 is made to be shown from its first half on; all others are refused.
    if form == "JPEG2000":
        try:
            assert load_picture(path).shape == (64, 64, 3)
        except PictureError:
            message(path)
    else:
        assert "a.img" in message(path)


@pytest.fixture(scope="module")
def samples():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    made = [bytes_of(PLAIN, form) for form in FORMS]
    made += [bytes_of(PLAIN, form, exif=exif, icc_profile=swapped_profile())
             for form in ("PNG", "JPEG", "WEBP", "TIFF")]  # fmt: skip
    made += [
        bytes_of(PLAIN.quantize(4), "PNG", transparency=1),
        bytes_of(PLAIN.convert("CMYK"), "TIFF"),
    ]
    made.append(bytes_of(Image.fromarray(np.array([DEEP], np.uint16)), "TIFF"))
    return made


@settings(deadline=None, max_examples=300, suppress_health_check=EVERY_CHECK)
@given(st.data())
def test_damaged_files_give_a_picture_or_one_line(samples, tmp_path_factory, data):
    whole = bytearray(data.draw(st.sampled_from(samples)))
    for _ in range(data.draw(st.integers(0, 6))):
        # Headers are where it hurts.
        end = data.draw(st.sampled_from([64, len(whole)]))
        whole[data.draw(st.integers(0, min(end, len(whole)) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(whole), len(whole) - 1, len(whole) // 2, 40]))
    path = tmp_path_factory.getbasetemp() / "damaged.img"
    path.write_bytes(whole[:cut])
    try:
        picture = load_picture(path)
    except PictureError as error:
        text = str(error)
    else:
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3
        return
    assert "\n" not in text
    assert "damaged.img" in text


@pytest.mark.parametrize("size", [(20_000, 20_000), (2**31 - 1, 2**31 - 1), (14_000, 13_000)])
def test_bombs_are_refused_before_they_are_decoded(tmp_path, size):
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))
    (tmp_path / "bomb.png").write_bytes(data)
    assert "megapixels" in message(tmp_path / "bomb.png")


def test_the_limit_is_what_the_message_says(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_PIXELS", 24 * 36 - 1)
    path = saved(PLAIN, tmp_path / "a.png", "PNG")
    assert "36x24" in message(path)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 24 * 36)
    assert_four(path)
    assert 100_000_000 < MAX_PIXELS < 200_000_000


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1", "I;16", "F"])
def test_large_pictures_come_back_reduced_and_right(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(pictures, "REDUCED_ABOVE", 1000)
    base = Image.fromarray(four(96, 144))
    if mode == "P":
        image = base.quantize(8)
    elif mode == "I;16":
        image = Image.fromarray(np.asarray(base.convert("L")).astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(np.asarray(base.convert("L")).astype(np.float32) / 255)
    else:
        image = base.convert(mode)
    form = "PNG" if mode in ("RGB", "L", "P", "RGBA", "1") else "TIFF"
    small = load_picture(saved(image, tmp_path / "a", form))
    assert small.shape[0] * small.shape[1] <= 1000
    assert small.shape[:2] == (24, 36)
    monkeypatch.undo()
    whole = load_picture(tmp_path / "a")
    if mode == "1":
        expected = whole.reshape(24, 4, 36, 4, 3).mean((1, 3))
        assert np.abs(small - expected).max() <= 1
    else:
        assert np.abs(corners(small) - corners(whole)).max() <= 1


def test_large_jpegs_are_halved_by_the_decoder(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "REDUCED_ABOVE", 1000)
    path = saved(Image.fromarray(four(192, 288)), tmp_path / "a.jpg", "JPEG", quality=95)
    small = load_picture(path)
    assert small.shape[0] * small.shape[1] <= 1000
    assert abs(small.shape[1] / small.shape[0] - 1.5) < 0.05
    assert np.abs(corners(small) - COLOURS).max() <= 8


def test_transparent_large_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "REDUCED_ABOVE", 1000)
    pixels = np.dstack((four(96, 144), np.full((96, 144), 255, np.uint8)))
    pixels[:48, :72, 3] = 0
    expected = COLOURS.astype(int).copy()
    expected[0, 0] = 255
    for image in (Image.fromarray(pixels), Image.fromarray(four(96, 144)).quantize(4)):
        options = {} if image.mode == "RGBA" else {"transparency": image.getpixel((0, 0))}
        shown = corners(load_picture(saved(image, tmp_path / "a.png", "PNG", **options)))
        assert np.abs(shown - expected).max() <= 1


MEASURE = """
import resource, sys
from recurvid.video.pictures import load_picture
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
picture = load_picture(sys.argv[1])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(picture.shape[0], picture.shape[1], (after - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="kilobytes of ru_maxrss")
def test_a_hundred_megapixels_fit(tmp_path):
    rows = zlib.compressobj(1)
    line = b"\0" + bytes((10, 200, 30)) * 10_000
    data = b"".join(rows.compress(line) for _ in range(10_000)) + rows.flush()
    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    path = tmp_path / "large.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], check=True, capture_output=True, text=True
    )
    height, width, megabytes = map(int, done.stdout.split())
    assert (height, width) == (5000, 5000)
    assert done.stderr == ""
    assert megabytes < 1000
