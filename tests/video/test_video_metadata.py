from __future__ import annotations

import io
import json
import os
import struct

import av
import pytest
from clips import EVERY_CHECK
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from recurvid.errors import InputError
from recurvid.video.assembly import concatenate
from recurvid.video.destination import destination
from recurvid.video.finish import finish
from recurvid.video.metadata import LIMIT, embedded, read_metadata

REQUEST = {"prompt": "a cat, „Katze“ \U0001f408\r\n", "seed": 31337, "list": [0.1, None, True]}


@pytest.fixture
def finished(tmp_path, settings, make_segments):
    def make(name, metadata):
        place = destination(f"{tmp_path}/{name}")
        finish(make_segments(3, 2), place, settings, metadata=metadata)
        return place.path.parent if place.kind == "png" else place.path

    return make


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "frames/"])
def test_comes_back_from_every_kind(finished, name):
    path = finished(name, REQUEST)
    assert read_metadata(path) == REQUEST
    assert str(path.parent) not in embedded(REQUEST)


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "frames/"])
def test_nothing_embedded_nothing_read(finished, name):
    path = finished(name, None)
    assert read_metadata(path) is None
    for file in [path] if path.is_file() else path.iterdir():
        assert b"recurvid" not in file.read_bytes()


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "frames/"])
def test_a_long_request(finished, name):
    request = {"prompts": ["word " * 100] * 200}
    assert read_metadata(finished(name, request)) == request


def test_the_name_does_not_matter(finished, tmp_path):
    path = finished("a.mp4", REQUEST)
    path.rename(tmp_path / "a.gif")
    assert read_metadata(tmp_path / "a.gif") == REQUEST


def test_common_tools_see_it(finished):
    with av.open(str(finished("a.mp4", REQUEST))) as container:
        assert json.loads(container.metadata["comment"]) == {"recurvid": REQUEST}
    with Image.open(finished("a.gif", REQUEST)) as image:
        assert json.loads(image.info["comment"]) == {"recurvid": REQUEST}


def test_too_long_or_no_json_is_refused():
    with pytest.raises(InputError, match="at most"):
        embedded({"prompt": "x" * LIMIT})
    with pytest.raises(ValueError, match="JSON"):
        embedded({"x": float("nan")})
    with pytest.raises(TypeError):
        embedded({"x": object()})


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_metadata(tmp_path / "no.mp4")
    with pytest.raises(InputError, match="is not a regular file"):
        read_metadata(tmp_path)


def png_with(text):
    info, data = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_text("Comment", text)
    Image.new("RGB", (2, 2)).save(data, "PNG", pnginfo=info)
    return data.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "[1, 2]",
        '"recurvid"',
        '{"prompt": {"1": {"class_type": "KSampler"}}}',
        '{"recurvid": [1]}',
        '{"recurvid": null}',
        '{"recurvid": {"a": 1}',
        "[" * 100_000,
        '{"recurvid": {"a": ' + "9" * 20_000 + "}}",
        "",
    ],
)
def test_other_comments_are_none(tmp_path, text):
    path = tmp_path / "a.png"
    path.write_bytes(png_with(text))
    assert read_metadata(path) is None


def test_a_comment_over_the_limit_is_none(tmp_path, make_segments):
    text = json.dumps({"recurvid": {"x": "y" * LIMIT}})
    path = tmp_path / "a.png"
    path.write_bytes(png_with(text))
    assert read_metadata(path) is None
    source = make_segments(1)[0]
    with av.open(str(source)) as given, av.open(str(tmp_path / "a.mp4"), "w") as target:
        target.metadata["comment"] = text
        stream = target.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    assert read_metadata(tmp_path / "a.mp4") is None


def test_an_index_of_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "a.mp4"
    with path.open("wb") as file:
        file.write(struct.pack(">I4s8x", 16, b"ftyp"))
        file.write(struct.pack(">I4sQ", 1, b"moov", 3 << 30))
        try:
            os.truncate(file.fileno(), 3 << 30)
        except OSError:
            pytest.skip("no sparse files here")
    assert read_metadata(path) is None


def test_a_playlist_is_not_followed(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n")
    assert read_metadata(path) is None


def test_json_that_says_the_same_key_twice_is_data(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png_with('{"recurvid": {"a": 1, "a": 2}}'))
    assert read_metadata(path) == {"a": 2}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    import numpy as np

    from recurvid.video.encoders import VideoSettings, exact_fps
    from recurvid.video.writer import SegmentWriter

    folder, using = tmp_path_factory.mktemp("samples"), VideoSettings(exact_fps(12))
    with SegmentWriter(folder / "s.mp4", using) as writer:
        writer.write(np.zeros((2, 32, 32, 3), np.uint8))
    files = [folder / name for name in ("a.mp4", "a.webm", "a.gif", "%d.png")]
    for file in files:
        finish([folder / "s.mp4"], destination(file), using, metadata=REQUEST)
    return [file.with_name(file.name % 0 if "%" in file.name else file.name) for file in files]


@settings(deadline=None, max_examples=150, suppress_health_check=EVERY_CHECK)
@given(st.data())
def test_damaged_files_give_none_or_an_object(samples, tmp_path_factory, data):
    whole = bytearray(data.draw(st.sampled_from(samples)).read_bytes())
    for _ in range(data.draw(st.integers(0, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(whole[:cut])
    assert isinstance(read_metadata(path), dict | None)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200))
@example(b"GIF89a" + b"\x01" * 6)
@example(b"GIF89a" + b"\x00" * 7 + b"\x21\xfe" + b"\xff" * 100)
@example(b"\x89PNG\r\n\x1a\n" + b"\xff" * 40)
@example(b"\x00\x00\x00\x08ftyp\x00\x00\x00\x00moov")
@example(b"\x00\x00\x00\x08ftyp\x00\x00\x00\x02free")
@example(b"\x1aE\xdf\xa3")
def test_any_bytes(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "bytes"
    path.write_bytes(content)
    assert read_metadata(path) is None


def test_concatenate_replaces_metadata(tmp_path, make_segments):
    segments = make_segments(2)
    concatenate(segments, tmp_path / "a.mp4", metadata={"a": 1})
    concatenate(segments, tmp_path / "a.mp4", metadata={"a": 2})
    assert read_metadata(tmp_path / "a.mp4") == {"a": 2}
