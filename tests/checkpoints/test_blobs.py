"""Large files of the hub: a download that stops goes on where it stopped."""

from __future__ import annotations

import hashlib
import threading
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.checkpoints.hub_server import Hub, serve

from recurvid.checkpoints import blobs as module
from recurvid.checkpoints.blobs import Blob, ConnectionLostError, fetch_blobs
from recurvid.errors import CheckpointError

DATA = {f"w{n}.safetensors": bytes([n]) * (200_000 + n) for n in range(5)}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Hub]:
    folder = tmp_path / "served" / "org" / "name"
    folder.mkdir(parents=True)
    for name, data in DATA.items():
        (folder / name).write_bytes(data)
    with serve(tmp_path / "served") as hub:
        yield hub


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TRIES", 1)
    monkeypatch.setattr(module, "_CHUNK", 10_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "models--org--name" / "blobs"


def blob(server: Hub, name: str, etag: str | None = None) -> Blob:
    etag = etag or hashlib.sha256(DATA[name]).hexdigest()
    return Blob(name, f"{server.url}/org/name/resolve/main/{name}", etag, len(DATA[name]))


def spans(server: Hub, name: str) -> list[str | None]:
    return [span for _, asked, span in server.requested if asked == name]


def test_all_arrive_and_progress_is_told(server: Hub, folder: Path) -> None:
    told: dict[str, list[int]] = {name: [] for name in DATA}

    def progress(name: str, done: int, total: int) -> None:
        assert total == len(DATA[name])
        told[name].append(done)

    wanted = [blob(server, name) for name in DATA]
    fetch_blobs(wanted, folder, progress)
    for one in wanted:
        assert (folder / one.etag).read_bytes() == DATA[one.name]
        assert told[one.name] == sorted(told[one.name])
        assert told[one.name][-1] == one.size
        assert len(told[one.name]) >= 20
    server.requested.clear()
    fetch_blobs(wanted, folder)
    assert not server.requested


def test_stopped_and_gone_on_with(server: Hub, folder: Path) -> None:
    one = blob(server, "w1.safetensors")
    server.cut[one.name] = 150_000

    def hub_falls_ill(name: str, done: int, total: int) -> None:
        server.refused = 503

    with pytest.raises(ConnectionLostError):
        fetch_blobs([one], folder, hub_falls_ill)
    partial = folder / f"{one.etag}.incomplete"
    kept = partial.stat().st_size
    assert 0 < kept <= 150_000
    assert partial.read_bytes() == DATA[one.name][:kept]
    server.refused = None
    server.requested.clear()
    fetch_blobs([one], folder)
    assert spans(server, one.name) == [f"bytes={kept}-"]
    assert (folder / one.etag).read_bytes() == DATA[one.name]
    assert not partial.exists()


def test_broken_connection_is_taken_up_at_once(server: Hub, folder: Path) -> None:
    one = blob(server, "w2.safetensors")
    server.cut[one.name] = 70_000
    fetch_blobs([one], folder)
    asked = spans(server, one.name)
    assert asked[0] == "bytes=0-"
    assert len(asked) == 2
    assert 0 < int((asked[1] or "").removeprefix("bytes=").rstrip("-")) <= 70_000
    assert (folder / one.etag).read_bytes() == DATA[one.name]


@pytest.mark.parametrize("wrong", [b"x" * 1000, b"x" * 200_003, b"x" * 300_000])
def test_leftover_of_something_else(wrong: bytes, server: Hub, folder: Path) -> None:
    """Bytes that do not belong are noticed by the SHA-256 (or by their number) and removed."""
    one = blob(server, "w3.safetensors")
    folder.mkdir(parents=True)
    partial = folder / f"{one.etag}.incomplete"
    partial.write_bytes(wrong)
    if len(wrong) <= one.size:
        with pytest.raises(CheckpointError, match="arrived damaged"):
            fetch_blobs([one], folder)
        assert not partial.exists()
    fetch_blobs([one], folder)
    assert (folder / one.etag).read_bytes() == DATA[one.name]


def test_refusal_is_not_tried_again(
    server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TRIES", 50)
    server.refused = 403
    with pytest.raises(urllib.error.HTTPError):
        fetch_blobs([blob(server, "w0.safetensors")], folder)


def test_ctrl_c_stops_the_threads(server: Hub, folder: Path) -> None:
    before = threading.active_count()

    def interrupt(name: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_blobs([blob(server, name) for name in DATA], folder, interrupt)
    assert threading.active_count() <= before + 3  # connections of the server may linger
    assert any(folder.glob("*.incomplete"))
    fetch_blobs([blob(server, name) for name in DATA], folder)
    assert len(list(folder.iterdir())) == len(DATA)


def test_two_at_once_do_not_mix(server: Hub, folder: Path) -> None:
    one = blob(server, "w4.safetensors")
    threads = [threading.Thread(target=fetch_blobs, args=([one], folder)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (folder / one.etag).read_bytes() == DATA[one.name]
    assert spans(server, one.name) == ["bytes=0-"]
