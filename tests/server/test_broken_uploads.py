"""Broken pictures and videos, by the hundred: refused in one line, and nothing of them stays."""

from __future__ import annotations

import io
import json
import random
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image
from tests.architecture.source import ROOT
from tests.server.live_server import Live, live, png

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "TGA", "AVIF", "JPEG2000", "QOI")
SHORT, LONG = 100, 1200
_MB = 1e6


def whole_files() -> dict[str, bytes]:
    """A good file of each kind that Pillow can write here."""
    image = Image.effect_noise((48, 32), 80).convert("RGB")
    made: dict[str, bytes] = {}
    for name in FORMATS:
        file = io.BytesIO()
        try:
            image.save(file, name)
        except (OSError, KeyError, ValueError):
            continue
        made[name] = file.getvalue()
    assert len(made) >= 8
    return made


def small_videos() -> dict[str, bytes]:
    """A few frames in each container that people upload by mistake."""
    import av

    made: dict[str, bytes] = {}
    for form, codec in (("mp4", "libx264"), ("matroska", "libx264"), ("webm", "libvpx-vp9")):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "v"
            with av.open(str(path), "w", format=form) as container:
                stream: Any = container.add_stream(codec, rate=12)
                stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
                for _ in range(3):
                    frame = av.VideoFrame.from_image(Image.new("RGB", (32, 32)))
                    container.mux(stream.encode(frame))
                container.mux(stream.encode(None))
            made[form] = path.read_bytes()
    return made


def chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def bomb(width: int, height: int, lines: int) -> bytes:
    """A PNG that claims a size and holds ``lines`` empty lines of it."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes((1 + 3 * width) * lines), 9)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", data), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def text_bomb() -> bytes:
    """A PNG with a compressed comment of 200 MB."""
    comment = b"Comment\x00\x00" + zlib.compress(bytes(200_000_000), 9)
    good = png()
    return good[:33] + chunk(b"zTXt", comment) + good[33:]


def cut(data: bytes, random: random.Random) -> bytes:
    return data[: random.randrange(len(data))]


def flipped(data: bytes, random: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.randint(1, 40)):
        changed[random.randrange(len(changed))] = random.randrange(256)
    return bytes(changed)


def filled(data: bytes, random: random.Random) -> bytes:
    start = random.randrange(len(data))
    return data[:start] + bytes([random.choice((0, 255))]) * random.randint(1, 4000) + data[start:]


def noise(data: bytes, random: random.Random) -> bytes:
    return data[: random.choice((4, 8, 12, 16, 32, 64))] + random.randbytes(2000)


def doubled(data: bytes, random: random.Random) -> bytes:
    half = random.randrange(len(data))
    return data[half:] + data[:half] + data


def lengthened(data: bytes, random: random.Random) -> bytes:
    """A big number where a size may stand."""
    at = random.randrange(min(64, len(data) - 4))
    return data[:at] + struct.pack(random.choice(("<I", ">I")), 0x7FFFFFFF) + data[at + 4 :]


WAYS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    cut, flipped, filled, noise, doubled, lengthened,
)  # fmt: skip


def broken_files(count: int) -> Iterator[bytes]:
    """The same ``count`` files every time; few of them may still be pictures."""
    numbers = random.Random(20261124)
    sources = [*whole_files().values(), *small_videos().values()]
    special = [
        b"", b"\x00", b"GIF89a", b"%!PS-Adobe-3.0\n", b"%PDF-1.7\n", b"<svg onload='x'/>",
        b"#!/bin/sh\n", b"\x80\x04\x95", b"PK\x03\x04", bytes(1_000_000), b"\xff\xd8\xff" * 1000,
        bomb(60_000, 60_000, 1), bomb(20_000, 20_000, 20), bomb(1, 2**31 - 1, 3),
        bomb(2**31 - 1, 1, 0), bomb(0, 0, 0), text_bomb(), *small_videos().values(),
    ]  # fmt: skip
    yield from special
    for _ in range(count - len(special)):
        yield numbers.choice(WAYS)(numbers.choice(sources), numbers)


def resident() -> float:
    return psutil.Process().memory_info().rss / _MB


def descriptors() -> int:
    return psutil.Process().num_fds() if sys.platform != "win32" else 0


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def upload_all(server: Live, files: list[bytes]) -> dict[int, int]:
    """Upload each; returns how often each status came. What was a picture is deleted again."""
    seen: dict[int, int] = {}
    for number, data in enumerate(files):
        native = number % 2 == 0
        path, name = ("/api/jobs", "picture") if native else ("/v1/videos", "input_reference")
        answer = server.client.post(path, files={name: ("upload.png", data)}, data={})
        seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
        body = answer.json()
        if answer.status_code in (200, 201):
            assert server.client.delete(f"/api/jobs/{body['id']}").status_code == 204
            continue
        assert answer.status_code in (400, 413), (number, answer.text)
        message = body["error"]["message"]
        assert body["error"]["param"] == name
        assert "\n" not in message
        for word in (str(server.store.home), "/tmp", "Traceback", ".upload"):
            assert word not in answer.text, answer.text
    return seen


def run(server: Live, count: int) -> dict[str, object]:
    """Upload ``count`` broken files and measure what stays."""
    files = list(broken_files(count))
    upload_all(server, files[: count // 4])  # caches and arenas fill once
    temporary = Path(tempfile.gettempdir())
    before = resident(), descriptors(), files_below(server.store.home)
    seen = upload_all(server, files)
    grown = resident() - before[0]
    assert descriptors() <= before[1] + 3
    left = {p for p in files_below(server.store.home) - before[2] if "sqlite3" not in p.name}
    assert left == set()
    assert files_below(temporary) == set()
    assert sum(seen.values()) == count
    assert seen.get(400, 0) > count // 2
    assert server.client.get("/healthz").status_code == 200
    return {"files": count, "answers": seen, "grown_mb": round(grown, 1), "rss_mb": resident()}


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where large uploads lie until they are read, and nobody else's files."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


def test_broken_uploads(own_server: Live):
    found = run(own_server, SHORT)
    assert float(str(found["grown_mb"])) < 80


@pytest.mark.slow
def test_broken_uploads_at_length(tmp_path: Path):
    with live(tmp_path / "home") as server:
        found = run(server, LONG)
        assert float(str(found["grown_mb"])) < 60
        again = run(server, LONG)
    assert float(str(again["grown_mb"])) < 20  # the second time nothing is left to fill
    result = {"date": date.today().isoformat(), "first": found, "second": again}
    place = ROOT / f"benchmarks/results/broken-uploads-{result['date']}.json"
    place.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
